from __future__ import annotations

import itertools

import pytest

from emulator.chardev.console import BACKLOG_LIMIT, HELP_TEXT, QUIT_TEXT, Command, EscapeParser, Mux
from emulator.core.charport import INPUT_LIMIT


def parse(*pieces: bytes) -> list[bytes | Command]:
    parser = EscapeParser()
    return list(itertools.chain.from_iterable(parser.parse(piece) for piece in pieces))


@pytest.mark.parametrize(
    ("typed", "events"),
    [
        (b"", []),
        (b"plain text\r", [b"plain text\r"]),
        (b"\x01x", [Command.QUIT]),
        (b"\x01c", [Command.SWITCH]),
        (b"\x01h", [Command.HELP]),
        (b"\x01?", [Command.HELP]),
        (b"\x01b", [Command.BREAK]),
        (b"\x01\x01", [b"\x01"]),
        (b"\x01\x01x", [b"\x01", b"x"]),
        (b"\x01\x01\x01x", [b"\x01", Command.QUIT]),
        (b"ab\x01ccd", [b"ab", Command.SWITCH, b"cd"]),
        (b"\x01q", []),
        (b"\x01C", []),
        (b"a\x01\x00b", [b"a", b"b"]),
        (b"a\x01", [b"a"]),
        (b"\xff\x00\x03\x1a", [b"\xff\x00\x03\x1a"]),
    ],
)
def test_keys(typed, events):
    assert parse(typed) == events


def test_split_anywhere_means_the_same():
    typed = b"ab\x01ccd\x01\x01\x01h\x01zef\x01x"

    def joined(events):
        return [b"".join(group) if kind is bytes else list(group) for kind, group in itertools.groupby(events, type)]

    for cut in range(len(typed) + 1):
        assert joined(parse(typed[:cut], typed[cut:])) == joined(parse(typed))
    assert joined(parse(*(bytes([byte]) for byte in typed))) == joined(parse(typed))


class Rig:
    """A mux of a serial port and a monitor, without a chardev."""

    def __init__(self, loop, make_guest):
        self.serial, self.monitor = make_guest("serial0"), make_guest("monitor")
        self.loop = loop
        self.events = []
        self.mux = Mux(
            [self.serial.port, self.monitor.port],
            loop,
            on_quit=lambda: self.events.append("quit"),
            on_break=lambda port: self.events.append(f"break {port.name}"),
            on_focus=lambda port: self.events.append(f"focus {port.name}"),
        )
        self.shown = b""
        self.mux.sink = self.show

    def show(self, data):
        self.shown += data

    def type(self, data):
        self.loop.run(lambda: self.mux.feed(data))


@pytest.fixture
def rig(loop, make_guest):
    return Rig(loop, make_guest)


def test_input_goes_to_the_first_port_until_switched(rig):
    rig.type(b"for serial\x01cfor monitor\x01cback")
    assert rig.serial.port.receive(100) == b"for serialback"
    assert rig.monitor.port.receive(100) == b"for monitor"
    assert rig.events == ["focus monitor", "focus serial0"]


def test_output_of_every_port_is_shown(rig):
    rig.serial.port.send(b"a")
    rig.monitor.port.send(b"b")
    rig.type(b"\x01c")
    rig.serial.port.send(b"c")
    assert rig.shown == b"abc"


def test_help_is_shown_and_not_fed(rig):
    rig.type(b"\x01h")
    assert rig.shown == HELP_TEXT
    assert rig.serial.port.receive(100) == b""


def test_break_names_the_port_in_focus(rig):
    rig.type(b"\x01b\x01c\x01b")
    assert rig.events == ["break serial0", "focus monitor", "break monitor"]


def test_quit_with_every_buffer_full(rig):
    rig.type(bytes(INPUT_LIMIT))
    rig.mux.typed = True
    for _ in range(40):
        rig.type(bytes(1 << 16))
    assert rig.mux.room > 0
    rig.type(b"\x01x")
    assert rig.events == ["quit"]
    assert rig.shown == QUIT_TEXT


def test_full_backlog_stops_a_source_that_is_no_terminal(rig):
    total = INPUT_LIMIT + BACKLOG_LIMIT
    data = bytes(range(128, 256)) * (total // 128)
    rig.type(data)
    assert rig.mux.room == 0
    drained = []
    rig.mux.on_drained = lambda: drained.append(True)
    assert rig.serial.read(total) == data
    rig.loop.run(lambda: None)
    assert drained
    assert rig.mux.room == BACKLOG_LIMIT
    rig.type(b"more")
    assert rig.serial.read(4) == b"more"


def test_backlog_of_one_port_does_not_hold_up_the_other(rig):
    rig.type(bytes(INPUT_LIMIT) + b"waits\x01cat once")
    assert rig.monitor.port.receive(100) == b"at once"
    assert rig.serial.read(INPUT_LIMIT + 5)[-5:] == b"waits"
