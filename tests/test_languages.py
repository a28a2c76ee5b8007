from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.decoding.languages import LANGUAGES, WITHOUT_SPACES, language_code
from stenopool.errors import UnknownName


def test_whisper_knows_a_hundred_languages() -> None:
    assert len(LANGUAGES) == 100
    assert len(set(LANGUAGES.values())) == 100
    assert set(LANGUAGES) > WITHOUT_SPACES


@given(st.sampled_from(sorted(LANGUAGES)), st.sampled_from([str.lower, str.upper, str.title]))
def test_codes_and_names_are_found_in_any_case(code: str, cased: Callable[[str], str]) -> None:
    assert language_code(cased(code)) == code
    assert language_code(f" {cased(LANGUAGES[code])} ") == code


def test_auto_stays_auto() -> None:
    assert language_code("Auto") == "auto"


def test_misspelt_language_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="`germna`") as error:
        language_code("germna")
    assert "german" in error.value.do


@pytest.mark.parametrize("name", ["", "  ", "xx-unknown", "12345"])
def test_nothing_near_is_refused_with_what_to_give(name: str) -> None:
    with pytest.raises(UnknownName) as error:
        language_code(name)
    assert "`auto`" in error.value.do
