from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript, Word
from stenopool.writers import render

SCHEMA = json.loads(files("stenopool").joinpath("transcript.schema.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)

Document = dict[str, Any]

EXAMPLE = Transcript(
    text="Hello there.",
    language="en",
    language_probability=0.98,
    task="transcribe",
    duration=2.5,
    segments=(
        Segment(
            id=0,
            start=0.25,
            end=1.5,
            text="Hello there.",
            avg_logprob=-0.25,
            no_speech_prob=0.01,
            compression_ratio=0.75,
            words=(Word(" Hello", 0.25, 0.75, 0.9), Word(" there.", 0.75, 1.5, 0.8)),
            flags=("low_probability",),
        ),
    ),
    coverage=Coverage(1.25, 1.25, 0.0),
    model=ModelInfo("base", "0123456789abcdef" * 4, "ctranslate2", "int8"),
    timing=Timing(0.125, 0.05),
    flags=("media_damaged",),
)

seconds = st.floats(0, 1e6)
probabilities = st.floats(0, 1)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
flags = st.lists(names, max_size=2).map(tuple)
words = st.builds(Word, texts, seconds, seconds, probabilities)
segments = st.builds(
    Segment,
    id=st.integers(0, 10**9),
    start=seconds,
    end=seconds,
    text=texts,
    avg_logprob=st.floats(-100, 0),
    no_speech_prob=probabilities,
    compression_ratio=st.floats(0, 1000),
    words=st.lists(words, max_size=3).map(tuple),
    flags=flags,
)
transcripts = st.builds(
    Transcript,
    text=texts,
    language=st.sampled_from(["en", "de", "yue", "haw"]),
    language_probability=probabilities,
    task=st.sampled_from(["transcribe", "translate"]),
    duration=seconds,
    segments=st.lists(segments, max_size=3).map(tuple),
    coverage=st.builds(Coverage, seconds, seconds, seconds),
    model=st.builds(ModelInfo, names, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), names, names),
    timing=st.builds(Timing, seconds, st.floats(0, 1000)),
    flags=flags,
    schema=st.just("stenopool.transcript/1"),
)


def rounded(one: Transcript) -> Transcript:
    """What may be lost on the way through a file: less than a millisecond of each time."""

    def ms(time: float) -> float:
        return round(time, 3)

    return replace(
        one,
        duration=ms(one.duration),
        segments=tuple(
            replace(
                part,
                start=ms(part.start),
                end=ms(part.end),
                words=tuple(replace(w, start=ms(w.start), end=ms(w.end)) for w in part.words),
            )
            for part in one.segments
        ),
        coverage=Coverage(
            ms(one.coverage.speech_seconds),
            ms(one.coverage.transcribed_seconds),
            ms(one.coverage.dropped_seconds),
        ),
        timing=replace(one.timing, wall_seconds=ms(one.timing.wall_seconds)),
    )


@settings(max_examples=60, deadline=None)
@given(transcripts)
def test_a_written_transcript_reads_back_and_fits_the_schema(one: Transcript) -> None:
    data = json.loads(render(one, "json"))
    VALIDATOR.validate(data)
    assert Transcript.from_dict(data) == rounded(one)


def test_plain_data_reads_back_unchanged() -> None:
    assert Transcript.from_dict(EXAMPLE.to_dict()) == EXAMPLE


def test_the_schema_is_itself_valid() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_example_fits_the_schema() -> None:
    VALIDATOR.validate(written())


def written() -> Document:
    data: Document = json.loads(render(EXAMPLE, "json"))
    return data


def parts(data: Document) -> dict[str, Document]:
    segment = data["segments"][0]
    return {
        "transcript": data,
        "segment": segment,
        "word": segment["words"][0],
        "coverage": data["coverage"],
        "model": data["model"],
        "timing": data["timing"],
    }


FIELDS = [(part, key) for part, fields in parts(written()).items() for key in fields]
SECONDS = [
    ("transcript", "duration"),
    *((part, key) for part in ("segment", "word") for key in ("start", "end")),
    *(("coverage", f"{kind}_seconds") for kind in ("speech", "transcribed", "dropped")),
    ("timing", "wall_seconds"),
]
PROBABILITIES = [
    ("transcript", "language_probability"),
    ("segment", "no_speech_prob"),
    ("word", "probability"),
]
WRONG: list[tuple[str, str, object]] = [
    *((part, key, -0.001) for part, key in SECONDS + PROBABILITIES),
    *((part, key, 1.001) for part, key in PROBABILITIES),
    ("timing", "real_time_factor", -1),
    ("segment", "compression_ratio", -1),
    ("segment", "id", -1),
    ("segment", "id", 0.5),
    ("segment", "flags", [1]),
    ("segment", "flags", [""]),
    ("transcript", "flags", [None]),
    ("transcript", "schema", "stenopool.transcript/2"),
    ("transcript", "task", "summarise"),
    ("transcript", "language", "English"),
    ("transcript", "language", ""),
    ("transcript", "segments", [None]),
    ("segment", "words", ["Hello"]),
    ("model", "name", ""),
    ("model", "engine", ""),
    ("model", "precision", ""),
    ("model", "sha256", "0123456789ABCDEF" * 4),
    ("model", "sha256", "0" * 63),
    ("model", "sha256", "0" * 65),
]


def refuses(change: Callable[[dict[str, Document]], object]) -> bool:
    data = written()
    change(parts(data))
    return not VALIDATOR.is_valid(data)


@pytest.mark.parametrize(("part", "key"), FIELDS)
def test_schema_refuses_a_missing_field(part: str, key: str) -> None:
    assert refuses(lambda found: found[part].pop(key))


@pytest.mark.parametrize(("part", "key"), FIELDS)
def test_schema_refuses_a_field_of_another_type(part: str, key: str) -> None:
    assert refuses(lambda found: found[part].update({key: None}))
    wrong = 1 if isinstance(parts(written())[part][key], str) else "1"
    assert refuses(lambda found: found[part].update({key: wrong}))


@pytest.mark.parametrize("part", parts(written()))
def test_schema_refuses_an_unknown_field(part: str) -> None:
    assert refuses(lambda found: found[part].update(speaker="Ann"))


@pytest.mark.parametrize(("part", "key", "value"), WRONG)
def test_schema_refuses_a_value_out_of_range(part: str, key: str, value: object) -> None:
    assert refuses(lambda found: found[part].update({key: value}))


def test_another_version_is_not_read() -> None:
    with pytest.raises(ValueError, match=r"stenopool\.transcript/2"):
        Transcript.from_dict(EXAMPLE.to_dict() | {"schema": "stenopool.transcript/2"})


def test_unknown_and_missing_fields_are_not_read() -> None:
    with pytest.raises(TypeError, match="speaker"):
        Transcript.from_dict(EXAMPLE.to_dict() | {"speaker": "Ann"})
    incomplete = EXAMPLE.to_dict()
    del incomplete["coverage"]
    with pytest.raises(KeyError, match="coverage"):
        Transcript.from_dict(incomplete)
