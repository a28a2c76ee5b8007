from __future__ import annotations

import html
import json
import re

import pytest

from stenopool.errors import UnknownName
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript, Word
from stenopool.writers import FORMATS, document, render

ARROW_LINE = re.compile(r"(\d{2,}):(\d\d):(\d\d)([,.])(\d{3}) --> (\d{2,}):(\d\d):(\d\d)\4(\d{3})")


def transcript(*segments: Segment, duration: float = 10.0) -> Transcript:
    return Transcript(
        text=" ".join(segment.text for segment in segments),
        language="en",
        language_probability=1.0,
        task="transcribe",
        duration=duration,
        segments=segments,
        coverage=Coverage(5.0, 4.0004, 1.0),
        model=ModelInfo("base", "0a" * 32, "ctranslate2", "int8"),
        timing=Timing(0.5, 0.05),
    )


def segment(start: float, end: float, text: str, *words: Word) -> Segment:
    return Segment(0, start, end, text, -0.25, 0.01, 1.5, words)


def milliseconds(hours: str, minutes: str, seconds: str, ms: str) -> int:
    assert int(minutes) < 60
    assert int(seconds) < 60
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(ms)


def parsed_cue(times: str, lines: list[str], mark: str) -> tuple[int, int, list[str]]:
    found = ARROW_LINE.fullmatch(times)
    assert found, times
    assert found[4] == mark
    assert lines
    assert all(line.strip() for line in lines)
    assert not any("-->" in line for line in lines)
    return milliseconds(*found.group(1, 2, 3, 5)), milliseconds(*found.group(6, 7, 8, 9)), lines


def parsed_srt(document: str) -> list[tuple[int, int, list[str]]]:
    """What a player that forgives nothing reads."""
    if not document:
        return []
    assert document.endswith("\n")
    blocks = [block.split("\n") for block in document[:-1].split("\n\n")]
    assert [block[0] for block in blocks] == [str(k) for k in range(1, len(blocks) + 1)]
    return [parsed_cue(times, lines, ",") for _, times, *lines in blocks]


def parsed_vtt(document: str) -> list[tuple[int, int, list[str]]]:
    assert document.endswith("\n")
    header, *blocks = document[:-1].split("\n\n")
    assert header.strip() == "WEBVTT"
    cues = [parsed_cue(times, lines, ".") for times, *lines in (b.split("\n") for b in blocks)]
    for _, _, lines in cues:
        assert not any(re.search(r"[<>]|&(?!amp;|lt;|gt;)", line) for line in lines)
    return [(start, end, [html.unescape(line) for line in lines]) for start, end, lines in cues]


TWO = transcript(
    segment(0.5, 2.0, "Good morning."),
    segment(3661.0004, 3663.25, "Ask R&D: is 1 < 2?"),
    duration=3665.0,
)


def test_plain_text_has_one_line_for_each_segment() -> None:
    assert render(TWO, "txt") == "Good morning.\nAsk R&D: is 1 < 2?\n"


def test_table_has_a_header_and_whole_milliseconds() -> None:
    assert render(TWO, "tsv") == (
        "start\tend\ttext\n500\t2000\tGood morning.\n3661000\t3663250\tAsk R&D: is 1 < 2?\n"
    )


def test_subrip_numbers_its_cues_and_writes_commas() -> None:
    assert render(TWO, "srt") == (
        "1\n00:00:00,500 --> 00:00:02,000\nGood morning.\n"
        "\n"
        "2\n01:01:01,000 --> 01:01:03,250\nAsk R&D: is 1 < 2?\n"
    )


def test_webvtt_has_its_header_points_and_escapes() -> None:
    assert render(TWO, "vtt") == (
        "WEBVTT\n"
        "\n"
        "00:00:00.500 --> 00:00:02.000\nGood morning.\n"
        "\n"
        "01:01:01.000 --> 01:01:03.250\nAsk R&amp;D: is 1 &lt; 2?\n"
    )


