"""From readings to a transcript: order, segments, coverage and doubts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stenopool.decoding.chunked import without_overlaps
from stenopool.decoding.language import Language
from stenopool.decoding.options import CHUNKED, Options
from stenopool.decoding.quality import LANGUAGE_UNCERTAIN, NO_SPEECH, SPEECH_DROPPED
from stenopool.decoding.readings import Reading, in_order
from stenopool.decoding.recognise import HEARD_SECONDS
from stenopool.decoding.sentences import segments
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a recording besides its text.

    Attributes:
        duration: seconds of decoded audio.
        speech_seconds: what voice activity detection found.
        language: of the speech.
        flags: doubts about the recording.
    """

    duration: float
    speech_seconds: float
    language: Language
    flags: tuple[str, ...]


def joined_readings(read: Iterable[list[Reading]], options: Options) -> Iterator[Reading]:
    """The readings of windows that were read on their own, as readings of the recording."""
    if options.algorithm == CHUNKED:
        yield from without_overlaps(read)
        return
    for readings in read:
        yield from readings


class Assembly:
    """Puts one transcript together.

    Args:
        options: resolved for the model.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._segments: list[Segment] = []
        self._dropped = 0.0  # seconds
        self._passage_lost = False

    def segments(self, readings: Iterable[Reading]) -> Iterator[Segment]:
        """The segments of readings in order, as they are complete; each is kept."""
        counted = self._counted(in_order(readings))
        for segment in segments(counted, keep_words=self._options.word_timestamps):
            self._segments.append(segment)
            yield segment

    def transcript(self, facts: Facts, model: ModelInfo, wall_seconds: float) -> Transcript:
        """The transcript of all segments so far."""
        dropped = min(self._dropped, facts.speech_seconds)
        return Transcript(
            text=" ".join(segment.text for segment in self._segments),
            language=facts.language.code,
            language_probability=facts.language.probability,
            task=self._options.task,
            duration=facts.duration,
            segments=tuple(self._segments),
            coverage=Coverage(facts.speech_seconds, facts.speech_seconds - dropped, dropped),
            model=model,
            timing=Timing(wall_seconds, wall_seconds / facts.duration),
            flags=(*facts.flags, *self._doubts(facts)),
        )

    def _counted(self, readings: Iterable[Reading]) -> Iterator[Reading]:
        for reading in readings:
            self._dropped += reading.dropped_seconds
            # Many small remainders are no loss: a breath at the end of each window.
            self._passage_lost |= reading.dropped_seconds >= HEARD_SECONDS
            yield reading

    def _doubts(self, facts: Facts) -> Iterator[str]:
        if not self._segments and not self._passage_lost:
            yield NO_SPEECH
        if self._passage_lost:
            yield SPEECH_DROPPED
        if facts.speech_seconds and facts.language.probability < self._options.language_threshold:
            yield LANGUAGE_UNCERTAIN
