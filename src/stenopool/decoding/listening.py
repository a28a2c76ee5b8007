"""What there is to hear in one recording: its speech in windows, its language, its length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from stenopool.audio import SAMPLE_RATE
from stenopool.audio.features import WINDOW_SAMPLES
from stenopool.audio.media import Recording
from stenopool.audio.vad import SpeechDetector
from stenopool.audio.windows import Piece, Window, packed, speech_pieces
from stenopool.decoding.assembly import Facts
from stenopool.decoding.family import Family
from stenopool.decoding.language import DETECTION_WINDOWS
from stenopool.decoding.options import Options


class Listening:
    """An open recording, heard once from its beginning to its end.

    Args:
        family: the model that it is heard for.
        options: resolved for the model.
    """

    def __init__(
        self, recording: Recording, detector: SpeechDetector, family: Family, options: Options
    ) -> None:
        self.language = family.language(options)
        self._recording = recording
        self._detector = detector
        self._family = family
        self._options = options
        self._speech = 0  # samples

    @property
    def claimed_seconds(self) -> float | None:
        """What the file says that it has; None where it does not say."""
        return self._recording.claimed_seconds

    @property
    def has_language(self) -> bool:
        """Whether there is a language to transcribe: not, where nobody speaks at all."""
        return self.language.known or not self._family.detects

    def windows(self) -> Iterator[Window]:
        """Windows that can be read on their own, in any order; the language is known then."""
        return self._family.windows(self.pieces(), self._options)

    def pieces(self) -> Iterator[Piece]:
        """The speech, piece by piece; the language is known then."""
        return iter(self._with_language(self._counted(self._heard())))

    def facts(self) -> Facts:
        """What is known at the end of the recording."""
        return Facts(
            duration=self._recording.seconds,
            speech_seconds=self._speech / SAMPLE_RATE,
            language=self.language,
            flags=(*self._family.flags_of(self._options), *self._recording.flags),
        )

    def _heard(self) -> Iterator[Piece]:
        vad = self._family.vad(self._options)
        return speech_pieces(self._recording, self._detector, vad, longest=self._family.longest)

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
        self.language = self._family.detected(first)
        # `packed` has taken pieces for windows that it has not given yet.
        rest = (piece for window in windows for piece in window.pieces)
        return chain((piece for window in first for piece in window.pieces), rest)
