from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript, Word
from stenopool.writers.breaks import CHARACTER, CLAUSE, SENTENCE, SPACE, cut_cost, join, units
from stenopool.writers.cues import Cue, cues

LONGEST_MS = 7000


def transcript(*segments: Segment) -> Transcript:
    return Transcript(
        text="",
        language="en",
        language_probability=1.0,
        task="transcribe",
        duration=10.0,
        segments=segments,
        coverage=Coverage(0.0, 0.0, 0.0),
        model=ModelInfo("base", "0" * 64, "ctranslate2", "int8"),
        timing=Timing(0.0, 0.0),
    )


def segment(start: float, end: float, text: str, *words: Word) -> Segment:
    return Segment(0, start, end, text, -0.25, 0.01, 1.5, words)


def spoken(*words: tuple[str, float, float]) -> Segment:
    """A segment made of words, as recognition makes it."""
    timed = [Word(word, start, end, 0.9) for word, start, end in words]
    return segment(
        timed[0].start, timed[-1].end, "".join(word.word for word in timed).strip(), *timed
    )


def of(text: str, start: float = 0.0, end: float = 60.0) -> list[Cue]:
    return cues(transcript(segment(start, end, text)))


def texts(made: list[Cue]) -> list[str]:
    return [cue.text.replace("\n", " ") for cue in made]


def solid(text: str) -> str:
    return "".join(text.split())


def assert_sound(made: list[Cue]) -> None:
    for cue in made:
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(line == line.strip() != "" for line in lines)
        assert max(map(cell_len, lines)) <= 42
        assert 0 <= cue.start_ms < cue.end_ms <= cue.start_ms + LONGEST_MS
    for before, after in pairwise(made):
        assert before.end_ms <= after.start_ms


seconds = st.floats(0, 90) | st.sampled_from([0.0, 1.0, 5.0, 5.0004, 5.0006, -3.0, 1e9, 1.7e308])
characters = st.sampled_from(
    "aaaeiou.,!?-\"'«»(あ私、。ー語กำเ한\u0301\ufe0f❤😀\u200d#&<>\t\n\x00 "
)
tokens = st.text(characters, min_size=1, max_size=12) | st.sampled_from(
    ["Dr.", "one", "two,", "three.", "«", "»", "-->", "w" * 43, "語" * 60, "http://a.b/" * 9]
)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    pieces = draw(st.lists(tokens, max_size=25))
    times = draw(st.lists(seconds, min_size=2 * len(pieces), max_size=2 * len(pieces)))
    if draw(st.booleans()):
        times.sort()
    words = [
        Word(" " + piece, start, end, 0.5)
        for piece, start, end in zip(pieces, times[::2], times[1::2], strict=True)
    ]
    start, end = draw(seconds), draw(seconds)
    kept = words if draw(st.booleans()) else words[:1]
    return segment(start, end, " ".join(pieces), *kept)


@settings(max_examples=150, deadline=None)
@given(st.lists(segments(), max_size=5))
@example([segment(0, 0, "a b"), segment(0, 0, "c d"), segment(0, 0, "e f")])
@example([segment(9, 3, "x" * 10_000), segment(1, 1, "語" * 5_000), segment(2, 8, "e\u0301" * 999)])
@example([segment(1.7e308, 1.7e308, "w " * 900), segment(0, 5, "after all that")])
@example([segment(0, 0, "one two " * 900), segment(0.001, 1, "three")])
@example([segment(0, 5, "*" * 41 + "#\ufe0f" + " !\ufe0f" * 40)])
def test_no_transcript_breaks_the_rules_of_subtitles(drawn: list[Segment]) -> None:
    made = cues(transcript(*drawn))
    assert_sound(made)
    said = solid("".join(one.text for one in drawn).replace("\x00", ""))
    assert solid("".join(cue.text for cue in made)) == said


prose = st.lists(
    st.sampled_from(["so", "we", "went", "to", "harbour,", "slowly.", "It", "rained!"])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(prose, st.floats(0, 3), st.floats(1, 30)), max_size=6))
