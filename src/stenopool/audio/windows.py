"""Windows of at most 30 s for the model: speech packed together, cut at pauses, times kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.vad import FRAME_SAMPLES, SpeechDetector, VadOptions, VoiceSpan, spans

PAD_SAMPLES = round(0.2 * SAMPLE_RATE)  # kept on either side of speech, so that no onset is lost
QUIET_FRAME_SAMPLES = round(0.1 * SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a recording around one span of speech. All positions are samples from its start.

    Attributes:
        samples: (end - start,) float32 at 16 kHz.
        start, end: what is kept, padding included.
        voice_start, voice_end: the speech itself, `start <= voice_start <= voice_end <= end`.
    """

    samples: Samples
    start: int
    end: int
    voice_start: int
    voice_end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def voiced(self) -> int:
        """Samples of speech."""
        return self.voice_end - self.voice_start

    def split(self, at: int) -> tuple[Piece, Piece]:
        """Two pieces, the second from `at` samples after this one's start."""
        cut = self.start + at
        border = min(max(cut, self.voice_start), self.voice_end)
        starts, ends = min(self.voice_start, cut), min(border, cut)
        first = Piece(self.samples[:at], self.start, cut, starts, ends)
        second = Piece(self.samples[at:], cut, self.end, max(border, cut), max(self.voice_end, cut))
        return first, second


@dataclass(frozen=True)
class Window:
    """Pieces of a recording put one after the other, in order, not overlapping."""

    pieces: tuple[Piece, ...]

    @cached_property
    def samples(self) -> Samples:
        """(samples,) float32: the pieces, joined."""
        return np.concatenate([piece.samples for piece in self.pieces])

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Sample of the window at which each piece begins, and the window's length at the end."""
        return tuple(np.cumsum([0, *(piece.length for piece in self.pieces)]).tolist())

    @property
    def length(self) -> int:
        return self.offsets[-1]

    @property
    def seconds(self) -> float:
        return self.length / SAMPLE_RATE

    @property
    def speech_seconds(self) -> float:
        return sum(piece.voiced for piece in self.pieces) / SAMPLE_RATE

    @property
    def end(self) -> float:
        """Seconds in the recording at which the window ends."""
        return self.pieces[-1].end / SAMPLE_RATE

    def from_time(self, seconds: float) -> Window | None:
        """The part from a time inside the window on; `None` where nothing is left."""
        cut = round(seconds * SAMPLE_RATE)
        rest: list[Piece] = []
        for piece, offset in zip(self.pieces, self.offsets, strict=False):
            if cut <= offset:
                rest.append(piece)
            elif cut < offset + piece.length:
                rest.append(piece.split(cut - offset)[1])
        return Window(tuple(rest)) if rest else None

    def up_to(self, samples: int) -> Window:
        """The first `samples` samples."""
        kept: list[Piece] = []
        for piece, offset in zip(self.pieces, self.offsets, strict=False):
            if offset + piece.length <= samples:
                kept.append(piece)
            elif offset < samples:
                kept.append(piece.split(samples - offset)[0])
        return Window(tuple(kept))

    def halves(self) -> tuple[Window, Window]:
        """Two windows, parted between the pieces nearest to the middle, or inside the only one."""
        if len(self.pieces) == 1:
            first, second = self.pieces[0].split(_quiet_middle(self.samples))
            return Window((first,)), Window((second,))
        middle = self.length / 2
        inner = range(1, len(self.pieces))
        at = min(inner, key=lambda index: abs(self.offsets[index] - middle))
        return Window(self.pieces[:at]), Window(self.pieces[at:])


def speech_pieces(
    blocks: Iterable[Samples],
    detector: SpeechDetector,
    options: VadOptions,
    *,
    longest: int,
) -> Iterator[Piece]:
    """The recording's speech, piece by piece, with up to 0.2 s around each.

    Only audio that may still be needed is held: at most `longest` samples and one call of the
    detector.

    Args:
        blocks: contiguous samples from the start of the recording.
        longest: samples; speech without a pause is cut where its probability is lowest.
    """
    tape = _Tape()
    voice_limit = longest - 2 * PAD_SAMPLES
    previous: VoiceSpan | None = None
    floor = 0  # no piece may begin before this
    stream = detector.probabilities(tape.recording(blocks))
    for span, decided in spans(stream, options, longest=voice_limit // FRAME_SAMPLES):
        if span is None:
            if previous is not None and decided >= previous.end + 2 * PAD_SAMPLES:
                end = previous.end + PAD_SAMPLES
                yield tape.piece(max(floor, previous.start - PAD_SAMPLES), end, previous)
                previous, floor = None, end
            tape.forget(max(floor, (previous.start if previous else decided) - 2 * PAD_SAMPLES))
            continue
        if previous is not None:
            end = min(previous.end + PAD_SAMPLES, (previous.end + span.start) // 2)
            yield tape.piece(max(floor, previous.start - PAD_SAMPLES), end, previous)
            floor = end
        previous = span
    if previous is not None:
        end = min(previous.end + PAD_SAMPLES, tape.length)
        yield tape.piece(max(floor, previous.start - PAD_SAMPLES), end, previous)


def packed(pieces: Iterable[Piece], capacity: int) -> Iterator[Window]:
    """Windows of consecutive pieces, each as full as `capacity` samples allow."""
    group: list[Piece] = []
    filled = 0
    for piece in pieces:
        if group and filled + piece.length > capacity:
            yield Window(tuple(group))
            group, filled = [], 0
        group.append(piece)
        filled += piece.length
    if group:
        yield Window(tuple(group))


class _Tape:
    """The most recent part of a stream, addressed by sample numbers of the whole."""

    def __init__(self) -> None:
        self._held: Samples = np.zeros(0, dtype=np.float32)
        self._first = 0  # sample number of _held[0]

    @property
    def length(self) -> int:
        return self._first + len(self._held)

    def recording(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Pass blocks on, keeping a copy."""
        for block in blocks:
            self._held = np.concatenate([self._held, block])
            yield block

    def forget(self, before: int) -> None:
        """Nothing before this sample will be asked for again."""
        drop = min(before - self._first, len(self._held))
        if drop > 0:
            self._held = self._held[drop:].copy()
            self._first += drop

    def piece(self, start: int, end: int, span: VoiceSpan) -> Piece:
        end = min(end, self.length)
        samples = self._held[start - self._first : end - self._first].copy()
        voice_end = min(span.end, end)
        return Piece(samples, start, end, min(max(span.start, start), voice_end), voice_end)


def _quiet_middle(samples: Samples) -> int:
    """The quietest place in the middle half, so that hardly a word is cut in two."""
    quarter = len(samples) // 4
    frames = (len(samples) - 2 * quarter) // QUIET_FRAME_SAMPLES
    if frames < 1:
        return len(samples) // 2
    middle = samples[quarter : quarter + frames * QUIET_FRAME_SAMPLES]
    power = np.square(middle).reshape(frames, QUIET_FRAME_SAMPLES).sum(axis=1)
    return quarter + int(power.argmin()) * QUIET_FRAME_SAMPLES + QUIET_FRAME_SAMPLES // 2


def joined(first: Window | None, piece: Piece) -> Window:
    """A window with one more piece at its end."""
    return Window((piece,)) if first is None else replace(first, pieces=(*first.pieces, piece))
