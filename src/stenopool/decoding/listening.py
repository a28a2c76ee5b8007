"""What there is to hear in one recording: its speech in windows, its language, its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector, VadOptions
from stenopool.audio.windows import Piece, Window, packed, speech_pieces
from stenopool.decoding.assembly import Facts
from stenopool.decoding.chunked import chunk_samples, overlapping
from stenopool.decoding.language import DETECTION_WINDOWS, Language, detected
from stenopool.decoding.options import CHUNKED, PACKED, Options
from stenopool.engines.base import Engine

CONTIGUOUS_SILENCE = 2.0  # seconds of silence kept inside speech where windows should be contiguous


class Listening:
    """An open recording, heard once from its beginning to its end.

    Args:
        options: resolved for the model.
        flags: doubts that are known already.
    """

    def __init__(
        self,
        recording: Recording,
        detector: SpeechDetector,
        engine: Engine,
        options: Options,
        flags: Iterable[str] = (),
    ) -> None:
        self.language = Language.given(options.language)
        self._recording = recording
        self._detector = detector
        self._engine = engine
        self._options = options
        self._flags = list(flags)
        self._speech = 0  # samples

    @property
    def claimed_seconds(self) -> float | None:
        """What the file says that it has; None where it does not say."""
        return self._recording.claimed_seconds

    @property
    def has_language(self) -> bool:
        """Whether there is a language to transcribe: not, where nobody speaks at all."""
        return self.language.known or not self._engine.multilingual

    def windows(self) -> Iterator[Window]:
        """Windows that can be read on their own, in any order; the language is known then."""
        if self._options.algorithm == CHUNKED:
            return overlapping(self.pieces(), chunk_samples(self._options))
        return packed(self.pieces(), WINDOW_SAMPLES)

    def pieces(self) -> Iterator[Piece]:
        """The speech, piece by piece; the language is known then."""
        return iter(self._with_language(self._counted(self._heard())))

    def facts(self) -> Facts:
        """What is known at the end of the recording."""
        return Facts(
            duration=self._recording.seconds,
            speech_seconds=self._speech / SAMPLE_RATE,
            language=self.language,
            flags=(*self._flags, *self._recording.flags),
        )

    def _heard(self) -> Iterator[Piece]:
        vad = VadOptions(onset=self._options.vad_threshold)
        if self._options.algorithm != PACKED:
            vad = replace(vad, min_silence=CONTIGUOUS_SILENCE)
        return speech_pieces(self._recording, self._detector, vad, longest=WINDOW_SAMPLES)

    def _counted(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            self._speech += piece.voiced
            yield piece

    def _with_language(self, pieces: Iterator[Piece]) -> Iterable[Piece]:
        """The same pieces, after the language was detected on the first of them."""
        if self.has_language:
            return pieces
        windows = packed(pieces, WINDOW_SAMPLES)
        first = list(islice(windows, DETECTION_WINDOWS))
        self.language = detected(first, self._engine)
        # `packed` has taken pieces for windows that it has not given yet.
        rest = (piece for window in windows for piece in window.pieces)
        return chain((piece for window in first for piece in window.pieces), rest)
