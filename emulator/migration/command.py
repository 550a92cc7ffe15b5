"""A shell command as a migration's stream: what `exec:COMMAND` is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess

from emulator.core.errors import ChannelError
from emulator.migration.transports import DescriptorChannel

PIPE_SIZE = 1 << 20
"""Bytes that a pipe to a command holds, where the system allows it: sixteen times as many as it would."""
GRACE_SECONDS = 1.0
"""How long a command may take to end after it was asked to; it is killed then."""


class ExecChannel(DescriptorChannel):
    """A shell command's standard input to write to, or its standard output to read from.

    The command is a process group of its own. What else it says goes nowhere; its complaints, where ours go.
    """

    def __init__(self, command: str, name: str, *, reading: bool) -> None:
        nowhere, pipe = subprocess.DEVNULL, subprocess.PIPE
        self._process = subprocess.Popen(
            ("/bin/sh", "-c", command),
            bufsize=0,
            stdin=nowhere if reading else pipe,
            stdout=pipe if reading else nowhere,
            process_group=0,
        )
        file = self._process.stdout if reading else self._process.stdin
        assert file is not None
        with file:
            fd = os.dup(file.fileno())
        _enlarge(fd)
        self._reading = reading
        super().__init__(fd, name)

    def shutdown(self) -> None:
        """See `Channel.shutdown`; the command is asked to end."""
        super().shutdown()
        self._signal(signal.SIGTERM)

    def _close(self) -> None:
        """Close it, wait for the command, and raise ChannelError unless it succeeds.

        That it was still writing when nobody read any more is no failure. A command that was given up and does not end
        is killed.
        """
        if self._fd < 0:
            return
        super()._close()
        status = self._wait()
        pipe_closed = self._reading and status in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
        if status and not pipe_closed and not self._given_up:
            raise ChannelError(f"{self.name} failed: {_show_status(status)}")

    def _wait(self) -> int:
        while True:
            given_up = self._given_up
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(GRACE_SECONDS)
            if given_up:
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reason(self, error: OSError) -> str:
        if error.errno == errno.EPIPE and not self._given_up:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return f"the command has ended, {_show_status(self._process.wait(GRACE_SECONDS))}"
            return "the command does not read any more"
        return super()._reason(error)


def _show_status(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"


def _enlarge(pipe: int) -> None:
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
