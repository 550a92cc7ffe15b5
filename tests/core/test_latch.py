"""The latch opens for everybody, and a wait that is broken off leaves it as it was."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import pytest

from emulator.core.latch import Latch

PATIENCE_SECONDS = 30


class BrokenOffError(Exception):
    pass


def test_everybody_who_waits_goes_on_when_it_is_set_and_so_does_who_comes_later() -> None:
    latch = Latch()
    waiting = [threading.Thread(target=latch.wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    latch.set()
    latch.set()
    for thread in waiting:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    latch.wait()


def test_it_can_be_cleared_and_set_again() -> None:
    latch = Latch()
    latch.clear()
    latch.set()
    latch.clear()
    late = threading.Thread(target=latch.wait)
    late.start()
    assert late.is_alive()
    latch.set()
    late.join(PATIENCE_SECONDS)
    assert not late.is_alive()


def test_wait_that_a_signal_breaks_off_leaves_it_as_it_was() -> None:
    latch = Latch()

    def break_off(_number: int, _frame: FrameType | None) -> None:
        raise BrokenOffError

    before = signal.signal(signal.SIGALRM, break_off)
    try:
        for _ in range(200):
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            with pytest.raises(BrokenOffError):
                latch.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    latch.set()
    latch.wait()
