from __future__ import annotations

from pathlib import Path

import pytest

from fakes import FakeEngine, story, window_of
from stenopool.audio.windows import Window
from stenopool.decoding.language import DETECTION_WINDOWS, UNDETERMINED, Language, detected
from stenopool.decoding.tokens import Vocabulary


@pytest.fixture(scope="module")
def vocabulary(models_dir: Path) -> Vocabulary:
    return Vocabulary(models_dir / "tiny.en" / "tokenizer.json")


def windows(count: int) -> list[Window]:
    return [window_of(story(4), at=10 * number) for number in range(count)]


def test_given_language_is_certain() -> None:
    assert Language.given("de") == Language("de", 1.0)
    assert Language.given("de").known


def test_auto_is_not_known_yet() -> None:
    assert Language.given("auto") == Language(UNDETERMINED, 0.0)
    assert not Language.given("auto").known


def test_probabilities_of_the_windows_are_averaged(vocabulary: Vocabulary) -> None:
    answers = [{"de": 0.6, "nl": 0.4}, {"de": 0.1, "nl": 0.8, "af": 0.1}]
    engine = FakeEngine(vocabulary, languages=answers)
    found = detected(windows(2), engine)
    assert found.code == "nl"
    assert found.probability == pytest.approx(0.6)


def test_clear_first_window_needs_no_second(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary, languages=[{"fr": 0.9, "it": 0.1}, {"it": 1.0}])
    assert detected(windows(4), engine) == Language("fr", 0.9)
    assert engine.detected == 1


def test_doubtful_first_window_asks_the_next_ones_until_it_is_clear(
    vocabulary: Vocabulary,
) -> None:
    answers = [{"fr": 0.85, "it": 0.15}, {"fr": 0.99, "it": 0.01}]
    engine = FakeEngine(vocabulary, languages=answers)
    found = detected(windows(4), engine)
    assert found.code == "fr"
    assert found.probability == pytest.approx(0.92)
    assert engine.detected == 2


def test_no_more_windows_are_asked_than_the_limit(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary, languages=[{"fr": 0.5, "it": 0.4}])
    found = detected(windows(10), engine)
    assert found.code == "fr"
    assert found.probability == pytest.approx(0.5)
    assert engine.detected == DETECTION_WINDOWS


def test_nobody_speaks_no_language(vocabulary: Vocabulary) -> None:
    engine = FakeEngine(vocabulary)
    assert detected([], engine) == Language(UNDETERMINED, 0.0)
    assert engine.detected == 0
