"""The lock that is given in the order in which it was asked for."""

from __future__ import annotations

import subprocess
import sys
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


# The signal goes to a process of its own: whatever else the tests have loaded has no part in it.
INTERRUPTED = """
import os, signal, threading, time
from stenopool.engines.openvino.turns import Turns

turns, free = Turns(), threading.Event()
signal.signal(signal.SIGINT, signal.default_int_handler)

def hold():
    with turns:
        while not turns._waiting:
            time.sleep(0.001)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        free.wait(10)

holder = threading.Thread(target=hold)
holder.start()
while not turns._taken:
    time.sleep(0.001)
try:
    with turns:
        raise SystemExit("the turn came")
except KeyboardInterrupt:
    print("interrupted", len(turns._waiting))
free.set()
holder.join(10)
with turns:
    print("free again")
"""


def test_interrupted_while_waiting_leaves_the_line() -> None:
    said = subprocess.check_output([sys.executable, "-c", INTERRUPTED], text=True, timeout=60)
    assert said.splitlines() == ["interrupted 0", "free again"]
