"""Folders as LibriSpeech has them: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt` beside the audio.

Panayotov et al. 2015, "Librispeech: an ASR corpus based on public domain audio books".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stenopool.data.recording import OnBad, Recording, good, unreadable
from stenopool.errors import UsageError

TRANSCRIPTS = "*.trans.txt"
SUFFIXES = (".flac", ".wav", ".opus", ".ogg", ".mp3")
NAME_PARTS = 3  # speaker, chapter, number


def librispeech(folder: Path, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The recordings below a folder, chapter by chapter in the order of their names.

    Raises:
        InputUnreadable: a file cannot be read.
        UsageError: a line is none of `ID TEXT`.
    """
    for transcripts in sorted(folder.rglob(TRANSCRIPTS)):
        yield from _chapter(transcripts, on_bad)


def _chapter(transcripts: Path, on_bad: OnBad | None) -> Iterator[Recording]:
    def recording(numbered: tuple[int, bytes]) -> Recording:
        number, line = numbered
        return _recording(line, transcripts, f"`{transcripts}`, line {number}")

    try:
        with transcripts.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            yield from good(lines, recording, on_bad)
    except OSError as error:
        raise unreadable(transcripts, error) from error


def _recording(line: bytes, transcripts: Path, where: str) -> Recording:
    try:
        name, _, text = line.decode("utf-8-sig").strip().partition(" ")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: it is not UTF-8", do="Save the file as UTF-8") from error
    if "/" in name or "\0" in name:
        raise UsageError(f"{where}: `{name}` is no utterance", do="Write lines of `ID TEXT`")
    parts = name.split("-")
    speaker, chapter = parts[:2] if len(parts) == NAME_PARTS else (None, None)
    files = [transcripts.with_name(name + suffix) for suffix in SUFFIXES]
    return Recording(
        id=name,
        audio=next((file for file in files if file.exists()), files[0]),
        text=text,
        speaker=speaker,
        chapter=chapter,
        language="en",
    )
