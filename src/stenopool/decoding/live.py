"""Speech as it is spoken: utterances are found, read while they last, and read again at their end.

While an utterance lasts, what two readings in a row agree on is told at once and not taken back
("local agreement", Liu et al. 2020, as in Whisper-Streaming, Macháček et al. 2023); and what was
said a while ago even if they do not, for a name that sounds otherwise each time would hold up all
that follows. The next readings begin a little before the end of what was told, so that they take no
longer as the utterance gets longer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal, Protocol, TypeAlias

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.vad import FRAME_SAMPLES, Tracker, VadOptions, VoiceSpan
from stenopool.audio.windows import Piece, Window
from stenopool.decoding.readings import Reading
from stenopool.transcript import Word

LONGEST_SECONDS = 28.0  # of an utterance: the model hears 30
# What ends an utterance. The fewer words the model hears at once, the more of them it gets wrong:
# on 44 minutes `tiny.en` has a WER of 5.2 % offline, 6.8 % where half a second ends each utterance,
# and 5.6 % with these.
SILENCE_SECONDS = 0.7
BRIEF_SILENCE_SECONDS = 1.0
KEPT_SECONDS = 1.0  # before speech begins, of audio that may still belong to it
LEAST_NEW_SECONDS = 0.4  # of audio between two readings of an utterance
LEAST_SECONDS = 0.6  # of an utterance before it is read at all
PADDING_SECONDS = 0.3  # around an utterance
UNSURE_SECONDS = 0.1  # at the end of what was heard so far: its last word may be cut
OLD_SECONDS = 2.0  # since a word was said, after which it is told though no two readings agree
MUTE_SECONDS = 1.5  # since the last word that was told, after which a reading should have another
CONTEXT_SECONDS = 3.0  # of what was told, heard again for the sake of what follows
OVERLAP_WORDS = 5  # that may be heard again though they were told
OVERLAP_SECONDS = 1.0  # around the end of what was told, where that may be

Kind: TypeAlias = Literal["started", "stopped", "text", "completed", "failed"]


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """Something that happened to an utterance.

    Attributes:
        utterance: its number, from 0.
        seconds: since the beginning of the stream, for `started` and `stopped`; for `completed`,
            the length of the utterance.
        text: new text for `text`, to be written after what was told before; all of it for
            `completed`; what is wrong for `failed`.
    """

    kind: Kind
    utterance: int
    seconds: float = 0.0
    text: str = ""


class Reader(Protocol):
    """Reads windows, sooner or later."""

    def __call__(self, window: Window, *, final: bool) -> Future[list[Reading]]: ...


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When an utterance begins and ends.

    Attributes:
        threshold: probability at which a frame counts as speech, in (0, 1).
        silence_seconds: that end an utterance; by default `SILENCE_SECONDS`, and up to
            `BRIEF_SILENCE_SECONDS` after one that has only begun.
        automatic: otherwise an utterance ends only when it is committed.
    """

    threshold: float = 0.5
    silence_seconds: float | None = None
    automatic: bool = True


USUAL_TURNS = TurnDetection()


@dataclass
class _Utterance:
    """One that is open, or whose last reading is on its way."""

    number: int
    start: int  # sample of the stream
    read_until: int = 0  # sample up to which it was read last
    reading: bool = False
    closed: bool = False
    mute: bool = False  # a reading ended with what was told, though more was said since
    before: list[Word] = field(default_factory=list)  # of the last reading, not told
    told: list[Word] = field(default_factory=list)

    @property
    def told_until(self) -> float:
        """Seconds of the stream."""
        return self.told[-1].end if self.told else 0.0

    def fresh(self, words: Sequence[Word]) -> list[Word]:
        """What a reading says beyond what was told."""
        found = [one for one in words if (one.start + one.end) / 2 > self.told_until]
        if found and self.told and found[0].start < self.told_until + OVERLAP_SECONDS:
            told, heard = ([_plain(one) for one in some] for some in (self.told, found))
            for count in range(min(OVERLAP_WORDS, len(told), len(heard)), 0, -1):
                if told[-count:] == heard[:count]:
                    return found[count:]
        return found


@dataclass
class _Final:
    """The last reading of an utterance of so many seconds."""

    utterance: _Utterance
    seconds: float
    done: Future[list[Reading]] | None = None


