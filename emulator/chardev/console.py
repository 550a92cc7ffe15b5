"""The console multiplexer of `mon:` chardevs: several ports share one terminal, and Ctrl-A commands choose among them.

The keys are those of QEMU's `-nographic`, without Ctrl-A t (time stamps) and Ctrl-A s (commit to disk images). Output
of every port is always shown; input goes to the port in focus. Ctrl-A x works even if no port takes input: what a port
has no room for waits here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from emulator.chardev.base import READ_SIZE, Chardev
from emulator.chardev.loop import IoLoop
from emulator.core.charport import CharPort

ESCAPE = 0x01
"""Ctrl-A."""
BACKLOG_LIMIT = 16 << 20
"""Bytes of input kept for a port beyond its own buffer."""


class Command(enum.Enum):
    """What a key after Ctrl-A asks for."""

    HELP = "h"
    QUIT = "x"
    SWITCH = "c"
    BREAK = "b"


_KEYS = {ord(command.value): command for command in Command} | {ord("?"): Command.HELP}

HELP_TEXT = (
    b"\r\n"
    b"C-a h    show these keys\r\n"
    b"C-a x    quit the emulator\r\n"
    b"C-a c    give the keyboard to the next console: serial port, monitor\r\n"
    b"C-a b    send a break\r\n"
    b"C-a C-a  send C-a itself\r\n"
)
QUIT_TEXT = b"\r\nmini-qemu: terminated\r\n"


class EscapeParser:
    """Splits typed bytes into data for the guest and commands; keeps a Ctrl-A whose key has not come yet."""

    def __init__(self) -> None:
        self._escaped = False

    def parse(self, data: bytes) -> Iterator[bytes | Command]:
        """Data and commands in the order typed; an unknown key after Ctrl-A vanishes, as in QEMU."""
        start = 0
        while start < len(data):
            if self._escaped:
                self._escaped = False
                key = data[start]
                start += 1
                if key == ESCAPE:
                    yield bytes([ESCAPE])
                elif key in _KEYS:
                    yield _KEYS[key]
                continue
            end = data.find(ESCAPE, start)
            if end < 0:
                end = len(data)
            else:
                self._escaped = True
            if end > start:
                yield data[start:end]
            start = end + 1


class Mux:
    """Several ports on one chardev; the first has the focus at the start.

    It stands where a `CharPort` would in `open_chardev`. The callbacks are called on the loop's thread and must not
    block: `on_quit` for Ctrl-A x, each time; `on_break` with the port in focus; `on_focus` with the port that has
    just got the focus, so that a monitor can show its prompt.
    """

    def __init__(
        self,
        ports: Sequence[CharPort],
        loop: IoLoop,
        *,
        on_quit: Callable[[], None],
        on_break: Callable[[CharPort], None] = lambda _port: None,
        on_focus: Callable[[CharPort], None] = lambda _port: None,
    ) -> None:
        self.name = ports[0].name
        self.ports = tuple(ports)
        self.focus = ports[0]
        self.on_drained: Callable[[], None] = lambda: None
        self.typed = False
        """Whether a person types at a terminal: then all input is read, and dropped when even the backlog is full."""
        self._chardev: Chardev | None = None
        self._on_quit = on_quit
        self._on_break = on_break
        self._on_focus = on_focus
        self._parser = EscapeParser()
        self._backlog = {port: bytearray() for port in self.ports}
        for port in self.ports:
            # Through the loop: a port must not be fed from within its device's own read.
            port.on_drained = partial(loop.call, partial(self._refill, port))

    def attach(self, chardev: Chardev) -> None:
        """Tell which chardev serves this multiplexer: quitting makes it impatient, so that the machine can stop."""
        self._chardev = chardev

    @property
    def sink(self) -> Callable[[bytes], None]:
        """Where output of every port goes."""
        return self.ports[0].sink

    @sink.setter
    def sink(self, sink: Callable[[bytes], None]) -> None:
        for port in self.ports:
            port.sink = sink

    @property
    def room(self) -> int:
        """How many bytes may be fed now; never 0 for a terminal, where Ctrl-A x may come at any time."""
        return READ_SIZE if self.typed else max(BACKLOG_LIMIT - len(self._backlog[self.focus]), 0)

    def feed(self, data: bytes) -> None:
        """Input from the host, on the loop's thread."""
        for event in self._parser.parse(data):
            if isinstance(event, bytes):
                backlog = self._backlog[self.focus]
                backlog += event[: max(BACKLOG_LIMIT + self.focus.room - len(backlog), 0)]
                self._refill(self.focus)
            else:
                self._obey(event)

    def _obey(self, command: Command) -> None:
        match command:
            case Command.HELP:
                self.sink(HELP_TEXT)
            case Command.SWITCH:
                self.focus = self.ports[(self.ports.index(self.focus) + 1) % len(self.ports)]
                self._on_focus(self.focus)
            case Command.BREAK:
                self._on_break(self.focus)
            case Command.QUIT:
                if self._chardev is not None:
                    self._chardev.patient = False
                self.sink(QUIT_TEXT)
                self._on_quit()

    def _refill(self, port: CharPort) -> None:
        backlog = self._backlog[port]
        data = bytes(backlog[: port.room])
        if data:
            del backlog[: len(data)]
            port.feed(data)
            self.on_drained()
