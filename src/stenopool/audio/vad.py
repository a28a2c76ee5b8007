"""Voice activity detection with Silero VAD (Silero Team 2021, version 6, ONNX), as a stream.

The network gives a speech probability for each frame of 32 ms. The sequence export of the model
takes hundreds of frames in one call, which makes it several hundred times faster than real time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stenopool.audio import SAMPLE_RATE, Samples, regrouped
from stenopool.audio.vad_network import network

FRAME_SAMPLES = 512  # 32 ms
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE
CONTEXT_SAMPLES = 64  # the model sees this much of the previous frame
CALL_FRAMES = 256  # frames in one call of the network: 8.2 s

QUIET_PEAK = 0.05  # recordings that stay below this are brought up to it for the detector
LARGEST_GAIN = 1000.0  # +60 dB: anything quieter is below the last bit of 16-bit audio
BRIEF_SAMPLES = 2 * SAMPLE_RATE  # a recording shorter than this is a word or two
REST_FRAMES = 32  # of silence, a second, that the network gets before a recording
PEAK_DECAY = 0.8  # of the remembered peak, for each call
BANG_FRAMES = 3  # a bang or click this short says nothing about how loud the speech is
BRIEF_SECONDS = 5.0
LATE = 2 / 3  # speech without a pause is cut in its part after this share of the longest span


@dataclass(frozen=True, slots=True)
class VadOptions:
    """When a run of frames counts as speech.

    Attributes:
        onset: probability at which speech begins, in (0, 1).
        hysteresis: speech may end where the probability is this much below `onset`.
        min_silence: seconds of silence that end a span.
        brief_silence: seconds that end one that has only begun, where that is more; what is needed
            falls evenly to `min_silence` while `BRIEF_SECONDS` are spoken.
        min_speech: spans with fewer seconds are dropped.
    """

    onset: float = 0.5
    hysteresis: float = 0.15
    min_silence: float = 0.16
    brief_silence: float = 0.0
    min_speech: float = 0.1


@dataclass(frozen=True, slots=True)
class VoiceSpan:
    """Speech from sample `start` up to, not including, sample `end` of the recording."""

    start: int
    end: int


class SpeechDetector:
    """Speech probabilities of a stream of blocks. Safe to use from several threads.

    Args:
        model: path of the sequence ONNX export.
    """

    def __init__(self, model: Path) -> None:
        self._network = network(model)
        # The network is slow to hear speech right after its start: 33 of 750 recordings of one
        # digit had none. After a second of silence it hears all of them, but also the beginning
        # of many noises; so only recordings of a word or two begin with it.
        rested = _State()
        self._run(np.zeros(REST_FRAMES * FRAME_SAMPLES, dtype=np.float32), rested)
        self._rested = rested.hidden, rested.cell

    def probabilities(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield (frames,) float32 in [0, 1], one for each 512 samples; the last may be partial."""
        state = _State()
        begun = False
        for samples in regrouped(blocks, CALL_FRAMES * FRAME_SAMPLES):
            if not begun and len(samples) < BRIEF_SAMPLES:
                state.hidden, state.cell = self._rested
            begun = True
            yield self._run(samples, state)

    def live(self) -> Callable[[Samples], Samples]:
        """What gives the probabilities of frames as they come: (512 frames,) in, (frames,) out."""
        state = _State()
        state.hidden, state.cell = self._rested
        return lambda samples: self._run(samples, state)

    def _run(self, samples: Samples, state: _State) -> Samples:
        frames = -(-len(samples) // FRAME_SAMPLES)
        padded = np.zeros(CONTEXT_SAMPLES + frames * FRAME_SAMPLES, dtype=np.float32)
        padded[:CONTEXT_SAMPLES] = state.context
        levelled = np.clip(samples * state.gain(samples), -1.0, 1.0)
        padded[CONTEXT_SAMPLES : CONTEXT_SAMPLES + len(samples)] = levelled
        state.context = padded[-CONTEXT_SAMPLES:].copy()
        windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + FRAME_SAMPLES)
        frame_windows = np.ascontiguousarray(windows[::FRAME_SAMPLES])  # (frames, 576)
        probabilities, state.hidden, state.cell = self._network(
            frame_windows, state.hidden, state.cell
        )
        return probabilities.reshape(-1)