class Live:
    """One stream of audio at 16 kHz.

    Args:
        probabilities: of frames of 512 samples, as `SpeechDetector.live` gives them.
        read: reads windows; partial readings may be rough.
        tell: is told what happens, in order for each utterance, on any thread. Utterances are
            completed in the order in which they were spoken.
    """

    def __init__(
        self,
        probabilities: Callable[[Samples], Samples],
        read: Reader,
        tell: Callable[[LiveEvent], None],
        turns: TurnDetection = USUAL_TURNS,
    ) -> None:
        self._probabilities = probabilities
        self._read = read
        self._tell = tell
        self._turns = turns
        longest = round(LONGEST_SECONDS * SAMPLE_RATE / FRAME_SAMPLES)
        silence = turns.silence_seconds
        vad = VadOptions(
            onset=turns.threshold,
            min_silence=SILENCE_SECONDS if silence is None else silence,
            brief_silence=BRIEF_SILENCE_SECONDS if silence is None else 0.0,
        )
        self._tracker = Tracker(vad, longest)
        self._held: Samples = np.zeros(0, dtype=np.float32)
        self._first = 0  # sample number of _held[0]
        self._judged = 0  # samples that voice activity has seen
        self._open: _Utterance | None = None
        self._count = 0
        self._last = 0.0  # seconds at which the last utterance ended
        self._lock = threading.RLock()
        self._finals: deque[_Final] = deque()  # in the order in which they were spoken
        self._idle = threading.Condition(self._lock)

    @property
    def seconds(self) -> float:
        """Of audio so far."""
        return (self._first + len(self._held)) / SAMPLE_RATE

    def hear(self, samples: Samples) -> None:
        """Take in audio: (samples,) float32 at 16 kHz."""
        with self._lock:
            self._held = np.concatenate([self._held, samples])
            end = self._first + len(self._held)
            frames = (end - self._judged) // FRAME_SAMPLES
            if frames:
                begin = self._judged - self._first
                self._judged += frames * FRAME_SAMPLES
                self._follow(self._held[begin : begin + frames * FRAME_SAMPLES])
            self._read_so_far()
            self._forget()

    def commit(self) -> bool:
        """End the utterance that is open, or take all that is held as one; False if none is."""
        with self._lock:
            span = self._tracker.close()
            end = self._first + len(self._held)
            if not self._turns.automatic:
                start = self._first
            elif self._open is not None:
                start = self._open.start
            elif span is not None:
                start = span.start
            else:
                return False
            if (end - start) / SAMPLE_RATE < LEAST_SECONDS / 4:
                return False
            self._end(start, end)
            return True

    def clear(self) -> None:
        """Forget what is not committed."""
        with self._lock:
            self._tracker.close()
            self._open = None
            self._first += len(self._held)
            self._held = self._held[:0]

    def wait(self, *, at_most: int, seconds: float | None = None) -> bool:
        """Wait until no more than so many utterances are being read for the last time."""
        with self._idle:
            return self._idle.wait_for(lambda: len(self._finals) <= at_most, seconds)

    def _follow(self, samples: Samples) -> None:
        for probability in self._probabilities(samples).tolist():
            if not self._turns.automatic:
                continue
            span = self._tracker.step(probability)
            if self._tracker.is_open and self._open is None:
                self._begin(self._tracker.decided * FRAME_SAMPLES)
            if span is not None:
                self._close(span)
            elif self._open is not None and not self._tracker.is_open:
                self._open = None  # too short to be speech: nothing was told of it but its start

    def _begin(self, start: int, told: Sequence[Word] = ()) -> None:
        padded = max(self._first, start - round(PADDING_SECONDS * SAMPLE_RATE))
        floor = round(self._last * SAMPLE_RATE)
        self._open = _Utterance(self._count, max(padded, floor), told=[*told])
        self._count += 1
        self._tell(LiveEvent("started", self._open.number, self._open.start / SAMPLE_RATE))

    def _close(self, span: VoiceSpan) -> None:
        padding = round(PADDING_SECONDS * SAMPLE_RATE)
        goes_on = self._tracker.is_open  # it was too long
        told = self._open.told if self._open and goes_on else []
        end = span.end if goes_on else span.end + padding
        self._end(self._open.start if self._open else span.start, min(end, self._judged))
        if goes_on:
            self._begin(span.end, [word for word in told if word.start * SAMPLE_RATE >= span.end])

    def _end(self, start: int, end: int) -> None:
        utterance = self._open or _Utterance(self._count, start)
        self._count = max(self._count, utterance.number + 1)
        self._open, utterance.closed = None, True
        self._last = end / SAMPLE_RATE
        self._tell(LiveEvent("stopped", utterance.number, self._last))
        final = _Final(utterance, (end - start) / SAMPLE_RATE)
        self._finals.append(final)
        future = self._read(self._window(start, end), final=True)
        future.add_done_callback(lambda done: self._read_again(final, done))
        if not self._turns.automatic:
            self._drop(end)

    def _read_again(self, final: _Final, done: Future[list[Reading]]) -> None:
        with self._idle:
            final.done = done
            while self._finals and self._finals[0].done:
                self._complete(self._finals.popleft())
            self._idle.notify_all()

    def _complete(self, final: _Final) -> None:
        utterance = final.utterance
        try:
            words = _words(final.done.result()) if final.done else []
            if rest := utterance.fresh(words):
                self._tell(LiveEvent("text", utterance.number, text=_text(rest)))
            text = _text(words).strip()
            self._tell(LiveEvent("completed", utterance.number, final.seconds, text))
        except Exception as error:  # noqa: BLE001  told to whoever listens
            self._tell(LiveEvent("failed", utterance.number, text=str(error)))

    def _read_so_far(self) -> None:
        """Read the open utterance, if it has got longer and is not being read."""
        one, end = self._open, self._judged
        if one is None or one.reading or len(self._finals) > 1:
            return
        if end - one.start < LEAST_SECONDS * SAMPLE_RATE:
            return
        if end - one.read_until < LEAST_NEW_SECONDS * SAMPLE_RATE:
            return
        one.reading, one.read_until = True, end
        start = max(one.start, self._context(one))
        future = self._read(self._window(start, end), final=False)
        future.add_done_callback(lambda done: self._agree(one, end, done))

    def _context(self, one: _Utterance) -> int:
        """The sample of the stream at which the next reading of an utterance begins."""
        if one.mute:  # the model takes the end of a sentence for the end of all
            return round((one.told_until - UNSURE_SECONDS) * SAMPLE_RATE)
        since = one.told_until - CONTEXT_SECONDS
        late = [word.start for word in one.told if word.start >= since]
        return round((late[0] if late else one.told_until) * SAMPLE_RATE)

    def _agree(self, one: _Utterance, end: int, done: Future[list[Reading]]) -> None:
        with self._lock:
            one.reading = False
            if one.closed or done.cancelled() or done.exception() is not None:
                return  # the last reading tells
            now = end / SAMPLE_RATE
            fresh = one.fresh(_words(done.result()))
            common = _common(one.before, fresh)
            agreed = [word for word in common if word.end <= now - UNSURE_SECONDS]
            if one.before:
                rest = fresh[len(agreed) :]
                agreed += takewhile(lambda word: word.end <= now - OLD_SECONDS, rest)
            one.before = fresh[len(agreed) :]
            if not fresh and one.told and now - one.told_until > MUTE_SECONDS:
                one.mute = True
            if agreed:
                one.mute = False
                one.told += agreed
                self._tell(LiveEvent("text", one.number, text=_text(agreed)))

    def _window(self, start: int, end: int) -> Window:
        start = max(start, self._first)
        samples = self._held[start - self._first : end - self._first].copy()
        return Window((Piece(samples, start, start + len(samples), start, start + len(samples)),))

    def _forget(self) -> None:
        if not self._turns.automatic:
            limit = self._first + len(self._held) - round(LONGEST_SECONDS * SAMPLE_RATE)
            if limit > self._first:
                self._end(self._first, self._first + round(LONGEST_SECONDS * SAMPLE_RATE))
            return
        keep = self._open.start if self._open else self._judged - round(KEPT_SECONDS * SAMPLE_RATE)
        self._drop(keep)

    def _drop(self, before: int) -> None:
        if (count := before - self._first) > 0:
            self._held = self._held[count:].copy()
            self._first += count


def _words(readings: Sequence[Reading]) -> list[Word]:
    return [word for reading in readings for word in reading.words]


def _text(words: Sequence[Word]) -> str:
    return "".join(word.word for word in words)


def _common(before: Sequence[Word], now: Sequence[Word]) -> list[Word]:
    """The words at the beginning of a reading that the one before had there, too."""
    found = []
    for earlier, word in zip(before, now, strict=False):
        if _plain(earlier) != _plain(word):
            break
        found.append(word)
    return found


def _plain(word: Word) -> str:
    """As words are compared: how the model writes them changes with what follows."""
    return word.word.strip().strip(".,;:!?\"'-").casefold()
