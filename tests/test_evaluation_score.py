from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.errors import UsageError
from stenopool.evaluation import extras
from stenopool.evaluation.normalise import normaliser, normaliser_name
from stenopool.evaluation.score import Counts, pooled, score

ENGLISH = normaliser("en")
TEXT = st.lists(st.sampled_from(["a1", "b2", "c3", "d4"]), max_size=12).map(" ".join)


def plain(text: str) -> str:
    return " ".join(text.split())


# --- normalisers -------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "EN", "English", "en-GB", "en_US", " en "])
def test_english_has_a_normaliser_of_its_own(language: str) -> None:
    assert normaliser_name(language) == "whisper-english"
    assert normaliser(language)("Mr. Brown WON'T pay twenty-one dollars!") == (
        normaliser("en")("mister brown will not pay $21")
    )


@pytest.mark.parametrize("language", [None, "", "de", "German", "zxx", "tlh"])
def test_other_languages_have_the_basic_one(language: str | None) -> None:
    assert normaliser_name(language) == "whisper-basic"
    assert normaliser(language)("Grüße, Mr. Brown!") == "grüße mr brown"


@pytest.mark.parametrize("language", ["ja", "Chinese", "zh-TW", "th"])
def test_languages_without_spaces_are_compared_letter_by_letter(language: str) -> None:
    assert normaliser(language)("東京、です") == "東 京 で す"


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "jiwer" else name)
    with pytest.raises(UsageError, match=r"not installed: jiwer$") as raised:
        extras.check_extras()
    assert raised.value.do == "Run `pip install 'stenopool[evaluate]'`"


# --- counts, by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "wer"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", (0, 0, 0), 0.0),
        ("the cat sat on the mat", "the bat sat on mat", (1, 1, 0), 2 / 6),
        ("the cat sat", "the big cat sat down", (0, 0, 2), 2 / 3),
        ("the cat sat", "", (0, 3, 0), 1.0),
        ("yes", "no no no", (1, 0, 2), 3.0),
        ("", "thank you", (0, 0, 2), None),
        ("", "", (0, 0, 0), None),
    ],
)
def test_errors_are_those_counted_by_hand(
    reference: str, hypothesis: str, errors: tuple[int, int, int], wer: float | None
) -> None:
    counts = score([reference], hypothesis, ENGLISH).counts
    assert (counts.substitutions, counts.deletions, counts.insertions) == errors
    assert counts.wer == (None if wer is None else pytest.approx(wer))


def test_spelling_and_punctuation_are_no_errors() -> None:
    assert (
        score(
            ["He said: it's colour, Mr. Ox?"], "he said it is color mister ox", ENGLISH
        ).counts.errors
        == 0
    )


def test_letters_are_counted_with_spaces() -> None:
    counts = score(["the cat"], "the cut", ENGLISH).counts
    assert (counts.letters, counts.letter_errors) == (7, 1)
    assert counts.cer == pytest.approx(1 / 7)


@given(TEXT, TEXT)
def test_letters_are_those_that_another_library_counts(reference: str, hypothesis: str) -> None:
    counts = score([reference], hypothesis, plain).counts
    if reference:
        assert counts.cer == pytest.approx(jiwer.cer(reference, hypothesis))
    else:
        assert (counts.cer, counts.letter_errors) == (None, len(hypothesis))


def test_rate_is_pooled_over_words_and_not_over_recordings() -> None:
    long, short = score(["a b c d e f g h"], "a b c d e f g h", plain), score(["x y"], "", plain)
    assert pooled([long, short]).wer == pytest.approx(2 / 10)
    assert pooled([]).wer is None


@given(TEXT, TEXT)
def test_alignment_accounts_for_every_word(reference: str, hypothesis: str) -> None:
    found = score([reference], hypothesis, plain)
    assert [word for one in found.chunks for word in one.reference] == reference.split()
    assert [word for one in found.chunks for word in one.hypothesis] == hypothesis.split()
    counted = Counts(
        len(reference.split()),
        sum(len(one.reference) for one in found.chunks if one.kind == "substitute"),
        sum(len(one.reference) for one in found.chunks if one.kind == "delete"),
        sum(len(one.hypothesis) for one in found.chunks if one.kind == "insert"),
        found.counts.letters,
        found.counts.letter_errors,
    )
    assert counted == found.counts
    assert (found.counts.errors == 0) == (reference == hypothesis)


# --- utterances of long recordings -------------------------------------------------------------


def by_unit(references: list[str], hypothesis: str) -> list[tuple[int, int, int, int]]:
    units = score(references, hypothesis, plain).units
    return [(one.words, one.substitutions, one.deletions, one.insertions) for one in units]


def test_errors_belong_to_the_utterance_they_are_in() -> None:
    assert by_unit(["a b c", "d e", "f g h"], "a x c d e more g h") == [
        (3, 1, 0, 0),
        (2, 0, 0, 0),
        (3, 1, 0, 0),
    ]
    assert by_unit(["a b", "c d"], "a d") == [(2, 0, 1, 0), (2, 0, 1, 0)]


def test_inserted_words_belong_to_the_utterance_before_them() -> None:
    assert by_unit(["a b", "c d"], "a b and c d end") == [(2, 0, 0, 1), (2, 0, 0, 1)]
    assert by_unit(["a b", "c d"], "so a b c d") == [(2, 0, 0, 1), (2, 0, 0, 0)]


def test_utterance_in_which_nothing_is_said_has_no_words() -> None:
    assert by_unit(["a", "", "b"], "a b") == [(1, 0, 0, 0), (0, 0, 0, 0), (1, 0, 0, 0)]


def test_numbers_that_melt_across_a_border_are_counted_once() -> None:
    found = score(["he was twenty", "one night he left"], "He was 21 night he left", ENGLISH)
    assert found.counts.errors == 0
    assert sum(unit.words for unit in found.units) == found.counts.words == 6


@given(st.lists(TEXT, min_size=1, max_size=5), TEXT)
def test_utterances_add_up_to_the_recording(references: list[str], hypothesis: str) -> None:
    found = score(references, hypothesis, plain)
    total = sum(found.units, Counts())
    assert len(found.units) == len(references)
    assert [unit.words for unit in found.units] == [len(one.split()) for one in references]
    assert (total.words, total.errors) == (found.counts.words, found.counts.errors)


# --- loops -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "repeated", "runs"),
    [
        ("a b c d e", "a b c d e", 0, 1),
        ("a b c d e", "a b c d e a b c d e", 1, 6),
        ("a b c d e", "a b c d e a b c d e a b c d e", 6, 11),
        ("a b c d e a b c d e", "a b c d e a b c d e", 0, 6),
        ("a b c d e a b c d e", "a b c d e a b c d e a b c d e", 5, 11),
        ("", "no no no no no no no", 2, 3),
        ("a b", "a b", 0, 0),
    ],
)
def test_repeated_sequences_beyond_the_reference_are_loops(
    reference: str, hypothesis: str, repeated: int, runs: int
) -> None:
    found = score([reference], hypothesis, plain)
    assert (found.repeated, found.runs) == (repeated, runs)
