"""Raw mode for the user's terminal, and its way back on every exit that a process can see coming.

The modes are put back by `restore`, at exit, and by handlers for SIGTERM, SIGHUP, SIGQUIT and SIGTSTP wherever the
program has left these signals to the system; after SIGCONT the terminal is made raw again. Signal handlers can only be
had on the main thread; elsewhere they are left out. A process in the background never touches the terminal: its
modes belong to the shell then.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
import threading
from types import FrameType

_FATAL = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Modes = list[int | list[bytes | int]]

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6


class Terminal:
    """The terminal on descriptor `fd`; `signals` leaves Ctrl-C and Ctrl-Z to the system.

    Raises termios.error if there is no terminal. Bytes come as they are typed, unechoed; on output the terminal goes
    on turning a line feed into a new line, because a log of the emulator itself may share it.
    """

    def __init__(self, fd: int, *, signals: bool) -> None:
        self._fd = os.dup(fd)
        self._saved = termios.tcgetattr(fd)
        self._raw = termios.tcgetattr(fd)
        self._raw[_IFLAG] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        self._raw[_OFLAG] |= termios.OPOST
        self._raw[_CFLAG] = self._raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        self._raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not signals:
            self._raw[_LFLAG] &= ~termios.ISIG
        self._raw[_CC] = list(self._raw[_CC])
        self._raw[_CC][termios.VMIN] = 1
        self._raw[_CC][termios.VTIME] = 0
        self._handled: list[signal.Signals] = []

    def enter(self) -> None:
        """Make the terminal raw, and see to it that it does not stay so."""
        atexit.register(self._set, self._saved)
        if threading.current_thread() is threading.main_thread():
            for number in _FATAL:
                self._handle(number, self._die)
            self._handle(signal.SIGTSTP, self._suspend)
            self._handle(signal.SIGCONT, self._resume)
        self._set(self._raw)

    def restore(self) -> None:
        """Put the modes back as they were, and the signals; for good."""
        if threading.current_thread() is threading.main_thread():
            for number in self._handled:
                if getattr(signal.getsignal(number), "__self__", None) is self:
                    signal.signal(number, signal.SIG_DFL)
            self._handled.clear()
        self._set(self._saved)
        atexit.unregister(self._set)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _handle(self, number: signal.Signals, handler: object) -> None:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, handler)  # type: ignore[arg-type]
            self._handled.append(number)

    def _set(self, modes: Modes) -> None:
        try:
            foreground = os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            foreground = True  # not our controlling terminal, so there is no job control to respect
        if foreground:
            with contextlib.suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(self._fd, termios.TCSANOW, modes)

    def _die(self, number: int, _frame: FrameType | None) -> None:
        self._set(self._saved)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _suspend(self, number: int, _frame: FrameType | None) -> None:
        self._set(self._saved)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here the process has been continued, or was not stopped at all because nobody could have continued it.
        signal.signal(number, self._suspend)
        self._set(self._raw)

    def _resume(self, _number: int, _frame: FrameType | None) -> None:
        self._set(self._raw)
