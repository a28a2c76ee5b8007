"""Subtitles: SubRip (`srt`, de facto) and WebVTT (`vtt`, https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from html import escape

from stenopool.transcript import Transcript
from stenopool.writers.cues import Cue, cues

_ARROW = "-->"  # stands between the two times of a cue; in its text it would begin another one


def srt(transcript: Transcript) -> str:
    """Numbered cues; nothing at all for a transcript without text."""
    return "\n".join(
        f"{number}\n{_times(cue, ',')}\n{cue.text.replace(_ARROW, '→')}\n"
        for number, cue in enumerate(cues(transcript), start=1)
    )


def vtt(transcript: Transcript) -> str:
    """The header `WEBVTT`, then the cues. Escaping leaves no `-->` in a text."""
    blocks = [f"{_times(cue, '.')}\n{escape(cue.text, quote=False)}\n" for cue in cues(transcript)]
    return "\n".join(["WEBVTT\n", *blocks])


def _times(cue: Cue, mark: str) -> str:
    return f"{_timestamp(cue.start_ms, mark)} {_ARROW} {_timestamp(cue.end_ms, mark)}"


def _timestamp(ms: int, mark: str) -> str:
    """`HH:MM:SS,mmm` with `mark` for the comma; hours take as many digits as they need."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{ms:03}"
