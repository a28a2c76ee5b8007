"""The main job on real recordings: `make demo`.

Lays recordings into `demo-bucket/input/` (speech as wav, mp3, video, one in a sub-folder, and one
broken file), runs `steno run --bucket demo-bucket --once`, and shows what came out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from stenopool.models.catalogue import WheelPart, WheelSource
from stenopool.models.sources import fetch

ROOT = Path(__file__).parent.parent
BUCKET = ROOT / "demo-bucket"
CACHE = ROOT / ".cache" / "recordings"
SPEECH = "two_cities.wav"  # the opening of Dickens' "A Tale of Two Cities", 44 s
SOURCE = WheelSource(
    {SPEECH: (WheelPart("moonshine-voice==0.1.5", f"moonshine_voice/assets/{SPEECH}"),)}
)
FRAMES_PER_SECOND = 10


def main() -> None:
    """Prepare, run, show. Exits with an error unless exactly the broken file failed."""
    console = Console()
    broken = lay_recordings(BUCKET / "input", speech())
    console.print(f"[bold]steno run --bucket {BUCKET.name} --once[/bold]")
    steno = [sys.executable, "-m", "stenopool", "run", "--bucket", str(BUCKET), "--once", "--json"]
    done = subprocess.run(steno, stdout=subprocess.PIPE, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = [line for line in lines if "key" in line]
    show(console, results)
    failed = [result["key"] for result in results if result["state"] != "done"]
    if failed != [broken]:
        sys.exit(f"only `{broken}` should have failed, but this did: {failed}")


def speech() -> Path:
    """A real recording, fetched once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (CACHE / SPEECH).exists():
        fetch(SOURCE, [SPEECH], CACHE, None)
    return CACHE / SPEECH


def lay_recordings(folder: Path, wav: Path) -> str:
    """Put the recordings into `input/`; returns the key of the broken one."""
    deep = folder / "my talks"
    deep.mkdir(parents=True, exist_ok=True)
    (folder / "tale.wav").write_bytes(wav.read_bytes())
    convert(wav, folder / "tale.mp3", codec="mp3")
    convert(wav, folder / "tale.mp4", codec="aac", picture=True)
    convert(wav, deep / "tale.flac", codec="flac")
    whole = (folder / "tale.mp4").read_bytes()
    (folder / "interrupted copy.mp4").write_bytes(whole[: len(whole) // 3])
    return "input/interrupted copy.mp4"


def convert(wav: Path, target: Path, *, codec: str, picture: bool = False) -> None:
    """Encode a recording again, with a moving picture if it should be a video."""
    with av.open(str(wav)) as source, av.open(str(target), "w") as sink:
        sound: Any = sink.add_stream(codec, rate=48_000, layout="mono")
        if picture:
            film(sink, seconds=float(source.duration or 0) / av.time_base)
        for frame in source.decode(audio=0):
            sink.mux(sound.encode(frame))
        sink.mux(sound.encode(None))


def film(sink: Any, seconds: float) -> None:  # noqa: ANN401  PyAV's output container
    """A bar that moves from left to right."""
    stream = sink.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
    stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
    count = int(seconds * FRAMES_PER_SECOND)
    for number in range(count):
        picture = np.full((180, 320, 3), 32, dtype=np.uint8)
        at = number * 310 // max(1, count)
        picture[:, at : at + 10] = (240, 200, 80)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode(None))


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """Print the transcripts, the table, and what became of the broken file."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.caption = "RTF: real-time factor, a worker's time over audio seconds"
    table.add_column("file", min_width=10, overflow="fold")
    for title in ("audio s", "worker s", "RTF", "model", f"result in {BUCKET.name}/"):
        table.add_column(title, no_wrap=True)
    for result in results:
        if result["state"] != "done":
            continue
        text = next(key for key in result["outputs"] if key.endswith(".txt"))
        console.rule(result["key"])
        console.print(
            (BUCKET / text).read_text(encoding="utf-8"),
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        table.add_row(
            result["key"].removeprefix("input/"),
            f"{result['total_seconds']:.1f}",
            f"{result['compute_seconds']:.1f}",
            f"{result['real_time_factor']:.3f}",
            result["model"],
            f"{text.removesuffix('txt')}*",
        )
    console.print(table)
    for result in results:
        if error := result["error"]:
            name = result["key"].removeprefix("input/")
            console.print(
                f"{result['key']} could not be transcribed: {error['message']}\n"
                f"  hint: {error['hint']}\n"
                f"  it lies in {BUCKET.name}/failed/{name},\n"
                f"  its record in {BUCKET.name}/failed/{name}.error.json",
                markup=False,
                highlight=False,
            )


if __name__ == "__main__":
    main()
