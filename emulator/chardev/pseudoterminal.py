"""The `pty` chardev: a new pseudo-terminal, to which any terminal program can connect, leave and connect again.

The master's end only tells by hanging up that nobody has the slave open, and nothing tells when somebody opens it, so
while there is no client the loop looks every tenth of a second, and whenever there is output.
"""

from __future__ import annotations

import os
import select
import tty

from emulator.chardev.base import Hooks, HostPort, StreamChardev, reason
from emulator.chardev.loop import IoLoop
from emulator.core.errors import ChardevError

LOOK_SECONDS = 0.1


class PtyChardev(StreamChardev):
    """A pty in raw mode, announced in QEMU's words; output is discarded while no client has it open."""

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks) -> None:
        super().__init__(port, loop, hooks)
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise ChardevError(f"cannot create a pseudo-terminal: {reason(error)}") from error
        self.path = os.ttyname(slave)
        """The slave's path, for clients."""
        tty.setraw(slave)
        os.close(slave)
        os.set_blocking(self._master, False)
        self._poll = select.poll()
        self._poll.register(self._master, select.POLLIN)
        hooks.announce(f"char device redirected to {self.path} (label {self.label})")

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        return f"pty:{self.path}"

    def _begin(self) -> None:
        if self._closed or self._source is not None:
            return
        self._look()
        if self._source is None:
            self._loop.call_later(LOOK_SECONDS, self._begin)

    def _look(self) -> None:
        events = self._poll.poll(0)
        # Input beside a hang-up is from a client that has come and gone between two looks.
        if not events or events[0][1] & select.POLLIN:
            self._connect(self._master, self._master)

    def _output_waits(self) -> None:
        if not self._closed and self._source is None:
            self._look()
        super()._output_waits()

    def _source_ended(self) -> None:
        self._disconnect()
        self._hooks.on_close()
        self._begin()

    def _target_failed(self, _error: OSError) -> None:
        self._source_ended()

    def _release(self, fd: int) -> None:
        self._loop.watch(fd, 0, self._ready)

    def _end(self) -> None:
        if not self._closed:
            super()._end()
            os.close(self._master)
