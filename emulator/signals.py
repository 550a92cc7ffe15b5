"""Signals that ask the process to end: an exception in the main thread, whatever it does and wherever it waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROD = signal.SIGURG
"""Means nothing and is ignored by default, so that it harms nobody who gets it by mistake."""
PROD_SECONDS = 0.02


class Terminated(BaseException):
    """A signal asks the process to end: raised by the handler, so that it cuts short whatever the main thread does."""

    def __init__(self, number: int) -> None:
        super().__init__(f"terminating on signal {number}")
        self.number = number


def terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """The handler that raises `Terminated`."""
    raise Terminated(number)


def terminate_on(*numbers: signal.Signals) -> None:
    """Have each of these signals raise `Terminated` in the main thread."""
    for number in numbers:
        signal.signal(number, terminate)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals that end the process wait for the end of the block: an exception must not meet a starting thread."""
    waiting: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        waiting.append(number)

    before = [(number, signal.signal(number, note)) for number in ENDING_SIGNALS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    for each in waiting:
        signal.raise_signal(each)


@contextmanager
def noticed() -> Iterator[None]:
    """Have the main thread, which enters it, notice a signal also if that comes just before it begins to wait.

    A handler of Python's runs between two of its instructions. When a signal comes behind the last of them, or meets
    another thread, the wait is not interrupted and the handler runs only when that has ended, which may be never. Here
    a thread hears of each signal as well, and interrupts the main thread again until that has looked.
    """
    main = threading.get_ident()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    has_looked = True

    def looked(_number: int, _frame: FrameType | None) -> None:
        nonlocal has_looked
        has_looked = True

    def prod() -> None:
        nonlocal has_looked
        while number := os.read(reader, 1):
            has_looked = number[0] not in ENDING_SIGNALS
            while not has_looked:
                signal.pthread_kill(main, PROD)
                time.sleep(PROD_SECONDS)
        os.close(reader)

    thread = threading.Thread(target=prod, name="signals", daemon=True)
    with undisturbed():
        thread.start()
    handler = signal.signal(PROD, looked)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        signal.signal(PROD, handler)
