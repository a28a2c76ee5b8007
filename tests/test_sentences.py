from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.decoding.sentences import LONG_SECONDS, LONGEST_SECONDS, segments
from stenopool.transcript import Segment, Word

FIGURES = Figures(-0.3, 0.1, 1.5, ())


def words_of(text: str, *, at: float = 0.0, each: float = 0.4) -> list[Word]:
    return [
        Word(f" {word}", at + number * each, at + (number + 1) * each, 0.9)
        for number, word in enumerate(text.split())
    ]


def reading(words: list[Word], figures: Figures = FIGURES) -> Reading:
    return Reading(tuple(words), figures, 0.0, words[-1].end if words else 0.0)


def split(*readings: Reading, keep_words: bool = True) -> list[Segment]:
    return list(segments(readings, keep_words=keep_words))


def texts(text: str, **how: float) -> list[str]:
    return [segment.text for segment in split(reading(words_of(text, **how)))]


@pytest.mark.parametrize("mark", list(".?!…。？！"))
def test_sentence_ends_at_its_mark(mark: str) -> None:
    assert texts(f"So it is{mark} And so") == [f"So it is{mark}", "And so"]


@pytest.mark.parametrize("closing", ['"', "'", "”", "’)", "]", "»"])
def test_closing_marks_stay_with_the_sentence(closing: str) -> None:
    assert texts(f"He left.{closing} And so") == [f"He left.{closing}", "And so"]


@pytest.mark.parametrize("name", ["Mr.", "Mrs.", "Dr.", "St.", "prof.", "e.g."])
def test_abbreviation_ends_no_sentence(name: str) -> None:
    assert texts(f"I met {name} Lorry today.") == [f"I met {name} Lorry today."]


def test_number_with_a_point_ends_no_sentence() -> None:
    assert texts("About 3.5 of them") == ["About 3.5 of them"]


def test_pause_ends_a_segment_whatever_the_punctuation() -> None:
    before, after = words_of("and then", at=0.0), words_of("he came", at=2.0)
    assert [one.text for one in split(reading([*before, *after]))] == ["and then", "he came"]
    near = words_of("he came", at=before[-1].end + 0.9)
    assert len(split(reading([*before, *near]))) == 1


def test_comma_ends_a_segment_only_when_it_is_long() -> None:
    text = "one two three, four five six, seven eight nine, ten eleven"
    assert len(texts(text, each=0.5)) == 1
    assert texts(text, each=LONG_SECONDS / 5) == [
        "one two three, four five six,",
        "seven eight nine, ten eleven",
    ]


def test_no_segment_is_much_longer_than_the_longest() -> None:
    found = split(reading(words_of("word " * 200, each=0.5)))
    assert all(one.end - one.start <= LONGEST_SECONDS + 0.5 for one in found)
    assert len(found) == 5


def test_sentence_reaches_over_readings_and_has_the_figures_of_the_most_doubtful() -> None:
    doubtful = Figures(-0.8, 0.4, 2.2, ("repetition",))
    slow = Figures(-0.5, 0.2, 1.0, ("low_probability", "repetition"))
    (segment,) = split(
        reading(words_of("it was")),
        reading(words_of("the best", at=0.8), doubtful),
        reading(words_of("of times.", at=1.6), slow),
    )
    assert segment.text == "it was the best of times."
    assert (segment.start, segment.end) == pytest.approx((0.0, 2.4))
    assert segment.avg_logprob == -0.8
    assert segment.no_speech_prob == 0.4
    assert segment.compression_ratio == 2.2
    assert segment.flags == ("repetition", "low_probability")


def test_words_are_kept_only_when_asked_for() -> None:
    one = reading(words_of("So it is."))
    assert split(one)[0].words == one.words
    assert split(one, keep_words=False)[0].words == ()
    assert split(one, keep_words=False)[0].text == "So it is."


def test_readings_without_words_give_no_segment() -> None:
    assert split(reading([])) == []
    assert len(split(reading([]), reading(words_of("So it is.")), reading([]))) == 1


def test_segment_is_given_as_soon_as_the_next_one_begins() -> None:
    taken: list[int] = []

    def readings() -> Iterator[Reading]:
        for number in range(3):
            taken.append(number)
            yield reading(words_of("So it is.", at=number * 1.2))

    stream = segments(readings(), keep_words=True)
    assert next(stream).id == 0
    assert taken == [0, 1]


marked_words = st.from_regex(r"[a-z]{1,8}[.,?]?", fullmatch=True)


@given(st.lists(st.tuples(marked_words, st.floats(0.05, 3), st.floats(0, 2)), max_size=60))
def test_no_word_is_lost_and_segments_are_numbered_in_order(
    spoken: list[tuple[str, float, float]],
) -> None:
    words: list[Word] = []
    at = 0.0
    for text, length, gap in spoken:
        words.append(Word(f" {text}", at, at + length, 0.9))
        at += length + gap
    found = split(reading(words))
    assert [word for one in found for word in one.words] == words
    assert [one.id for one in found] == list(range(len(found)))
    assert " ".join(one.text for one in found) == "".join(word.word for word in words).strip()
    for one in found:
        assert (one.start, one.end) == (one.words[0].start, one.words[-1].end)
