from __future__ import annotations

import pytest

from stenopool.data.text import normalised, oddity


@pytest.mark.parametrize(
    ("way", "text", "wanted"),
    [
        ("none", "  Well,\tyes\n", "Well, yes"),
        ("none", "Cafe\u0301", "Café"),
        ("lower", "Well, YES!", "well, yes!"),
        ("letters", "Well — it’s 'fine', isn't it?", "well it's fine isn't it"),
        ("letters", "mother-in-law", "mother in law"),
        ("letters", "Ünü-İzmir, ŁÓDŹ", "ünü i̇zmir łódź"),
        ("letters", "हिन्दी।", "हिन्दी"),
        ("letters", "!?", ""),
    ],
)
def test_text_is_written_in_the_way_that_was_asked_for(way: str, text: str, wanted: str) -> None:
    assert normalised(text, way) == wanted


@pytest.mark.parametrize("way", ["none", "lower", "letters"])
def test_to_normalise_twice_changes_nothing(way: str) -> None:
    once = normalised("Well — it’s ‘FINE’,  isn't IT?", way)
    assert normalised(once, way) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\x07b", "control"),
        ("caf\ufffd", "lost"),
        ("hello <unk>", "markup"),
        ("[noise]", "markup"),
        ("...", "no letters"),
        ("3 apples", "digits"),
    ],
)
def test_text_that_nobody_said_is_odd(text: str, said: str) -> None:
    assert said in (oddity(text, "letters") or "")


def test_digits_are_odd_only_where_letters_are_wanted() -> None:
    assert oddity("3 apples", "none") is None
    assert oddity("plain words", "letters") is None
