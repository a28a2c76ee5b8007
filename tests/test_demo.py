"""The demo's own parts; `make demo` itself needs the model `base`."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import av
import pytest
from rich.console import Console

from commands import OPENING, Steno, load, samples, tree
from pipelines import age
from sounds import write_wav
from stenopool.audio import SAMPLE_RATE
from stenopool.audio.media import Recording
from stenopool.errors import InputError

SECONDS = 4.0
GOOD = ["my talks/tale.flac", "tale.mp3", "tale.mp4", "tale.wav"]
BROKEN = "interrupted copy.mp4"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    return load(Path(__file__).parent.parent / "examples" / "demo.py")


@pytest.fixture(scope="module")
def bucket(demo: ModuleType, speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    wav = write_wav(folder / "speech.wav", samples(speech_wav, SECONDS), rate=48_000)
    assert demo.lay_recordings(folder / "bucket" / "input", wav) == f"input/{BROKEN}"
    for name in tree(folder / "bucket"):
        age(folder / "bucket" / name)
    return folder / "bucket"


def test_recordings_are_laid(bucket: Path) -> None:
    assert tree(bucket / "input") == sorted([*GOOD, BROKEN])


def test_laying_them_again_changes_nothing(
    demo: ModuleType, bucket: Path, speech_wav: Path, tmp_path: Path
) -> None:
    wav = write_wav(tmp_path / "speech.wav", samples(speech_wav, 1.0), rate=48_000)
    for _ in range(2):
        demo.lay_recordings(tmp_path / "input", wav)
    assert tree(tmp_path / "input") == sorted([*GOOD, BROKEN])


@pytest.mark.parametrize("name", GOOD)
def test_recording_can_be_decoded_whole(bucket: Path, name: str) -> None:
    with Recording(bucket / "input" / name) as recording:
        count = sum(len(block) for block in recording)
    assert count / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.1)
    assert recording.flags == []


def test_video_has_a_moving_picture(bucket: Path) -> None:
    with av.open(str(bucket / "input" / "tale.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == pytest.approx(SECONDS * 10, abs=1)
    assert (pictures[0] != pictures[-1]).any()


def test_broken_recording_cannot_be_read(bucket: Path) -> None:
    with pytest.raises(InputError), Recording(bucket / "input" / BROKEN) as recording:
        list(recording)


def test_results_are_shown(
    demo: ModuleType, bucket: Path, steno: Steno, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = steno("run", "--bucket", bucket, "--once", "--json", "--model", "tiny.en")
    results = [line for line in ran.lines if "key" in line]
    assert [one["key"] for one in results if one["state"] != "done"] == [f"input/{BROKEN}"]
    monkeypatch.setattr(demo, "BUCKET", bucket)
    screen = io.StringIO()
    demo.show(Console(file=screen, width=200), results)
    shown = screen.getvalue()
    assert shown.lower().count(OPENING.lower()) == len(GOOD)
    assert f"input/{BROKEN} could not be transcribed" in shown
    assert f"failed/{BROKEN}.error.json" in shown
    for name in GOOD:
        assert f"output/{name}.*" in shown