def test_words_stay_whole_and_cues_within_their_segments(
    passages: list[tuple[list[str], float, float]],
) -> None:
    at, drawn = 0.0, []
    for words, pause, length in passages:
        if words:
            drawn.append(segment(at + pause, at + pause + length, " ".join(words)))
            at = drawn[-1].end
    made = cues(transcript(*drawn))
    assert_sound(made)
    assert " ".join(texts(made)).split() == " ".join(one.text for one in drawn).split()
    for one in drawn:
        inside = [cue for cue in made if one.start <= (cue.start_ms + 0.5) / 1000 < one.end]
        if one.end - one.start >= 0.8 * (len(one.text) // 84 + 1):  # else it borrows time
            assert " ".join(texts(inside)) == one.text
            assert inside[-1].end_ms <= one.end * 1000 + 0.5


@given(st.lists(tokens, max_size=30).map(" ".join))
def test_units_give_their_text_back_and_fit_a_line(text: str) -> None:
    text = " ".join(text.split())
    parts = units(text)
    assert join(parts) == text
    assert all(cell_len(part.text) <= part.columns <= 42 for part in parts)


def test_short_text_is_one_cue_of_one_line() -> None:
    assert of("Good morning.", 1.0, 3.0) == [Cue(1000, 3000, "Good morning.")]


def test_sentence_end_is_preferred_to_clause_and_space() -> None:
    made = of("We left at noon, as planned. The road was empty, so we were there before anyone.")
    assert made[0].text == "We left at noon, as planned."


def test_clause_is_preferred_to_space() -> None:
    text = "When the last of the guests had finally gone home, somebody had to wash up it all again"
    assert texts(of(text, 0.0, 6.0)) == [
        "When the last of the guests had finally gone home,",
        "somebody had to wash up it all again",
    ]


def test_lines_are_cut_at_a_clause_and_balanced() -> None:
    [cue] = of("If it rains again tomorrow, we stay at home and read.", 0.0, 5.0)
    assert cue.text == "If it rains again tomorrow,\nwe stay at home and read."
    [cue] = of("The quick brown fox jumps over the lazy dog that lies there", 0.0, 5.0)
    assert cue.text == "The quick brown fox jumps over\nthe lazy dog that lies there"


@pytest.mark.parametrize("name", ["Dr. Livingstone", "J. Livingstone", "(Mrs. Livingstone"])
def test_abbreviation_does_not_end_a_sentence(name: str) -> None:
    text = f"nobody who was there that day could have known that {name} was on the other side of it"
    assert any(name in line for line in texts(of(text)))


@pytest.mark.parametrize(
    ("before", "after", "cost"),
    [
        ("end.", " Next", SENTENCE),
        ('end."', " Next", SENTENCE),
        ("語。", "語", SENTENCE),
        ("end,", " next", CLAUSE),
        ("-", " next", CLAUSE),
        ("語、", "語", CLAUSE),
        ("end", " next", SPACE),
        ("(Dr.", " Next", SPACE),
        ("語", "語", CHARACTER),
    ],
)
def test_places_to_cut_have_their_rank(before: str, after: str, cost: float) -> None:
    assert SENTENCE < CLAUSE < SPACE < CHARACTER
    first, second = units(before + after)
    assert (first.text, second.text) == (before, after.strip())
    assert cut_cost(first, second) == cost


def test_point_inside_an_address_does_not_end_a_sentence() -> None:
    address = units("https://www.example.org/" + "a.b" * 20)
    assert len(address) > 2
    assert {cut_cost(*pair) for pair in pairwise(address)} == {CHARACTER}


def test_a_short_clause_is_not_left_alone() -> None:
    text = "Nevertheless, all the people who had been waiting since morning went home late at night"
    made = of(text, 0.0, 6.0)
    assert len(made) == 2
    assert made[0].text != "Nevertheless,"


def test_a_short_sentence_may_stand_alone() -> None:
    long = "Nobody in the whole town would have believed that it could ever end like this."
    assert texts(of(f"{long} Never.", 0.0, 6.0)) == [long, "Never."]


@pytest.mark.parametrize("count", range(2, 60))
def test_no_cue_is_left_with_a_stray_word(count: int) -> None:
    made = of(" ".join(["something"] * count), 0.0, count * 0.5)
    assert min(len(cue.text.split()) for cue in made) > 1


def test_wide_characters_count_two_columns() -> None:
    made = of("漢" * 43, 0.0, 10.0)
    assert len(made) == 2
    assert max(len(line) for cue in made for line in cue.text.split("\n")) <= 21


@pytest.mark.parametrize(
    "parts",
    [
        ["「そ", "う、」", "と", "彼", "は", "言っ", "た。"],
        ["Python3", "を", "使", "う。"],
        ["น้ำ", "ใจ", "เส", "ม", "อ"],
        ["prêts !", " Oui :", " « Non »"],
        ["said", ' "Never', ' again."'],
    ],
)
def test_signs_that_may_not_begin_or_end_a_line_stay_with_their_letter(parts: list[str]) -> None:
    assert [" " * unit.spaced + unit.text for unit in units("".join(parts))] == parts


def test_a_sign_without_width_does_not_begin_a_line() -> None:
    assert {unit.text for unit in units("a\u2060" * 60)} == {"a\u2060"}


def test_times_come_from_the_words() -> None:
    made = cues(
        transcript(
            spoken(
                *((f" word{k}", k * 0.1, k * 0.1 + 0.1) for k in range(8)),
                (" end.", 0.8, 1.5),
                *((f" next{k}", 4.0 + k * 0.2, 4.2 + k * 0.2) for k in range(8)),
                (" done.", 5.6, 6.25),
            )
        )
    )
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(0, 1500), (4000, 6250)]


