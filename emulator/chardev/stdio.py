"""The `stdio` chardev: the port on standard input and output, be they a terminal, pipes, files or closed.

The descriptions behind descriptors 0 and 1 are shared with the shell and other programs, so they are never made
non-blocking. A terminal or pipe is opened anew through /proc for that; where this cannot be done the loop writes no
more at a time than a pipe or terminal that has room takes at once.
"""

from __future__ import annotations

import os
import select
import stat
import sys

from emulator.chardev.base import Hooks, HostPort, StreamChardev, reason
from emulator.chardev.console import Mux
from emulator.chardev.loop import IoLoop
from emulator.chardev.terminal import Terminal
from emulator.core.errors import ChardevError


class StdioChardev(StreamChardev):
    """Standard input and output; one at a time in a process. `signals` keeps Ctrl-C for the emulator itself.

    An end of input is normal, and output goes on; so is an output that nobody reads any more.
    """

    _in_use = False

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks, *, signals: bool) -> None:
        if StdioChardev._in_use:
            raise ChardevError("stdio is already in use by another character device")
        super().__init__(port, loop, hooks)
        self._terminal: Terminal | None = None
        # A descriptor that was closed at the start may belong to any file by now.
        self._stdin = _own_copy(0, os.O_RDONLY) if sys.__stdin__ is not None else None
        self._stdout = _own_copy(1, os.O_WRONLY) if sys.__stdout__ is not None else None
        if self._stdout is not None:
            status = os.fstat(self._stdout)
            if not os.get_blocking(self._stdout) or stat.S_ISREG(status.st_mode):
                self.write_size = StreamChardev.write_size
            else:
                self.write_size = select.PIPE_BUF
            if not os.isatty(self._stdout):
                self.drain_seconds = None  # a pipe's reader may take its time, as with any other filter
        if self._stdin is not None and os.isatty(self._stdin):
            if isinstance(port, Mux):
                port.typed = True
            self._terminal = Terminal(self._stdin, signals=signals)
            self._terminal.enter()
        StdioChardev._in_use = True

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        return "stdio"

    def close(self) -> None:
        """See `Chardev.close`; also puts the terminal's modes back."""
        if self._closed:
            return
        try:
            super().close()
        finally:
            if self._terminal is not None:
                self._terminal.restore()
            StdioChardev._in_use = False

    def _begin(self) -> None:
        self._connect(self._stdin, self._stdout)

    def _source_ended(self) -> None:
        fd, self._source = self._source, None
        if fd is not None:
            self._release(fd)

    def _target_failed(self, error: OSError) -> None:
        fd, self._target = self._target, None
        if fd is not None:
            self._release(fd)
        self._output.clear()
        self._stop_writing()
        if self._terminal is None and not isinstance(error, BrokenPipeError):
            self._hooks.announce(f"standard output: {reason(error)}; further output of {self.label} is lost")


def _own_copy(fd: int, access: int) -> int | None:
    """A descriptor of our own for the file behind `fd`, non-blocking if that does not touch the shared one."""
    try:
        if os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                pass  # no /proc, or somebody else's terminal
        return os.dup(fd)
    except OSError:
        return None
