"""Utterances joined to long recordings, whose borders are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from stenopool.audio import media
from stenopool.data.recording import Part, Recording
from stenopool.data.wav import WavWriter
from stenopool.files import make_folder


def joined(recordings: Iterable[Recording], folder: Path) -> Iterator[Recording]:
    """Consecutive recordings of one speaker and chapter as one long recording.

    Each is a 16 kHz wav file in `folder`, which its caller removes; it is written when it is asked
    for. Recordings without a speaker stay as they are.

    Args:
        recordings: in the order in which they were spoken.
        folder: where the wav files go; made if it is missing.

    Raises:
        InputError: one of the recordings cannot be read.
        OutputError: the folder cannot take the files.
    """
    make_folder(folder)
    number = 0
    for (speaker, _), group in groupby(recordings, lambda one: (one.speaker, one.chapter)):
        if speaker is None:
            yield from group
            continue
        number += 1
        yield _joined(list(group), folder, folder / f"joined-{number:05}.wav")


def _joined(group: list[Recording], folder: Path, target: Path) -> Recording:
    parts = []
    with WavWriter(target) as wav:
        for one in group:
            start = wav.seconds
            with one.file(folder) as path, media.Recording(path) as sound:
                for block in sound:
                    wav.write(block)
            parts.append(Part(one.id, start, wav.seconds, one.text))
    first = group[0]
    return Recording(
        id="-".join(filter(None, (first.speaker, first.chapter))),
        audio=target,
        text=_together(parts),
        duration=parts[-1].end,
        speaker=first.speaker,
        chapter=first.chapter,
        language=first.language,
        licence=first.licence,
        parts=tuple(parts),
    )


def _together(parts: list[Part]) -> str | None:
    """The whole reference; there is none where that of one part is missing."""
    texts = [part.text for part in parts if part.text is not None]
    return " ".join(filter(None, texts)) if len(texts) == len(parts) else None