def test_a_long_pause_inside_a_segment_shows_nothing() -> None:
    first = [(" so", 0.0, 0.5), (" it", 0.5, 0.8), (" began", 0.8, 1.2)]
    later = [(" and", 20.0, 20.4), (" then", 20.4, 20.9), (" ended", 20.9, 21.5)]
    made = cues(transcript(spoken(*first, *later)))
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(0, 1200), (20_000, 21_500)]


def test_words_that_spell_another_text_are_not_believed() -> None:
    other = Word(" something else", 5.0, 5.1, 0.5)
    [cue] = cues(transcript(segment(1.0, 4.0, "The text.", other)))
    assert (cue.start_ms, cue.end_ms) == (1000, 4000)


def test_little_text_does_not_stay_for_a_long_segment() -> None:
    assert of("Hello there, everybody.", 10.0, 70.0) == [
        Cue(10_000, 17_000, "Hello there, everybody.")
    ]


def test_a_flash_borrows_from_the_silence_after_it_only() -> None:
    made = cues(
        transcript(segment(1.0, 1.1, "Yes."), segment(5.0, 5.1, "No."), segment(5.3, 7, "So."))
    )
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [
        (1000, 1800),
        (5000, 5300),
        (5300, 7000),
    ]


def test_a_segment_that_reaches_into_the_next_is_shortened() -> None:
    made = cues(transcript(segment(0.0, 5.0, "One."), segment(3.0, 8.0, "Two.")))
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(0, 3000), (3000, 8000)]


def test_segments_that_claim_the_same_time_share_it() -> None:
    made = cues(transcript(segment(2.0, 6.0, "One."), segment(2.0, 6.0, "Two.")))
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(2000, 4000), (4000, 6000)]


def test_times_that_run_backwards_are_put_in_the_order_of_the_text() -> None:
    made = cues(transcript(segment(5.0, 8.0, "One."), segment(4.0, 2.0, "Two.")))
    assert texts(made) == ["One.", "Two."]
    assert [(cue.start_ms, cue.end_ms) for cue in made] == [(5000, 8000), (8000, 8800)]


def test_word_times_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        cues(transcript(segment(0.0, 1.0, "Hm", Word("Hm", float("nan"), 1.0, 0.5))))
