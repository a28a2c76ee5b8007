from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listeners import window_of
from stenopool.errors import StorageUnavailable
from stenopool.pipeline import activity as module
from stenopool.pipeline.activity import FIRST_WAIT, LONGEST_WAIT, Activity, Meter, Stopped

ERROR = StorageUnavailable("the storage is away", do="Wait")


@dataclass
class Clock:
    """Time that passes when it is told to."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        time.sleep(0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def begun(
    notes: dict[str, object] | None = None, meter: Meter | None = None, **more: Callable[[], None]
) -> Activity:
    return Activity("job", meter or Meter(), more.get("changed", lambda: None), notes or {})


# --- stop ---------------------------------------------------------------------------------------


def test_work_goes_on_until_it_is_stopped() -> None:
    one = begun()
    one.check()
    with one.computing():
        one.check()
    one.stop()
    with pytest.raises(Stopped):
        one.check()
    with pytest.raises(Stopped):  # again: whoever has caught it must not go on
        one.check()


def test_stopped_is_no_ordinary_error() -> None:
    assert not issubclass(Stopped, Exception)


def test_stopped_work_does_not_begin_to_compute() -> None:
    one = begun()
    one.stop()
    with pytest.raises(Stopped), one.computing():
        raise AssertionError("it was begun")
    assert one.computing_since is None


def test_wait_ends_as_soon_as_the_work_is_stopped() -> None:
    one = begun()
    timer = threading.Timer(0.05, one.stop)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(Stopped):
        one.wait(30.0)
    assert time.monotonic() - begin < 10.0
    timer.join()


def test_wait_of_work_that_goes_on_just_ends() -> None:
    begin = time.monotonic()
    begun().wait(0.05)
    assert time.monotonic() - begin >= 0.04


def test_parked_thread_concludes_nothing(clock: Clock) -> None:
    one, ended = begun(), threading.Event()

    def work() -> None:
        try:
            one.check()
        except Stopped:
            ended.set()

    one.stop(park=True)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while len(clock.slept) < 3:
        time.sleep(0.01)
    assert not ended.is_set()
    one.stop()  # changes nothing
    assert not ended.wait(0.05)
    one._park = False  # else it waits for the end of the process, which this one is not
    thread.join()
    assert ended.is_set()


# --- what it is doing ---------------------------------------------------------------------------


def test_parent_is_told_what_is_computed(clock: Clock) -> None:
    told: list[tuple[float | None, float]] = []
    one = begun(changed=lambda: told.append((one.computing_since, round(one.reading_seconds, 3))))
    first, second = window_of("x" * 100), window_of("x" * 50, 1)
    with one.computing():
        for window in (first, second):
            one.begun(window)
        one.read(first)
        one.read(second)
    seconds = [0.0, 1.0, 1.5, 0.5, 0.0]
    assert told == [*((1000.0, each) for each in seconds), (None, 0.0)]


def test_computing_ends_with_an_error_too() -> None:
    one = begun()
    with pytest.raises(KeyError), one.computing():
        one.begun(window_of("hello"))
        raise KeyError
    assert (one.computing_since, one.reading_seconds) == (None, 0.0)


@pytest.mark.parametrize(
    "act",
    [
        Activity.check,
        lambda one: one.begun(window_of("x")),
        lambda one: one.read(window_of("x")),
        lambda one: one.progress(1.0, 2.0),
    ],
)
def test_whatever_it_does_it_gets_on(act: Callable[[Activity], object], clock: Clock) -> None:
    one = begun()
    act(one)
    assert one.computing_since is None
    with one.computing():
        clock.now += 100.0
        assert one.computing_since == 1000.0
        act(one)
        assert one.computing_since == 1100.0


def test_windows_of_many_threads_are_counted(clock: Clock) -> None:
    one, window = begun(), window_of("x" * 100)

    def work() -> None:
        for _ in range(500):
            one.begun(window)
            one.read(window)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with one.computing():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.reading_seconds == pytest.approx(0.0, abs=1e-6)


# --- notes --------------------------------------------------------------------------------------


def test_notes_are_given_once() -> None:
    one = begun()
    one.phase("opening")
    one.progress(1.0, None)
    one.progress(2.0, 9.0)
    assert one.take_notes() == {"phase": "opening", "done": 2.0, "total": 9.0}
    assert one.take_notes() == {}
    one.phase("merging")
    assert one.take_notes() == {"phase": "merging"}


def test_no_note_is_lost_between_threads() -> None:
    one = begun()
    taken: dict[str, int] = {}
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            taken.update(one.take_notes())

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(2000):
        one.note(**{f"n{number}": number})
    done.set()
    thread.join()
    taken.update(one.take_notes())
    assert taken == {f"n{number}": number for number in range(2000)}


def test_time_of_earlier_attempts_counts(clock: Clock) -> None:
    one = begun({"compute": 5.0})
    with one.computing():
        clock.now += 2.0
        assert one.read(window_of("x")) == 2.0
    assert one.take_notes()["compute"] == 7.0


@pytest.mark.parametrize("attempt", [0, 1, 5, 7, 100, 5000])
def test_pauses_between_tries_grow_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(Activity, "wait", lambda self, seconds: waited.append(seconds))
    one = begun()
    for _ in range(20):
        one.retrying(ERROR, attempt)
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(attempt, 20))
    assert all(longest / 2 <= seconds <= longest for seconds in waited)
    assert len(set(waited)) > 1  # not all at the same moment
    assert one.take_notes() == {"phase": "retrying", "error": ERROR.record()}


def test_pause_between_tries_ends_when_the_work_is_stopped() -> None:
    one = begun()
    one.stop()
    with pytest.raises(Stopped):
        one.retrying(ERROR, 30)


# --- the time of the process --------------------------------------------------------------------


def test_time_in_which_nothing_is_computed_is_charged_to_nobody(clock: Clock) -> None:
    meter = Meter()
    first, second = begun(meter=meter), begun(meter=meter)
    window = window_of("x")
    with first.computing():
        clock.now += 3.0
        assert first.read(window) == 3.0
    clock.now += 100.0
    with second.computing():
        clock.now += 2.0
        assert second.read(window) == 2.0


def test_jobs_that_compute_at_the_same_time_share_it(clock: Clock) -> None:
    meter = Meter()
    first, second = begun(meter=meter), begun(meter=meter)
    window = window_of("x")
    with first.computing():
        clock.now += 4.0
        with second.computing():
            clock.now += 1.0
            assert second.read(window) == 0.5
            clock.now += 2.0
            assert first.read(window) == 4.0 + 0.5 + 1.0
            assert second.read(window) == 1.0
        clock.now += 1.0
        assert first.read(window) == 1.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.booleans()), max_size=60))
def test_charges_add_up_to_the_busy_time(events: list[tuple[int, int, bool]]) -> None:
    """Users begin, read windows and end in any order; each ends when its last window was read."""
    busy, charged = 0.0, 0.0
    inside: dict[int, float] = {}  # users, and the share up to which they were charged
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(now=0.0)
        patch.setattr(module, "time", clock)
        meter = Meter()
        for user, pause, ends in events:
            clock.now += pause
            busy += pause if inside else 0.0
            if user not in inside:
                inside[user] = meter.enter()
                continue
            charged += meter.share() - inside[user]
            inside[user] = meter.share()
            if ends:
                del inside[user]
                meter.leave()
        charged += sum(meter.share() - since for since in inside.values())
    assert charged == pytest.approx(busy)
