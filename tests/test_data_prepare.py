from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sounds import tone, write_media, write_wav
from stenopool.data import read
from stenopool.data.prepare import Preparation, prepare
from stenopool.errors import InputNotFound, StorageFull, UnknownName, UsageError
from trainings import manifest

TEXT = "some words"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def wav(folder: Path, name: str, seconds: float = 1.0, *, rate: int = 16_000) -> str:
    """A sound that is another one for each name."""
    pitch = 200.0 + sum(name.encode())
    write_wav(folder / name, tone(seconds, hz=pitch, rate=rate), rate=rate)
    return name


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prepared(source: Path, output: Path, **how: Any) -> dict[str, Any]:
    return prepare([str(source)], output, Preparation(**how))


def skipped(output: Path) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in lines_of(output / "skipped.jsonl")}


def test_manifest_has_what_was_measured_and_not_what_was_claimed(
    folder: Path, tmp_path: Path
) -> None:
    line = {
        "id": "one",
        "audio": wav(folder, "a.wav", 1.25, rate=8000),
        "text": "Some  Words!",
        "duration": 99,
        "speaker": "eva",
        "language": "en",
        "licence": "CC0",
    }
    output = tmp_path / "out"
    told = prepared(manifest(folder, [line]), output)
    (found,) = lines_of(output / "manifest.jsonl")
    assert found == {
        "id": "one",
        "audio": "../source/a.wav",
        "text": "some words",
        "duration": 1.25,
        "speaker": "eva",
        "language": "en",
        "licence": "CC0",
    }
    assert (output / found["audio"]).resolve() == folder / "a.wav"
    assert told["normalise"] == "letters"
    assert (told["recordings"], told["words"], told["skipped"]) == (1, 2, {})
    assert json.loads((output / "summary.json").read_text()) == told


def test_bad_recordings_are_left_out_each_with_its_reason(folder: Path, tmp_path: Path) -> None:
    write_wav(folder / "copy.wav", tone(1.0, hz=200.0 + sum(b"good.wav")))
    (folder / "text.wav").write_text("this is no sound")
    (folder / "empty.wav").touch()
    rows = {
        "good": (wav(folder, "good.wav"), TEXT),
        "missing": ("nowhere.wav", TEXT),
        "no media": ("text.wav", TEXT),
        "empty file": ("empty.wav", TEXT),
        "no text": (wav(folder, "b.wav"), " "),
        "odd": (wav(folder, "c.wav"), "<unk>"),
        "copy": ("copy.wav", TEXT),
        "short": (wav(folder, "d.wav", 0.05), "a"),
        "long": (wav(folder, "e.wav", 4.0), TEXT),
        "dense": (wav(folder, "f.wav", 1.0), TEXT * 10),
    }
    lines: list[dict[str, object]] = [
        {"id": id, "audio": audio, "text": text} for id, (audio, text) in rows.items()
    ]
    source = manifest(folder, lines)
    with source.open("a") as file:
        file.write("{broken\n")
    told = prepared(source, tmp_path / "out", longest=3.0)
    assert [one["id"] for one in lines_of(tmp_path / "out" / "manifest.jsonl")] == ["good"]
    found = lines_of(tmp_path / "out" / "skipped.jsonl")
    assert {one["id"]: one["reason"] for one in found} == {
        "missing": "input_not_found",
        "no media": "not_media",
        "empty file": "input_empty",
        "no text": "empty_text",
        "odd": "odd_text",
        "copy": "duplicate",
        "short": "too_short",
        "long": "too_long",
        "dense": "text_too_long",
        None: "bad_line",
    }
    assert "line 11" in found[0]["message"] or "line 11" in found[-1]["message"]
    assert told["skipped"] == dict.fromkeys([one["reason"] for one in found], 1)


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ({"audio": "nowhere.wav", "text": TEXT}, InputNotFound, "nowhere.wav"),
        ({"audio": "a.wav", "text": ""}, UsageError, "has no text"),
        ({"text": TEXT}, UsageError, "line 2"),
    ],
)
def test_first_bad_one_stops_if_asked(
    folder: Path, tmp_path: Path, line: dict[str, object], error: type[Exception], said: str
) -> None:
    source = manifest(folder, [{"audio": wav(folder, "a.wav"), "text": TEXT}, line])
    with pytest.raises(error, match=said):
        prepared(source, tmp_path / "out", on_bad="stop")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_same_sound_with_another_text_is_told_apart(folder: Path, tmp_path: Path) -> None:
    wav(folder, "a.wav")
    write_media(folder / "b.flac", tone(1.0, hz=200.0 + sum(b"a.wav")), codec="flac", rate=16_000)
    lines: list[dict[str, object]] = [
        {"id": "a", "audio": "a.wav", "text": "one text"},
        {"id": "b", "audio": "b.flac", "text": "another text"},
    ]
    prepared(manifest(folder, lines), tmp_path / "out")
    (found,) = lines_of(tmp_path / "out" / "skipped.jsonl")
    assert "the same audio as `a` with another text" in found["message"]


