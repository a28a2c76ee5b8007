from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples
from stenopool.audio.vad import FRAME_SAMPLES
from stenopool.audio.windows import Window
from stenopool.decoding.live import (
    CONTEXT_SECONDS,
    LONGEST_SECONDS,
    OLD_SECONDS,
    Live,
    LiveEvent,
    TurnDetection,
)
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.transcript import Word

LOUD = 0.5  # amplitude of what stands for speech
WORD_SECONDS = 0.25


def by_loudness(samples: Samples) -> Samples:
    """A detector for which loud frames are speech."""
    frames = samples.reshape(-1, FRAME_SAMPLES)
    return np.where(np.abs(frames).max(axis=1) > LOUD / 2, 0.99, 0.01).astype(np.float32)


def speech(seconds: float) -> Samples:
    return np.full(round(seconds * SAMPLE_RATE), LOUD, dtype=np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


class Script:
    """Reads a window as one word for each quarter of a second of loud samples in it."""

    def __init__(self) -> None:
        self.finals = 0
        self.partials = 0
        self.waiting: list[tuple[Window, bool, Future[list[Reading]]]] = []
        self.onset: float | None = None  # seconds, of the utterance
        self.longest = 0.0  # seconds of a window that was not read for the last time
        self.held = False
        self.error: Exception | None = None
        self.revise = False

    def __call__(self, window: Window, *, final: bool) -> Future[list[Reading]]:
        self.finals += final
        self.partials += not final
        future: Future[list[Reading]] = Future()
        self.waiting.append((window, final, future))
        if not self.held:
            self.answer()
        return future

    def answer(self) -> None:
        for window, final, future in self.waiting:
            if self.error:
                future.set_exception(self.error)
            else:
                future.set_result([self._reading(window, final=final)])
        self.waiting.clear()

    def _reading(self, window: Window, *, final: bool) -> Reading:
        begin = window.pieces[0].start / SAMPLE_RATE
        loud = np.flatnonzero(np.abs(window.samples) > LOUD / 2)
        if not len(loud):
            return Reading((), Figures(0.0, 0.0, 1.0, ()), 0.0, window.end)
        first, last = begin + loud[0] / SAMPLE_RATE, begin + (loud[-1] + 1) / SAMPLE_RATE
        if self.onset is None:
            self.onset = first
        skipped, count = (round((at - self.onset) / WORD_SECONDS) for at in (first, last))
        changed = self.partials if self.revise else 0
        words = tuple(
            Word(
                f" {'x' * changed}{number}",
                self.onset + number * WORD_SECONDS,
                self.onset + (number + 1) * WORD_SECONDS,
                1.0,
            )
            for number in range(skipped, count)
            if window.samples[self._middle(number, begin)] > LOUD / 2
        )
        self.longest = max(self.longest, 0.0 if final else window.seconds)
        if final:
            self.onset = None
        return Reading(words, Figures(0.0, 0.0, 1.0, ()), 0.0, window.end)

    def _middle(self, number: int, begin: float) -> int:
        """The sample of a window, which begins at a second, in the middle of a word."""
        assert self.onset is not None
        return round((self.onset + (number + 0.5) * WORD_SECONDS - begin) * SAMPLE_RATE)


class Heard:
    """What a stream tells."""

    def __init__(self, script: Script, turns: TurnDetection = TurnDetection()) -> None:  # noqa: B008
        self.events: list[LiveEvent] = []
        self.live = Live(by_loudness, script, self.events.append, turns)

    def say(self, *parts: Samples, step: float = 0.1) -> None:
        samples = np.concatenate(parts)
        size = round(step * SAMPLE_RATE)
        for at in range(0, len(samples), size):
            self.live.hear(samples[at : at + size])

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if event.kind != "text"]

    def told(self, utterance: int) -> str:
        return "".join(e.text for e in self.events if e.kind == "text" and e.utterance == utterance)

    def completed(self) -> list[str]:
        return [event.text for event in self.events if event.kind == "completed"]


def test_utterances_are_found_and_completed() -> None:
    heard = Heard(Script())
    heard.say(silence(1), speech(2), silence(1), speech(1), silence(1))
    assert heard.kinds() == ["started", "stopped", "completed"] * 2
    assert heard.completed() == ["0 1 2 3 4 5 6 7", "0 1 2 3"]
    starts = [event.seconds for event in heard.events if event.kind == "started"]
    np.testing.assert_allclose(starts, [0.7, 3.7], atol=0.05)


def test_text_is_told_while_somebody_speaks_and_never_taken_back() -> None:
    heard = Heard(Script())
    heard.say(speech(4))
    early = heard.told(0)
    assert early.split() == [str(n) for n in range(len(early.split()))]
    assert len(early.split()) >= 8  # of the 16 that were said so far
    heard.say(silence(1))
    assert heard.told(0).startswith(early)
    assert heard.told(0).strip() == heard.completed()[0]


def test_what_two_readings_do_not_agree_on_waits_for_the_last_one() -> None:
    script = Script()
    script.revise = True
    heard = Heard(script)
    heard.say(speech(OLD_SECONDS))
    assert heard.told(0) == ""
    heard.say(silence(1))
    assert heard.told(0).strip() == heard.completed()[0] != ""


