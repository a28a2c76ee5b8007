"""Transcripts as documents: plain text, subtitles, a table, JSON. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Callable

from stenopool.errors import UnknownName
from stenopool.transcript import Transcript
from stenopool.writers.plain import document, json_document, tsv, txt
from stenopool.writers.subtitles import srt, vtt

__all__ = ["FORMATS", "check_format", "document", "render"]

_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": txt,
    "srt": srt,
    "vtt": vtt,
    "tsv": tsv,
    "json": json_document,
}
FORMATS: tuple[str, ...] = tuple(_WRITERS)


def render(transcript: Transcript, format: str) -> str:
    """A transcript as a document that can be encoded as UTF-8.

    Args:
        transcript: what to write. Times that overlap or run backwards are put right in subtitles.
        format: one of `FORMATS`.

    Returns:
        The document. It ends with one newline, or is empty where the format has nothing to write.

    Raises:
        UnknownName: no such format.
        ValueError: a number to be written is not finite: no document could be right.
    """
    check_format(format)
    # A lone surrogate has no UTF-8 form and would fail only later, when the file is written.
    return _WRITERS[format](transcript).encode("utf-8", "replace").decode()


def check_format(name: str) -> None:
    """Refuse a format that is not there, before any work is done.

    Raises:
        UnknownName: it is not one of `FORMATS`.
    """
    if name not in FORMATS:
        choices = ", ".join(f"`{known}`" for known in FORMATS)
        raise UnknownName(f"no such output format: `{name}`", do=f"Choose one of {choices}")
