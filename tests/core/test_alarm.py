"""Alarms: they ring when it is time, and only for what was set last."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from emulator.core.alarm import Alarm, Sleeper, TimerFd, new_alarm

LIMIT = 60
KINDS = [Sleeper, pytest.param(TimerFd, marks=pytest.mark.skipif(sys.platform != "linux", reason="only on Linux"))]


class Waiter:
    """Waits for one ring after the other, on a thread of its own."""

    def __init__(self, subject: Alarm) -> None:
        self.subject = subject
        self.rung = threading.Semaphore(0)
        self.closing = False
        self.thread = threading.Thread(target=self._loop)
        self.thread.start()

    def _loop(self) -> None:
        while not self.closing:
            self.subject.wait()
            self.rung.release()

    def close(self) -> None:
        self.closing = True
        self.subject.set(0)
        self.thread.join()
        self.subject.close()


@pytest.fixture(params=KINDS)
def waiter(request: pytest.FixtureRequest) -> Iterator[Waiter]:
    waiter = Waiter(request.param())
    yield waiter
    waiter.close()


def test_it_rings_at_its_moment_and_not_before(waiter: Waiter) -> None:
    moment = time.monotonic() + 0.02
    waiter.subject.set(moment)
    assert waiter.rung.acquire(timeout=LIMIT)
    assert time.monotonic() >= moment


@pytest.mark.parametrize("moment", [0, -1.5])
def test_a_moment_that_has_passed_rings_at_once(waiter: Waiter, moment: float) -> None:
    waiter.subject.set(moment)
    assert waiter.rung.acquire(timeout=LIMIT)


def test_it_rings_again_and_again(waiter: Waiter) -> None:
    for _ in range(3):
        waiter.subject.set(0)
        assert waiter.rung.acquire(timeout=LIMIT)


def test_the_moment_can_be_moved_both_ways(waiter: Waiter) -> None:
    begun = time.monotonic()
    waiter.subject.set(begun + 1000)
    waiter.subject.set(begun + 0.01)
    waiter.subject.set(begun + 0.03)
    assert waiter.rung.acquire(timeout=LIMIT)
    assert time.monotonic() >= begun + 0.03


def test_none_cancels(waiter: Waiter) -> None:
    waiter.subject.set(time.monotonic() + 0.02)
    waiter.subject.set(None)
    assert not waiter.rung.acquire(timeout=0.05)


def test_this_system_has_one() -> None:
    made = new_alarm()
    assert isinstance(made, TimerFd if sys.platform == "linux" else Sleeper)
    made.close()
