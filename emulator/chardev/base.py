"""What a character device is, and the common part of those that move bytes between descriptors and a port."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from emulator.chardev.loop import READ, WRITE, IoLoop
from emulator.chardev.output import OutputBuffer

READ_SIZE = 1 << 14
BATCH_SECONDS = 0.004
"""How long the loop looks out for more output after a burst, instead of being woken for every byte of it."""


class HostPort(Protocol):
    """The host's side of a `CharPort`, or of a `Mux` of several."""

    name: str
    sink: Callable[[bytes], None]
    on_drained: Callable[[], None]

    @property
    def room(self) -> int:
        """How many bytes may be fed before the port is full."""

    def feed(self, data: bytes) -> None:
        """Bytes for the device."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a chardev tells what happens to it.

    `announce` gets lines for the user (where a pty is, which port was taken, a failing disk); `on_open` and `on_close`
    hear of a peer that comes or goes, QEMU's CHR_EVENT_OPENED and CLOSED. These two are called on the loop's thread.
    """

    announce: Callable[[str], None] = print
    on_open: Callable[[], None] = lambda: None
    on_close: Callable[[], None] = lambda: None


def reason(error: Exception) -> str:
    """What went wrong, without the number and the path that `str` would add to an OSError."""
    return getattr(error, "strerror", None) or str(error)


def _discard(_data: bytes) -> None:
    """The sink of a port without a host."""


class Chardev:
    """The host's end of one port; by itself the `null` device, which swallows output and never has input."""

    def __init__(self, port: HostPort) -> None:
        self._port = port
        port.sink = _discard

    @property
    def label(self) -> str:
        """The port's name, QEMU's chardev id."""
        return self._port.name

    @property
    def filename(self) -> str:
        """What `info chardev` shows, in QEMU's spelling."""
        return "null"

    @property
    def patient(self) -> bool:
        """Whether a send waits for a peer that does not read; while False, what does not fit is dropped.

        Setting it to False also lets go of a send that waits. A machine that is to stop sets it, and sets it back when
        its thread has stopped; left at False it also shortens `close`.
        """
        return True

    @patient.setter
    def patient(self, patient: bool) -> None:
        pass

    def close(self) -> None:
        """Write what still waits, as far as the peer takes it, then let go of the port and the host's resources."""
        self._port.sink = _discard
        self._port.on_drained = lambda: None


class StreamChardev(Chardev):
    """A chardev that reads from one descriptor and writes to one, which may be the same, or be missing for a while.

    Everything below `close` runs on the loop's thread. Input is read only as far as the port has room. Output for
    which there is no target is discarded.
    """

    drain_seconds: float | None = 1.0
    """How long `close` waits for a peer that does not read; None for as long as it takes."""
    write_size = 1 << 16

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks) -> None:
        super().__init__(port)
        self._loop = loop
        self._hooks = hooks
        self._source: int | None = None
        self._target: int | None = None
        self._writing = False
        self._closed = False
        self._output = OutputBuffer(lambda: loop.call(self._output_waits), lambda: not loop.inside())

    def start(self) -> None:
        """Begin to move bytes; called once by whoever has opened the device."""
        self._port.sink = self._output.put
        self._port.on_drained = lambda: self._loop.call(self._rearm)
        self._loop.call(self._begin)

    @property
    def patient(self) -> bool:
        """See `Chardev.patient`."""
        return self._output.patient

    @patient.setter
    def patient(self, patient: bool) -> None:
        self._output.patient = patient

    def close(self) -> None:
        """See `Chardev.close`; harmless when called again."""
        super().close()
        if self._closed:
            return
        self._output.shut()
        try:
            if not self._loop.inside():
                self._output.wait_empty(self.drain_seconds)
        finally:
            self._loop.run(self._end)

    def _begin(self) -> None:
        """Connect to the descriptors, or start looking for a peer."""
        raise NotImplementedError

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._disconnect()

    def _connect(self, source: int | None, target: int | None) -> None:
        self._source, self._target = source, target
        self._rearm()
        self._hooks.on_open()

    def _disconnect(self) -> None:
        """Close both descriptors and forget the output that was meant for them."""
        fds = {fd for fd in (self._source, self._target) if fd is not None}
        self._source = self._target = None
        for fd in fds:
            self._release(fd)
        self._output.clear()
        self._stop_writing()

    def _release(self, fd: int) -> None:
        self._loop.watch(fd, 0, self._ready)
        os.close(fd)

    def _rearm(self) -> None:
        """Watch the descriptors for what can be done with them now."""
        wanted: dict[int, int] = {}
        if self._source is not None:
            wanted[self._source] = READ if self._port.room else 0
        if self._target is not None:
            wanted[self._target] = wanted.get(self._target, 0) | (WRITE if self._writing else 0)
        for fd, events in wanted.items():
            self._loop.watch(fd, events, self._ready)

    def _ready(self, fd: int, events: int) -> None:
        if events & WRITE and fd == self._target:
            self._write(fd)
        if events & READ and fd == self._source:
            self._read(fd)

    def _read(self, fd: int) -> None:
        room = self._port.room
        if room:
            try:
                data = os.read(fd, min(room, READ_SIZE))
            except BlockingIOError:
                return
            except OSError:
                data = b""  # a reset connection or a pty without a client: an end like any other
            if not data:
                self._source_ended()
                return
            self._port.feed(data)
        self._rearm()

    def _write(self, fd: int) -> None:
        try:
            written = os.write(fd, self._output.peek(self.write_size))
        except BlockingIOError:
            return
        except OSError as error:
            self._target_failed(error)
            return
        if not self._output.consume(written):
            self._stop_writing()
            self._rearm()

    def _output_waits(self) -> None:
        """There may be output: called once for a burst, then by our own timer until it is over."""
        if self._closed or self._writing or self._output.idle():
            return
        self._writing = True
        if self._target is None:
            self._output.clear()
            self._stop_writing()
        else:
            self._rearm()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.call_later(BATCH_SECONDS, self._output_waits)

    def _source_ended(self) -> None:
        """The peer sends no more."""
        raise NotImplementedError

    def _target_failed(self, error: OSError) -> None:
        """The peer takes no more."""
        raise NotImplementedError