def test_recordings_that_may_be_copies_are_named_and_kept(folder: Path, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": name, "audio": wav(folder, f"{name}.wav"), "text": TEXT, "speaker": "eva"}
        for name in "ab"
    ]
    told = prepared(manifest(folder, lines), tmp_path / "out")
    assert told["perhaps_copies"] == [["a", "b"]]
    assert told["recordings"] == 2


def test_no_speaker_is_in_two_splits(folder: Path, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": f"{n}", "audio": wav(folder, f"{n}.wav", 0.3), "text": "a", "speaker": f"s{n % 5}"}
        for n in range(20)
    ]
    source = manifest(folder, lines)
    told = prepared(source, tmp_path / "out", split="60/20/20", seed=3)
    again = prepared(source, tmp_path / "again", split="60/20/20", seed=3)
    speakers = [
        {line["speaker"] for line in lines_of(tmp_path / "out" / f"{name}.jsonl")}
        for name in ("train", "valid", "test")
    ]
    assert [len(one) for one in speakers] == [3, 1, 1]
    assert len(set.union(*speakers)) == 5
    assert told["splits"] == again["splits"]
    assert told["splits"]["train"]["recordings"] == 12
    recordings = {one.id for one in read(tmp_path / "out" / "train.jsonl")}
    assert len(recordings) == 12


def test_splits_of_the_source_are_kept(folder: Path, tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": name, "audio": wav(folder, f"{name}.wav"), "text": "a", "split": split}
        for name, split in (("a", "train"), ("b", "test"), ("c", "train"))
    ]
    prepared(manifest(folder, lines), tmp_path / "out", split="keep")
    assert [one["id"] for one in lines_of(tmp_path / "out" / "train.jsonl")] == ["a", "c"]
    assert [one["id"] for one in lines_of(tmp_path / "out" / "test.jsonl")] == ["b"]


@pytest.mark.parametrize("split", ["../../etc", "", None, "manifest"])
def test_split_that_is_no_name_is_refused(folder: Path, tmp_path: Path, split: str | None) -> None:
    line: dict[str, object] = {"audio": wav(folder, "a.wav"), "text": "a", "split": split}
    with pytest.raises(UsageError, match="has no `split`"):
        prepared(manifest(folder, [line]), tmp_path / "out", split="keep")


def test_common_voice_is_prepared(folder: Path, tmp_path: Path) -> None:
    (folder / "clips").mkdir()
    wav(folder / "clips", "c_1.wav")
    table = folder / "validated.tsv"
    table.write_text("client_id\tpath\tsentence\tlocale\nab12\tc_1.wav\tBore da\tcy\n")
    prepared(table, tmp_path / "out", normalise="lower")
    (found,) = lines_of(tmp_path / "out" / "manifest.jsonl")
    assert (found["text"], found["speaker"], found["language"]) == ("bore da", "ab12", "cy")


def test_audio_is_copied_if_asked(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, [{"audio": wav(folder, "a.wav"), "text": "a"}])
    prepared(source, tmp_path / "out", copy=True)
    (found,) = lines_of(tmp_path / "out" / "manifest.jsonl")
    assert found["audio"].startswith("audio/")
    assert (tmp_path / "out" / found["audio"]).read_bytes() == (folder / "a.wav").read_bytes()


def test_pictures_show_lengths_and_words(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, [{"audio": wav(folder, "a.wav"), "text": "a"}])
    prepared(source, tmp_path / "out")
    for name in ("durations.png", "words.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_folder_with_a_manifest_is_left_alone(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, [{"audio": wav(folder, "a.wav"), "text": "a"}])
    prepared(source, tmp_path / "out")
    before = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    with pytest.raises(UsageError, match="holds a manifest already"):
        prepared(source, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == before


def test_full_disk_leaves_no_manifest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = manifest(folder, [{"audio": wav(folder, "a.wav"), "text": "a"}])

    def full(*_: object) -> None:
        raise StorageFull("no space", do="Free some")

    monkeypatch.setattr("stenopool.data.prepare.draw", full)
    with pytest.raises(StorageFull):
        prepared(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"normalise": "upper"}, UnknownName),
        ({"on_bad": "ignore"}, UnknownName),
        ({"split": "some"}, UsageError),
        ({"shortest": 5.0, "longest": 1.0}, UsageError),
        ({"longest": float("nan")}, UsageError),
    ],
)
def test_wrong_options_are_refused(how: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Preparation(**how)


def test_length_is_that_of_the_sound_and_not_of_its_samples_rate(
    folder: Path, tmp_path: Path
) -> None:
    write_wav(folder / "a.wav", np.stack([tone(0.5, rate=44_100)] * 2), rate=44_100)
    prepared(manifest(folder, [{"audio": "a.wav", "text": "a"}]), tmp_path / "out")
    (found,) = lines_of(tmp_path / "out" / "manifest.jsonl")
    assert found["duration"] == pytest.approx(0.5, abs=0.01)