class _State:
    """What the detector remembers from one call to the next."""

    def __init__(self) -> None:
        self.hidden: NDArray[np.float32] = np.zeros((1, 1, 128), dtype=np.float32)
        self.cell: NDArray[np.float32] = np.zeros((1, 1, 128), dtype=np.float32)
        self.context: Samples = np.zeros(CONTEXT_SAMPLES, dtype=np.float32)
        self._peak = 0.0

    def gain(self, samples: Samples) -> np.float32:
        """1 for ordinary levels; more for recordings so quiet that the network would miss them."""
        starts = np.arange(0, len(samples), FRAME_SAMPLES)
        peaks = np.sort(np.maximum.reduceat(np.abs(samples), starts))  # (frames,)
        peak = float(peaks[-min(BANG_FRAMES + 1, len(peaks))])
        self._peak = max(peak, self._peak * PEAK_DECAY)
        if self._peak >= QUIET_PEAK or self._peak == 0.0:
            return np.float32(1.0)
        return np.float32(min(QUIET_PEAK / self._peak, LARGEST_GAIN))


def spans(
    probabilities: Iterable[Samples], options: VadOptions, *, longest: int
) -> Iterator[tuple[VoiceSpan | None, int]]:
    """Spans of speech as they close, and how far the stream is decided.

    Args:
        probabilities: chunks of (frames,) from `SpeechDetector.probabilities`.
        longest: frames; a longer span is cut where its probability is lowest.

    Yields:
        `(span, decided)`: a closed span, or `None` at the end of a chunk, and the sample before
        which no later span can begin.
    """
    tracker = Tracker(options, longest)
    for chunk in probabilities:
        for probability in chunk.tolist():
            span = tracker.step(probability)
            if span is not None:
                yield span, span.end
        yield None, tracker.decided * FRAME_SAMPLES
    last = tracker.close()
    if last is not None:
        yield last, last.end


class Tracker:
    """Hysteresis over frame probabilities. Positions are frames."""

    def __init__(self, options: VadOptions, longest: int) -> None:
        self._options = options
        self._longest = longest
        self._frame = 0  # the next one to come
        self._open: list[float] = []  # probabilities of the open span
        self._silent = 0  # frames at the end of the open span that are silent

    @property
    def is_open(self) -> bool:
        """Whether somebody speaks."""
        return bool(self._open)

    @property
    def decided(self) -> int:
        """The frame before which no later span can begin."""
        return self._frame - len(self._open)

    def step(self, probability: float) -> VoiceSpan | None:
        """Take the next frame; returns the span that it closes."""
        self._frame += 1
        if not self._open and probability < self._options.onset:
            return None
        self._open.append(probability)
        if probability >= self._options.onset:
            self._silent = 0
        elif self._silent or probability < self._options.onset - self._options.hysteresis:
            self._silent += 1
        if self._silent and self._silent >= self._patience():
            return self.close()
        if len(self._open) >= self._longest:
            return self._cut()
        return None

    def _patience(self) -> int:
        """Frames of silence that end the open span."""
        options = self._options
        spoken = (len(self._open) - self._silent) * FRAME_SECONDS
        more = max(0.0, options.brief_silence - options.min_silence)
        needed = options.min_silence + more * max(0.0, 1 - spoken / BRIEF_SECONDS)
        return max(1, round(needed / FRAME_SECONDS))

    def close(self) -> VoiceSpan | None:
        """End the open span; `None` when there is none or it is too short."""
        start = self.decided
        end = self._frame - self._silent
        self._open, self._silent = [], 0
        if end <= start or (end - start) * FRAME_SECONDS < self._options.min_speech:
            return None
        return VoiceSpan(start * FRAME_SAMPLES, end * FRAME_SAMPLES)

    def _cut(self) -> VoiceSpan:
        start = self.decided
        first = max(1, int(self._longest * LATE))
        at = first + int(np.argmin(self._open[first:]))
        self._open = self._open[at:]
        self._silent = min(self._silent, len(self._open))
        return VoiceSpan(start * FRAME_SAMPLES, (start + at) * FRAME_SAMPLES)
