"""What a second model hears in windows whose text nobody wrote down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stenopool.data.wav import WavWriter
from stenopool.decoding.options import Options
from stenopool.errors import Defect, StenoError
from stenopool.training.labels import LabelledWindow
from stenopool.training.ledger import Ledger
from stenopool.training.window_audio import WindowAudio

if TYPE_CHECKING:
    from stenopool.decoding.transcriber import Transcriber

LEDGER = "second.jsonl"


def heard_again(
    windows: Sequence[LabelledWindow],
    second: Transcriber,
    output: Path,
    report: Callable[[float], None],
) -> dict[str, str]:
    """Its text of each window without a given one, by id; gone on with if killed.

    Args:
        output: keeps what was heard.
        report: called with the seconds that are done.

    Raises:
        InputError: the audio of a window cannot be had.
        OutputError: the folder cannot take it.
    """
    asked = [one for one in windows if one.reference is None]
    with (
        Ledger(output / LEDGER).claim() as ledger,
        TemporaryDirectory(prefix="stenopool-") as folder,
    ):
        keys = {one.id: f"{second.info.sha256} {one.id}" for one in asked}
        waiting = [one for one in asked if keys[one.id] not in ledger.done]
        seconds = 0.0
        options = Options(word_timestamps=False)
        results = second.transcribe_many(_files(waiting, Path(folder)), options)
        for one, result in zip(waiting, results, strict=True):
            if isinstance(result, Defect):
                raise result
            text = "" if isinstance(result, StenoError) else result.text
            ledger.add(keys[one.id], {"text": text})
            _file(Path(folder), one).unlink(missing_ok=True)
            seconds += one.seconds
            report(seconds)
        return {one.id: str(ledger.done[keys[one.id]]["text"]) for one in asked}


def _files(windows: Sequence[LabelledWindow], folder: Path) -> Iterator[Path]:
    """A wav file of each window, written when it is asked for."""
    with closing(WindowAudio()) as audio:
        for one in windows:
            path = _file(folder, one)
            with WavWriter(path) as wav:
                wav.write(audio.samples(one))
            yield path


def _file(folder: Path, one: LabelledWindow) -> Path:
    return folder / f"{id(one):x}.wav"
