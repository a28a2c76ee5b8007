"""Word, Segment, Transcript: what everything else passes around. All times are seconds in the file.

The JSON form is described by `transcript.schema.json` beside this module and versioned by `SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SCHEMA = "stenopool.transcript/1"


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its times in seconds and its probability in [0, 1].

    `word` keeps the leading space that the language writes before it, so that joining words gives
    the segment's text back.
    """

    word: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech with its text, its figures and what is doubtful about it.

    Attributes:
        id: position in the transcript, from 0.
        start: first sample of the segment, in seconds.
        end: last sample of the segment, in seconds; never before `start`.
        text: what was said, without surrounding white space.
        words: empty unless word timestamps were asked for.
        avg_logprob: mean natural log-probability of the tokens of the window that it came from.
        no_speech_prob: the model's probability that this window holds no speech, in [0, 1].
        compression_ratio: bytes of the window's text before over after zlib; loops have high ones.
        flags: names of doubts, see `stenopool.decoding.quality`; empty is best.
    """

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    words: tuple[Word, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the recording's speech reached the text, in seconds.

    `speech_seconds` is what voice activity detection found; it is always the sum of
    `transcribed_seconds` (text was written for it) and `dropped_seconds` (none was).
    """

    speech_seconds: float
    transcribed_seconds: float
    dropped_seconds: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which weights wrote the text and how they were run.

    Attributes:
        name: catalogue name or folder name.
        sha256: hex digest of the weights file.
        engine: for example `ctranslate2`.
        precision: for example `int8`.
    """

    name: str
    sha256: str
    engine: str
    precision: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall time of the whole job, and that over the recording's duration (lower is faster)."""

    wall_seconds: float
    real_time_factor: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is known about one recording.

    Attributes:
        text: the segments' texts joined by a space.
        language: two- or three-letter code as Whisper names it; of the speech, not of the text.
        language_probability: 1.0 when the language was given and not detected.
        task: `transcribe`, or `translate` when the text is English whatever was spoken.
        duration: length of the decoded audio in seconds.
        flags: doubts about the whole recording, such as `media_damaged` or `language_uncertain`.
    """

    text: str
    language: str
    language_probability: float
    task: str
    duration: float
    segments: tuple[Segment, ...]
    coverage: Coverage
    model: ModelInfo
    timing: Timing
    flags: tuple[str, ...] = ()
    schema: str = field(default=SCHEMA)

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the order of the fields, ready for JSON."""
        return {"schema": self.schema, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: the data has another schema version.
            KeyError, TypeError: a field is missing or unknown.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"not a transcript of schema {SCHEMA}: {data.get('schema')!r}")
        fields = dict(data)
        fields["segments"] = tuple(_segment(entry) for entry in data["segments"])
        fields["coverage"] = Coverage(**data["coverage"])
        fields["model"] = ModelInfo(**data["model"])
        fields["timing"] = Timing(**data["timing"])
        fields["flags"] = tuple(data["flags"])
        return cls(**fields)


def _segment(data: Mapping[str, Any]) -> Segment:
    fields = dict(data)
    fields["words"] = tuple(Word(**word) for word in data["words"])
    fields["flags"] = tuple(data["flags"])
    return Segment(**fields)
