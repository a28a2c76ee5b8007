"""The lock that is given in the order in which it was asked for."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from stenopool.engines.openvino.turns import Turns


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking() -> None:
    turns, order = Turns(), []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda count=number + 1: len(turns._waiting) == count)  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


def test_only_one_thread_at_a_time_has_it() -> None:
    turns, inside, most = Turns(), 0, 0

    def take() -> None:
        nonlocal inside, most
        for _ in range(200):
            with turns:
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (inside, most) == (0, 1)


def test_failure_inside_gives_the_turn_to_the_next() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="no"), turns:
        raise ValueError("no")
    with turns:
        pass


def test_interrupted_while_waiting_leaves_the_line() -> None:
    turns, free = Turns(), threading.Event()

    def hold() -> None:
        with turns:
            until(lambda: len(turns._waiting) == 1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            free.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    until(lambda: turns._taken)
    with pytest.raises(KeyboardInterrupt), turns:
        pass
    assert not turns._waiting
    free.set()
    holder.join(10)
    with turns:
        pass
