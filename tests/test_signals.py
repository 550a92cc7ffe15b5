"""A signal that asks the process to end is noticed wherever it meets it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from emulator.core.latch import Latch
from emulator.signals import ENDING_SIGNALS, Terminated, noticed, terminate, undisturbed


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [(number, signal.signal(number, terminate)) for number in ENDING_SIGNALS]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_signal_that_meets_another_thread_ends_the_wait_of_the_main_thread(number: signal.Signals) -> None:
    main = threading.get_ident()

    def send() -> None:
        while sys._current_frames()[main].f_code is not Latch.wait.__code__:
            pass
        signal.pthread_kill(threading.get_ident(), number)  # which the main thread's system call does not hear of

    for _ in range(20):
        sender, latch = threading.Thread(target=send), Latch()
        sender.start()
        with pytest.raises(Terminated) as ended, noticed():
            latch.wait()
        sender.join()
        assert ended.value.number == number


def test_what_is_told_of_signals_and_their_handlers_is_as_it_was_when_nobody_waits_any_more() -> None:
    before = signal.getsignal(signal.SIGURG), threading.active_count()
    with noticed():
        assert threading.active_count() == before[1] + 1
    assert (signal.getsignal(signal.SIGURG), threading.active_count()) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_wait_for_the_end_of_what_must_not_be_disturbed() -> None:
    done: list[str] = []

    def work() -> None:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")

    with pytest.raises(Terminated) as ended:
        work()
    assert done
    assert ended.value.number == signal.SIGTERM
