from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sounds import late_tone, write_wav
from stenopool.audio import SAMPLE_RATE, media
from stenopool.data import read
from stenopool.data.corrected import _Heard
from stenopool.data.prepare import Preparation, prepare
from stenopool.data.wav import wav
from stenopool.errors import InputNotFound, UsageError
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript
from stenopool.writers.plain import json_document


def document(*segments: tuple[float, float, str]) -> str:
    made = tuple(
        Segment(number, start, end, text, -0.1, 0.0, 1.0)
        for number, (start, end, text) in enumerate(segments)
    )
    return json_document(
        Transcript(
            text=" ".join(one.text for one in made),
            language="en",
            language_probability=1.0,
            task="transcribe",
            duration=3.0,
            segments=made,
            coverage=Coverage(3.0, 3.0, 0.0),
            model=ModelInfo("tiny.en", "0" * 64, "openvino", "int8"),
            timing=Timing(1.0, 0.3),
        )
    )


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    for name in ("output/calls", "processed/calls"):
        (tmp_path / "bucket" / name).mkdir(parents=True)
    write_wav(tmp_path / "bucket" / "processed/calls/a b.wav", late_tone(3.0, 1.5))
    text = document((0.0, 1.0, "quiet"), (1.5, 3.0, "A tone."), (3.0, 3.5, "  "))
    (tmp_path / "bucket" / "output/calls/a b.wav.json").write_text(text, encoding="utf-8")
    return tmp_path / "bucket"


def test_each_segment_of_a_bucket_is_a_recording(bucket: Path) -> None:
    found = list(read(bucket))
    assert [(one.id, one.text) for one in found] == [
        ("calls/a b.wav#00000", "quiet"),
        ("calls/a b.wav#00001", "A tone."),
    ]
    assert {(one.speaker, one.language) for one in found} == {("calls/a b.wav", "en")}


def test_segments_are_cut_out_of_their_recording(bucket: Path, tmp_path: Path) -> None:
    prepare([str(bucket)], tmp_path / "out", Preparation())
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    durations = {line["text"]: line["duration"] for line in map(json.loads, lines)}
    assert durations == {"quiet": 1.0, "a tone": 1.5}
    for line in map(json.loads, lines):
        assert line["audio"].startswith("audio/")
    assert len(list((tmp_path / "out" / "audio").iterdir())) == 2


def test_transcript_beside_its_recording_is_read(tmp_path: Path) -> None:
    write_wav(tmp_path / "talk.wav", late_tone(2.0, 0.5))
    (tmp_path / "talk.json").write_text(document((0.5, 2.0, "hello")), encoding="utf-8")
    (tmp_path / "talk.txt").write_text("hello")
    (found,) = read(tmp_path)
    assert (found.id, found.text) == ("talk.wav#00000", "hello")
    assert found.stored is not None
    sound = np.frombuffer(found.stored()[44:], dtype="<i2")
    assert len(sound) == 24_000
    assert np.abs(sound[:1000]).max() > 5000


def test_other_json_is_left_alone(bucket: Path) -> None:
    (bucket / "output" / "settings.json").write_text('{"a": 1}')
    assert len(list(read(bucket))) == 2


def test_transcript_without_its_recording_is_an_error_or_left_out(bucket: Path) -> None:
    (bucket / "processed/calls/a b.wav").unlink()
    with pytest.raises(InputNotFound, match=r"a b\.wav"):
        list(read(bucket))
    noted: list[Exception] = []
    assert list(read(bucket, on_bad=noted.append)) == []
    assert [type(one) for one in noted] == [InputNotFound]


@pytest.mark.parametrize(
    "change",
    [
        {"segments": [{"id": 0}]},
        {"schema": "stenopool.transcript/99"},
        {"segments": None},
    ],
)
def test_damaged_transcript_is_named(bucket: Path, change: dict[str, Any]) -> None:
    path = bucket / "output/calls/a b.wav.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=r"a b\.wav\.json` is no transcript"):
        list(read(bucket))


@pytest.mark.parametrize("times", [(2.0, 1.0), (-1.0, 1.0), (0.0, float("inf")), ("a", 1.0)])
def test_segment_without_a_stretch_of_time_is_named(bucket: Path, times: tuple[Any, Any]) -> None:
    path = bucket / "output/calls/a b.wav.json"
    data = json.loads(path.read_text())
    data["segments"][0] |= {"start": times[0], "end": times[1]}
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"is no transcript: segment 0"):
        list(read(bucket))


def test_document_that_is_no_json_is_named(bucket: Path) -> None:
    (bucket / "output" / "x.json").write_text("{")
    with pytest.raises(UsageError, match=r"x\.json` is no JSON"):
        list(read(bucket))


def test_clips_in_any_order_hold_no_more_than_the_newest(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 60 * SAMPLE_RATE).astype(np.float32)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(noise))
    with media.Recording(path) as sound:
        whole = np.concatenate(list(sound))
    heard = _Heard(path)
    for start, end in ((0.0, 1.0), (0.5, 3.0), (40.0, 41.0), (2.0, 2.5), (59.0, 70.0), (5.0, 5.1)):
        cut = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
        np.testing.assert_array_equal(heard.between(cut.start, cut.stop), whole[cut])
        assert sum(map(len, heard._held)) < (min(end, 60) - start + 5) * SAMPLE_RATE