def test_words_that_sound_otherwise_each_time_hold_up_nothing_for_long() -> None:
    script = Script()
    script.revise = True
    heard = Heard(script)
    heard.say(speech(10))
    assert len(heard.told(0).split()) >= (10 - OLD_SECONDS - 0.8) / WORD_SECONDS


def test_reader_that_stops_at_the_end_of_a_sentence_is_read_on_from_there() -> None:
    class Sentence(Script):
        """Hears nothing after the fifth word in a window that begins with one before."""

        def _reading(self, window: Window, *, final: bool) -> Reading:
            found = super()._reading(window, final=final)
            early = [word for word in found.words if word.word.strip() in {"0", "1", "2", "3", "4"}]
            return found if final or not early else replace(found, words=tuple(early))

    heard = Heard(Sentence())
    heard.say(speech(6))
    assert len(heard.told(0).split()) >= 12
    heard.say(silence(1))
    assert heard.told(0).strip() == heard.completed()[0]


def test_utterances_are_completed_in_the_order_in_which_they_were_spoken() -> None:
    script = Script()
    script.held = True
    heard = Heard(script)
    heard.say(speech(0.5), silence(1), speech(0.5), silence(1), speech(0.5), silence(1))
    assert script.finals == 3
    assert not heard.live.wait(at_most=2, seconds=0.01)
    script.waiting.reverse()
    script.answer()
    assert heard.live.wait(at_most=0, seconds=1)
    completed = [event.utterance for event in heard.events if event.kind == "completed"]
    assert completed == [0, 1, 2]


def test_what_was_told_is_not_read_again_and_again() -> None:
    script = Script()
    heard = Heard(script)
    heard.say(speech(25))
    assert len(heard.told(0).split()) >= 90  # of the 100 that were said so far
    assert script.longest < CONTEXT_SECONDS + 2
    heard.say(silence(1))
    assert heard.completed()[0].split() == [str(number) for number in range(100)]


def test_what_a_reading_says_of_the_past_changes_nothing_that_comes_after() -> None:
    script = Script()
    heard = Heard(script)
    heard.say(speech(4))
    early = heard.told(0)
    script.revise = True  # the last reading will be of another opinion about all
    heard.say(speech(1), silence(1))
    assert heard.told(0).startswith(early)
    last = heard.told(0).removeprefix(early).split()
    assert last == heard.completed()[0].split()[-len(last) :]
    assert len(early.split()) + len(last) == len(heard.completed()[0].split()) == 20


def test_an_utterance_is_read_once_at_a_time() -> None:
    script = Script()
    script.held = True
    heard = Heard(script)
    heard.say(speech(5))
    assert script.partials == 1
    script.answer()
    heard.say(speech(0.2))
    assert script.partials == 2


def test_speech_without_a_pause_is_parted_before_it_is_too_long() -> None:
    heard = Heard(Script())
    heard.say(speech(65), silence(1))
    lengths = [event.seconds for event in heard.events if event.kind == "completed"]
    assert len(lengths) == 3
    assert all(length <= LONGEST_SECONDS + 0.5 for length in lengths)
    words = sum(len(text.split()) for text in heard.completed())
    assert abs(words - 65 / WORD_SECONDS) <= 3


def test_memory_does_not_grow_in_silence_or_speech() -> None:
    heard = Heard(Script())
    heard.say(silence(120), speech(120), silence(120), step=1.0)
    assert len(heard.live._held) <= 31 * SAMPLE_RATE
    assert heard.live.seconds == 360


def test_commit_ends_what_is_open() -> None:
    heard = Heard(Script())
    assert not heard.live.commit()
    heard.say(speech(1))
    assert heard.live.commit()
    assert heard.kinds() == ["started", "stopped", "completed"]


def test_without_turn_detection_only_commit_ends_an_utterance() -> None:
    heard = Heard(Script(), TurnDetection(automatic=False))
    heard.say(speech(1), silence(2), speech(1))
    assert heard.kinds() == []
    assert heard.live.commit()
    assert heard.kinds() == ["stopped", "completed"]
    heard.live.clear()
    assert not heard.live.commit()


def test_cleared_audio_is_forgotten() -> None:
    script = Script()
    heard = Heard(script)
    heard.say(speech(1))
    heard.live.clear()
    script.onset = None
    assert not heard.live.commit()
    heard.say(silence(1), speech(1), silence(1))
    assert heard.completed() == ["0 1 2 3"]


def test_reading_that_fails_is_told_and_the_next_utterance_is_read() -> None:
    script = Script()
    heard = Heard(script)
    script.error = RuntimeError("broken")
    heard.say(speech(1), silence(1))
    script.error = None
    heard.say(speech(1), silence(1))
    assert heard.kinds() == ["started", "stopped", "failed", "started", "stopped", "completed"]


def test_it_can_be_waited_until_all_is_read() -> None:
    script = Script()
    script.held = True
    heard = Heard(script)
    heard.say(speech(1), silence(1))
    assert not heard.live.wait(at_most=0, seconds=0.01)
    threading.Timer(0.05, script.answer).start()
    assert heard.live.wait(at_most=0, seconds=10)
