"""Transcripts of ours that somebody has corrected, beside their recordings, as training data.

Two forms: a bucket, `output/a/b.wav.json` and `processed/a/b.wav`; or any folder in which
`NAME.json` lies beside a recording `NAME`, or beside one of that name with a suffix of media. Each
segment that has a text is a recording.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples, media
from stenopool.data.recording import OnBad, Recording
from stenopool.data.wav import wav
from stenopool.errors import InputNotFound, InputUnreadable, UsageError
from stenopool.transcript import Segment, Transcript

OUTPUT, PROCESSED = "output", "processed"
SUFFIX = ".json"
LARGEST = 1 << 28  # bytes; the transcript of a day with all its words has some ten MB
NOT_SOUND = frozenset(  # what stands beside recordings
    {".json", ".jsonl", ".txt", ".srt", ".vtt", ".tsv", ".csv", ".md", ".html", ".pdf", ".zip"}
)


def has_transcripts(folder: Path) -> bool:
    """Whether a folder holds documents that could be transcripts of ours."""
    return next(_documents(folder), None) is not None


def corrected(folder: Path, on_bad: OnBad | None = None) -> Iterator[Recording]:
    """The segments of all transcripts below a folder, in the order of their names.

    Other JSON files are left alone.

    Args:
        on_bad: takes note of a transcript that cannot be used, which is then left out.

    Raises:
        InputNotFound: the recording of a transcript is not there.
        UsageError: a transcript is damaged.
    """
    for document in _documents(folder):
        try:
            transcript = _transcript(document)
            if transcript is None:
                continue
            audio = _audio(document, folder)
        except (UsageError, InputNotFound, InputUnreadable) as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        name = audio.relative_to(folder).as_posix().removeprefix(f"{PROCESSED}/")
        for segment in transcript.segments:
            if segment.text.strip():
                yield _recording(segment, audio, name, transcript.language)


def _documents(folder: Path) -> Iterator[Path]:
    place = folder / OUTPUT if _is_bucket(folder) else folder
    found = (path for path in place.rglob(f"*{SUFFIX}") if path.is_file())
    return iter(sorted(path for path in found if not path.name.startswith(".")))


def _is_bucket(folder: Path) -> bool:
    return (folder / OUTPUT).is_dir() and (folder / PROCESSED).is_dir()


def _transcript(document: Path) -> Transcript | None:
    """What a document holds; nothing, if it is no transcript of any schema of ours."""
    try:
        with document.open("rb") as file:
            data = json.loads(file.read(LARGEST))
    except OSError as error:
        raise InputUnreadable(
            f"cannot read `{document}`: {error.strerror}", do="Check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"`{document}` is no JSON: {error!s:.200}", do="Correct it, or move it away"
        ) from error
    if not isinstance(data, dict) or not str(data.get("schema")).startswith("stenopool."):
        return None
    try:
        transcript = Transcript.from_dict(data)
        for one in transcript.segments:
            _check(one)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"`{document}` is no transcript: {error!s:.200}",
            do="Change only texts and times, and keep the fields",
        ) from error
    return transcript


def _check(segment: Segment) -> None:
    times = (segment.start, segment.end)
    if not all(isinstance(one, int | float) and 0 <= one < 1e7 for one in times):
        raise ValueError(f"segment {segment.id} has no times")
    if not isinstance(segment.text, str) or segment.end <= segment.start:
        raise ValueError(f"segment {segment.id} has no text, or ends before it starts")


def _audio(document: Path, folder: Path) -> Path:
    if _is_bucket(folder):
        beside = folder / PROCESSED / document.relative_to(folder / OUTPUT).with_suffix("")
    else:
        beside = document.with_suffix("")
    if beside.is_file():
        return beside
    stem = beside.name
    siblings = sorted(beside.parent.iterdir()) if beside.parent.is_dir() else []
    for one in siblings:
        if one.stem == stem and one.is_file() and one.suffix.lower() not in NOT_SOUND:
            return one
    raise InputNotFound(
        f"`{document}` has no recording: there is no `{beside}`",
        do="Put recording and transcript beside each other",
    )


def _recording(segment: Segment, audio: Path, name: str, language: str) -> Recording:
    id = f"{name}#{segment.id:05}"
    return Recording(
        id=id,
        audio=audio.with_name(f"{audio.name}#{segment.id:05}.wav"),
        text=segment.text,
        language=language,
        stored=partial(_clip, audio, segment.start, segment.end),
        # Who speaks is not known; those of one file are at least not to be in two splits.
        speaker=name,
        more={"flags": segment.flags},
    )


def _clip(audio: Path, start: float, end: float) -> bytes:
    """A wav file of a part of a recording."""
    return wav(_heard(audio).between(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)))


class _Heard:
    """A recording that is decoded once for clips that come one after another.

    Held is only what the newest clip was cut from; an earlier one costs decoding from the start.
    """

    def __init__(self, audio: Path) -> None:
        self._audio = audio
        self._lock = Lock()
        self._blocks = self._decoded()
        self._held: deque[Samples] = deque()
        self._begin = 0  # sample of the recording that `_held` begins with

    def between(self, start: int, end: int) -> Samples:
        """(samples,) of the recording; fewer where it ends before `end`."""
        with self._lock:
            if start < self._begin:
                self._blocks, self._begin = self._decoded(), 0
                self._held.clear()
            held = self._begin + sum(len(block) for block in self._held)
            while held < end and (block := next(self._blocks, None)) is not None:
                self._held.append(block)
                held += len(block)
                while self._held and self._begin + len(self._held[0]) <= start:
                    self._begin += len(self._held.popleft())
            heard = np.concatenate([*self._held, np.zeros(0, dtype=np.float32)])
            return heard[max(0, start - self._begin) : max(0, end - self._begin)]

    def _decoded(self) -> Iterator[Samples]:
        with media.Recording(self._audio) as sound:
            yield from sound


_heard = lru_cache(maxsize=1)(_Heard)  # the segments of a recording come one after another
