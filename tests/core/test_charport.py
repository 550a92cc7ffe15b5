from __future__ import annotations

from emulator.core.charport import INPUT_LIMIT, INPUT_LOW, CharPort


def test_input_waits_until_the_device_takes_it() -> None:
    port = CharPort()
    port.feed(b"hello")
    assert port.receive(2) == b"he"
    assert port.receive(10) == b"llo"
    assert port.receive(10) == b""


def test_each_feeding_is_told() -> None:
    told: list[int] = []
    port = CharPort()
    port.on_input = lambda: told.append(1)
    port.feed(b"a")
    port.feed(b"b")
    assert told == [1, 1]


def test_output_goes_to_the_sink() -> None:
    port = CharPort()
    port.send(b"lost: nobody listens")
    heard: list[bytes] = []
    port.sink = heard.append
    port.send(b"x")
    assert heard == [b"x"]


def test_room_shrinks_and_draining_is_told_once() -> None:
    drained: list[int] = []
    port = CharPort()
    port.on_drained = lambda: drained.append(port.room)
    assert port.room == INPUT_LIMIT
    port.feed(bytes(INPUT_LIMIT + 5))
    assert port.room == 0
    port.receive(INPUT_LIMIT - INPUT_LOW + 5)
    assert drained == []
    port.receive(1)
    port.receive(1)
    assert drained == [INPUT_LIMIT - INPUT_LOW + 1]