def test_json_is_readable_complete_and_rounded_to_milliseconds() -> None:
    spoken = segment(0.1234567, 1.0, "Grüße", Word("Grüße", 0.1234567, 1.0, 0.123456789))
    written = render(transcript(spoken), "json")
    assert written.startswith('{\n  "schema": "stenopool.transcript/1",\n  "text": "Grüße",\n')
    assert written.endswith("}\n")
    data = json.loads(written)
    assert data == document(transcript(spoken))
    assert data["segments"] == [
        {
            "id": 0,
            "start": 0.123,
            "end": 1.0,
            "text": "Grüße",
            "avg_logprob": -0.25,
            "no_speech_prob": 0.01,
            "compression_ratio": 1.5,
            "words": [{"word": "Grüße", "start": 0.123, "end": 1.0, "probability": 0.123456789}],
            "flags": [],
        }
    ]
    assert data["coverage"]["transcribed_seconds"] == 4.0


@pytest.mark.parametrize(
    ("format", "expected"),
    [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start\tend\ttext\n")],
)
def test_silence_makes_an_empty_document(format: str, expected: str) -> None:
    assert render(transcript(), format) == expected


@pytest.mark.parametrize("format", ["txt", "srt", "vtt"])
def test_segment_without_text_is_not_written(format: str) -> None:
    spoken = segment(3.0, 4.0, "Yes.")
    with_empty_ones = transcript(segment(0.0, 1.0, ""), segment(1.0, 2.0, " \x00\n"), spoken)
    assert render(with_empty_ones, format) == render(transcript(spoken), format)


@pytest.mark.parametrize("format", ["txt", "srt", "vtt", "tsv"])
def test_line_breaks_tabs_and_controls_in_a_text_are_flattened(format: str) -> None:
    dirty = segment(0.0, 2.0, " one\r\n\r\ntwo\tthree\u2028four\x00\x1b[5\x85six\x9f ")
    clean = segment(0.0, 2.0, "one two three four[5 six")
    assert render(transcript(dirty), format) == render(transcript(clean), format)


def test_an_arrow_in_a_text_cannot_begin_another_cue() -> None:
    hostile = transcript(segment(0.0, 2.0, "00:00:00.000 --> 00:00:01.000 <b>&amp;"))
    [(_, _, srt_lines)] = parsed_srt(render(hostile, "srt"))
    assert " ".join(srt_lines) == "00:00:00.000 → 00:00:01.000 <b>&amp;"
    [(_, _, vtt_lines)] = parsed_vtt(render(hostile, "vtt"))
    assert " ".join(vtt_lines) == "00:00:00.000 --> 00:00:01.000 <b>&amp;"


def test_subtitle_formats_hold_the_same_cues() -> None:
    text = "It was late, and the train had gone. " * 8
    long = transcript(segment(1.0, 31.0, text.strip()), segment(31.0, 35.0, "The end."))
    cues = parsed_srt(render(long, "srt"))
    assert cues == parsed_vtt(render(long, "vtt"))
    assert len(cues) > 4
    assert " ".join(" ".join(lines) for _, _, lines in cues) == text + "The end."


@pytest.mark.parametrize("format", ["srt", "vtt", "tsv", "json"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_time_that_is_no_number_is_refused(format: str, wrong: float) -> None:
    for broken in (segment(wrong, 1.0, "One"), segment(0.0, wrong, "One")):
        with pytest.raises(ValueError, match=r"finite|JSON compliant"):
            render(transcript(segment(0.0, 1.0, "Zero"), broken), format)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_can_be_encoded_and_is_the_same_each_time(format: str) -> None:
    odd = transcript(segment(0.0, 1.0, "lone \ud800 surrogate"), *TWO.segments)
    written = render(odd, format)
    assert written.encode().decode() == written
    assert written == render(odd, format)
    assert "lone ? surrogate" in written


def test_formats_are_those_that_commands_offer() -> None:
    assert FORMATS == ("txt", "srt", "vtt", "tsv", "json")


@pytest.mark.parametrize("format", ["docx", "SRT", ""])
def test_unknown_format_is_refused_with_the_known_ones(format: str) -> None:
    with pytest.raises(UnknownName) as refused:
        render(TWO, format)
    assert f"`{format}`" in refused.value.what
    assert all(f"`{known}`" in refused.value.do for known in FORMATS)
