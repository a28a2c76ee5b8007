"""What users will feed it: each bad thing is refused by name and costs only itself."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import (
    OPENING,
    InProcess,
    Steno,
    ordinary_user,
    ran,
    resampled,
    samples,
    tree,
    words,
)
from sounds import Sound, tone, write_media, write_wav
from stenopool.settings import settings

RATE = 48_000
SHORT_SECONDS = 3.2
LONG_SECONDS = 15.0


@pytest.fixture(scope="module")
def speech(speech_wav: Path) -> Sound:
    return samples(speech_wav, SHORT_SECONDS)


@pytest.fixture
def good(speech: Sound, tmp_path: Path) -> Path:
    """The recording that is transcribed after the bad one."""
    return write_wav(tmp_path / "good.wav", speech, rate=RATE)


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may use, as are those above it; the models folder is in it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    monkeypatch.setenv("STENO_MODELS_DIR", str(folder / "models"))
    settings.cache_clear()
    yield folder
    settings.cache_clear()
    shutil.rmtree(folder)


# --- bad recordings ----------------------------------------------------------------------------


def cut_video(path: Path) -> None:
    whole = write_media(path, tone(4.0, rate=RATE), codec="aac", video_seconds=4.0).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


BAD: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing.wav": ("input_not_found", lambda path: None),
    "folder": ("input_not_a_file", Path.mkdir),
    "device": ("input_not_a_file", lambda path: path.symlink_to("/dev/null")),
    "pipe": ("input_not_a_file", os.mkfifo),
    "empty.wav": ("input_empty", Path.touch),
    "text.wav": ("not_media", lambda path: path.write_text("Dear Sir or Madam,\n" * 99)),
    "noise.mp4": ("not_media", lambda path: path.write_bytes(os.urandom(4096))),
    "cut.mp4": ("not_media", cut_video),
    "mute.mp4": (
        "no_audio",
        lambda path: write_media(path, [], codec="aac", video_seconds=2.0),
    ),
    "zero samples.wav": ("no_samples", lambda path: write_wav(path, np.zeros(0))),
    "NaN.wav": ("no_samples", lambda path: write_wav(path, np.full(16_000, np.nan), form="f32")),
    "inf.wav": ("no_samples", lambda path: write_wav(path, np.full(16_000, np.inf), form="f32")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_recording_is_refused_by_name_and_the_next_is_transcribed(
    here: InProcess, good: Path, tmp_path: Path, name: str
) -> None:
    code, make = BAD[name]
    bad = tmp_path / name
    make(bad)
    run = here("transcribe", "--json", bad, good, "-o", tmp_path / "out")
    failed, done = run.lines
    assert run.status == 3
    assert failed["error"]["code"] == code
    assert f"`{bad}`" in failed["error"]["message"]
    assert run.stderr.startswith(f"error[{code}]: {failed['error']['message']}\nhint: ")
    assert failed["error"]["hint"]
    assert done["transcript"]["text"].startswith(OPENING)
    assert tree(tmp_path / "out") == ["good.wav.txt"]


def test_bad_recordings_in_a_bucket_are_set_aside_with_their_records(
    here: InProcess, good: Path, tmp_path: Path
) -> None:
    bad = {name: one for name, one in BAD.items() if not one[0].startswith("input_not")}
    folder = tmp_path / "bucket" / "input"
    folder.mkdir(parents=True)
    for name, (_, make) in bad.items():
        make(folder / name)
    shutil.copy(good, folder / "zz good.wav")
    run = here("run", "--once", "--bucket", folder.parent, "-f", "txt")
    assert run.status == 3
    assert tree(folder.parent) == sorted(
        [
            *(f"failed/{name}" for name in bad),
            *(f"failed/{name}.error.json" for name in bad),
            "output/zz good.wav.json",
            "output/zz good.wav.txt",
            "processed/zz good.wav",
        ]
    )
    for name, (code, _) in bad.items():
        record = json.loads((folder.parent / "failed" / f"{name}.error.json").read_bytes())
        assert (record["code"], record["key"]) == (code, f"input/{name}")
        assert record["hint"]


def test_unreadable_recording_is_refused_by_name(
    here: InProcess, speech: Sound, open_folder: Path
) -> None:
    for name in ("good.wav", "secret.wav"):
        write_wav(open_folder / name, speech, rate=RATE).chmod(0o644)
    (open_folder / "secret.wav").chmod(0)
    out = open_folder / "out"
    with ordinary_user():
        run = here("transcribe", open_folder / "secret.wav", open_folder / "good.wav", "-o", out)
    assert run.status == 3
    assert run.stderr.startswith("error[input_unreadable]")
    assert "secret.wav`" in run.stderr
    assert "\nhint: " in run.stderr
    assert tree(out) == ["good.wav.txt"]


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_single_sample_is_silence_not_an_error(
    here: InProcess, tmp_path: Path, value: float
) -> None:
    path = write_wav(tmp_path / "one.wav", np.array([value]))
    run = here("transcribe", "--json", path)
    assert run.status == 0
    assert run.lines[0]["transcript"]["text"] == ""
    assert "no_speech" in run.lines[0]["transcript"]["flags"]


def test_some_invalid_samples_are_flagged_and_the_speech_is_heard(
    here: InProcess, speech: Sound, tmp_path: Path
) -> None:
    spoilt = speech.copy()
    spoilt[20_000:20_003] = [np.nan, np.inf, -np.inf]
    run = here("transcribe", "--json", write_wav(tmp_path / "a.wav", spoilt, rate=RATE, form="f32"))
    transcript = run.lines[0]["transcript"]
    assert run.status == 0
    assert transcript["text"].startswith(OPENING)
    assert "invalid_samples" in transcript["flags"]


def test_cut_recording_is_transcribed_as_far_as_it_goes_and_flagged(
    here: InProcess, speech: Sound, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "a.wav", np.tile(speech, 2), rate=RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    transcript = here("transcribe", "--json", path).lines[0]["transcript"]
    assert transcript["text"].startswith(OPENING)
    assert "media_truncated" in transcript["flags"]


# --- unusual formats of real speech ------------------------------------------------------------

UNUSUAL: dict[str, Callable[[Path, Sound], Path]] = {
    "8 bit": lambda path, sound: write_wav(path, sound, rate=RATE, form="u8"),
    "µ-law": lambda path, sound: write_media(path, sound, codec="pcm_mulaw"),
    "24 bit": lambda path, sound: write_wav(path, sound, rate=RATE, form="s24"),
    "float": lambda path, sound: write_wav(path, sound, rate=RATE, form="f32"),
    "6 channels": lambda path, sound: write_wav(
        path, sound * np.array([[1, 1, 1, 0, 0.2, 0.2]]).T, rate=RATE
    ),
    "192 kHz": lambda path, sound: write_wav(path, resampled(sound, RATE, 192_000), rate=192_000),
    "4 kHz": lambda path, sound: write_wav(path, resampled(sound, RATE, 4_000), rate=4_000),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_speech_is_understood_in_unusual_formats(
    here: InProcess, speech: Sound, tmp_path: Path, kind: str
) -> None:
    path = UNUSUAL[kind](tmp_path / f"{kind}.wav", speech)
    run = here("transcribe", path)
    assert run.status == 0
    assert words(run.text)[:5] == words(OPENING)[:5]


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "two words.wav",
        "new\nline.wav",
        'it\'s "quoted" `so`.wav',
        "-i.wav",
        "--help",
        "🎙️ réunion 会議.wav",
        "red\x1b[31m.wav",
        "%d.wav",
        "y" * 251 + ".wav",
        os.fsdecode(b"latin-\xe9.wav"),
    ],
)
def test_any_name_is_only_a_name(
    here: InProcess,
    good: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(good, folder / name)
    run = here("transcribe", "--json", "-o", "out", "--", name)
    assert run.status == 0
    shown = os.fsencode(name).decode(errors="replace")  # JSON has no notation for other bytes
    assert run.lines[0]["path"] == shown
    (document,) = (folder / "out").iterdir()
    assert run.lines[0]["files"] == [f"out/{os.fsencode(document.name).decode(errors='replace')}"]
    assert document.read_text().startswith(OPENING)
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.rstrip("\n").isprintable()


# --- where results go --------------------------------------------------------------------------


def test_read_only_output_folder_is_refused(
    here: InProcess, speech: Sound, open_folder: Path
) -> None:
    good = write_wav(open_folder / "good.wav", speech, rate=RATE)
    good.chmod(0o644)
    out = open_folder / "out"
    out.mkdir()
    out.chmod(0o555)
    with ordinary_user():
        run = here("transcribe", good, "-o", out)
        below = here("transcribe", good, "-o", out / "new")
    out.chmod(0o755)
    for one in (run, below):
        assert one.status == 6
        assert one.stderr.startswith("error[output_unwritable]")
        assert str(out) in one.stderr
        assert "\nhint: Give this user write permission" in one.stderr
    assert tree(out) == []


def test_read_only_bucket_is_refused_and_stays_as_it_is(
    here: InProcess, speech: Sound, open_folder: Path
) -> None:
    (open_folder / "input").mkdir()
    write_wav(open_folder / "input" / "a.wav", speech, rate=RATE).chmod(0o644)
    open_folder.chmod(0o555)
    with ordinary_user():
        run = here("run", "--once", "--model", "tiny.en", "--bucket", open_folder)
    open_folder.chmod(0o777)
    assert run.status == 6
    assert run.stderr.startswith("error[output_unwritable]")
    assert "\nhint: Give this user write permission" in run.stderr
    assert tree(open_folder) == ["input/a.wav"]


LIMITED = (
    "import resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    "sys.argv[0] = 'steno'\n"
    "from stenopool.cli import main\n"
    "main()"
)


def test_full_disk_costs_only_the_document_that_did_not_fit(
    steno: Steno, good: Path, speech_wav: Path, tmp_path: Path
) -> None:
    long = write_wav(tmp_path / "a long one.wav", samples(speech_wav, LONG_SECONDS), rate=RATE)
    out = tmp_path / "out"
    arguments = ["transcribe", "--model", "tiny.en", str(long), str(good), "-o", str(out)]
    run = ran([sys.executable, "-c", LIMITED, *arguments], steno.environment())
    assert run.status == 6
    assert run.stderr.startswith(f"error[storage_full]: cannot write `{out / long.name}.txt`")
    assert "\nhint: Free some space" in run.stderr
    assert tree(out) == ["good.wav.txt"]


def test_full_disk_leaves_the_recording_in_the_bucket(
    steno: Steno, good: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bucket" / "input"
    folder.mkdir(parents=True)
    shutil.copy(good, folder / "a.wav")
    arguments = ["run", "--once", "--model", "tiny.en", "--bucket", str(folder.parent)]
    run = ran([sys.executable, "-c", LIMITED, *arguments], steno.environment())
    assert run.status == 2  # not even the database has room; benchmarks.chaos fills the bucket only
    assert run.stderr.startswith("error[usage]: cannot open the database `sqlite:")
    assert tree(folder) == ["a.wav"]
    assert steno(*arguments).status == 0
    assert tree(folder) == []


# --- models ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "file"),
    [("tiny.en", "model.bin"), ("tiny.en", "tokenizer.json"), ("silero-vad", "silero_vad.onnx")],
)
def test_model_file_with_one_flipped_bit_is_refused(
    models_dir: Path, good: Path, tmp_path: Path, model: str, file: str
) -> None:
    damaged = tmp_path / "models"
    shutil.copytree(models_dir, damaged, copy_function=os.symlink)
    content = bytearray((models_dir / model / file).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / model / file).unlink()
    (damaged / model / file).write_bytes(content)
    steno = Steno({"STENO_MODELS_DIR": str(damaged)})
    run = steno("transcribe", "--model", "tiny.en", good, "-o", tmp_path / "out")
    assert run.status == 4
    assert run.stderr.startswith(f"error[model_damaged]: `{file}` of the model `{model}`")
    assert f"hint: Pull it again with `steno models pull {model} --force`" in run.stderr
    assert tree(tmp_path / "out") == []
