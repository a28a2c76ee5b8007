"""A transcript in the formats of OpenAI's endpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from stenopool.decoding.languages import LANGUAGES
from stenopool.transcript import Segment, Transcript, Word
from stenopool.writers import render

Format: TypeAlias = Literal["json", "text", "srt", "verbose_json", "vtt"]
LEAST_PROBABILITY = 1e-10


def document(
    transcript: Transcript, format: Format, granularities: Sequence[str], *, logprobs: bool
) -> tuple[str, str]:
    """The body of an answer, and its media type."""
    if format == "text":
        return transcript.text + "\n", "text/plain; charset=utf-8"
    if format == "srt":
        return render(transcript, "srt"), "application/x-subrip; charset=utf-8"
    if format == "vtt":
        return render(transcript, "vtt"), "text/vtt; charset=utf-8"
    data = verbose(transcript, granularities) if format == "verbose_json" else short(transcript)
    if logprobs:
        data["logprobs"] = [logprob(word) for one in transcript.segments for word in one.words]
    return json.dumps(data, ensure_ascii=False), "application/json"


def short(transcript: Transcript) -> dict[str, Any]:
    """`json`: the text."""
    return {"text": transcript.text, "usage": usage(transcript)}


def verbose(transcript: Transcript, granularities: Sequence[str]) -> dict[str, Any]:
    """`verbose_json`: segments, and words where they are wanted."""
    data: dict[str, Any] = {
        "task": transcript.task,
        "language": language_of(transcript),
        "duration": transcript.duration,
        "text": transcript.text,
    }
    if "segment" in granularities or not granularities:
        data["segments"] = [_segment(one) for one in transcript.segments]
    if "word" in granularities:
        words = [word for one in transcript.segments for word in one.words]
        data["words"] = [
            {"word": one.word.strip(), "start": one.start, "end": one.end} for one in words
        ]
    return {**data, "usage": usage(transcript), "flags": list(transcript.flags)}


def language_of(transcript: Transcript) -> str:
    """The English name of the language that the text is in."""
    code = "en" if transcript.task == "translate" else transcript.language
    return LANGUAGES.get(code, code)


def usage(transcript: Transcript) -> dict[str, Any]:
    """What was used: seconds of audio."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def logprob(word: Word) -> dict[str, Any]:
    """The natural log-probability of a word: the mean of its tokens' probabilities."""
    return {
        "token": word.word,
        "logprob": math.log(max(word.probability, LEAST_PROBABILITY)),
        "bytes": list(word.word.encode()),
    }


def _segment(one: Segment) -> dict[str, Any]:
    return {
        "id": one.id,
        "seek": round(one.start * 100),
        "start": one.start,
        "end": one.end,
        "text": one.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": one.avg_logprob,
        "compression_ratio": one.compression_ratio,
        "no_speech_prob": one.no_speech_prob,
        "flags": list(one.flags),
    }
