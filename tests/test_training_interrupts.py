from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from stenopool.training.interrupts import Interrupts

# The signals go to a process of its own: whatever else the tests have loaded has no part in it.
TWICE = """
import os, signal, sys
from stenopool.training.interrupts import Interrupts

number = signal.Signals(int(sys.argv[1]))
before = signal.getsignal(number)
with Interrupts() as interrupts:
    print(interrupts.asked)
    os.kill(os.getpid(), number)
    print(interrupts.asked)
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        print("interrupted")
print(signal.getsignal(number) is before)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    command = [sys.executable, "-c", TWICE, str(int(number))]
    said = subprocess.check_output(command, text=True, timeout=60)
    assert said.split() == ["False", "True", "interrupted", "True"]


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def enter() -> None:
        with Interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
