"""What a real QEMU 7.2 saves goes on here: the toy guest, on its way in several ways of keeping time."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulator import Icount, Machine, Serial
from emulator.migration import vmdesc
from emulator.migration.errors import FieldMismatchError, StreamError
from emulator.migration.format import Mark, find_description
from emulator.migration.wire import Reader

pytestmark = pytest.mark.qemu("qemu-system-misc")

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
LIMIT = 60
GUEST_CRC = b"crc32 of 0x80000000+0x4000: "


class Qemu:
    """A QEMU with the toy guest, by its serial line and its QMP socket."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        ends = []
        for name in ("serial", "qmp"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(directory / name))
            listener.listen()
            ends.append(listener)
        arguments = "-M virt -cpu sifive-u54 -m 16M -nodefaults -display none -bios none".split()
        self.process = subprocess.Popen(
            [
                "qemu-system-riscv64",
                *arguments,
                *("-kernel", str(TOY)),
                *("-serial", f"unix:{directory / 'serial'}"),
                *("-qmp", f"unix:{directory / 'qmp'}"),
                *options,
            ]
        )
        self.serial, self._qmp = (self._accept(listener) for listener in ends)
        self.said = bytearray()
        self._lines = self._qmp.makefile("rw")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(LIMIT)
        connection, _peer = listener.accept()
        connection.settimeout(LIMIT)
        listener.close()
        return connection

    def execute(self, command: str, **arguments: str) -> Any:
        """A QMP command's answer."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while "return" not in (answer := json.loads(self._lines.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def hear(self, text: bytes) -> None:
        """Wait until the guest has said `text`."""
        while text not in self.said:
            self.said += self.serial.recv(4096)

    def save(self, path: Path) -> None:
        """`migrate` to a file, as the monitor's user would."""
        part = f"{path}.part"
        self.execute("migrate", uri=f"exec:cat > {part}; mv {part} {path}")  # which QEMU does not wait for
        deadline = time.monotonic() + LIMIT
        while self.execute("query-migrate")["status"] != "completed" or not path.exists():
            assert time.monotonic() < deadline

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        for connection in (*self._sockets, self.serial, self._qmp):
            connection.close()
        self._lines.close()


@contextmanager
def qemu(directory: Path, *options: str) -> Iterator[Qemu]:
    peer = Qemu(directory, *options)
    try:
        yield peer
    finally:
        peer.close()


def ask(machine: Machine, command: str, answer: str | bytes) -> None:
    machine.serial.write(command + "\r")
    machine.run(until=Serial(answer), timeout=LIMIT)


@pytest.mark.parametrize(
    ("options", "icount"),
    [
        ((), None),
        (("-icount", "shift=3"), Icount(3)),
        (("-icount", "shift=3"), Icount(3, sleep=False)),
    ],
    ids=["host time", "icount", "icount, not sleeping here"],
)
def test_a_guest_goes_on_here_at_its_prompt(tmp_path: Path, options: tuple[str, ...], icount: Icount | None) -> None:
    stream = tmp_path / "stream"
    with qemu(tmp_path, *options) as peer:
        peer.hear(b"toy> ")
        peer.serial.send(b"crc\r")
        peer.hear(GUEST_CRC)
        peer.hear(b"toy> ")
        peer.serial.send(b"count\r")
        peer.hear(b"count 1")
        peer.save(stream)
        crc = peer.said.partition(GUEST_CRC)[2][:8]
    with Machine("virt-7.2", ram="16M", icount=icount) as machine:
        machine.load(stream)
        before = machine.virtual_time
        assert before > 1_000_000_000
        ask(machine, "crc", GUEST_CRC + crc)
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.run(until=Serial("count "), timeout=LIMIT)
        ask(machine, "count stop", "count stopped at ")
        assert before < machine.virtual_time


def sections_of(stream: bytes) -> dict[tuple[str, int], dict[str, Any]]:
    """What is in each section but RAM, read by the stream's own description."""
    end, text = find_description(memoryview(stream))
    descriptions = vmdesc.from_json(text)
    reader, found = Reader(stream[stream.index(b"\x05timer") - 5 : end]), {}
    while reader.peek() != Mark.EOF:
        reader.skip(5)
        name, instance = reader.read(reader.u8()).decode(), reader.u32()
        reader.skip(4)
        found[name, instance] = vmdesc.decode(descriptions[name, instance], reader)
        reader.skip(5)
    return found


def test_what_was_loaded_from_qemu_is_saved_as_it_came(tmp_path: Path) -> None:
    stream, again = tmp_path / "stream", tmp_path / "again"
    with qemu(tmp_path) as peer:
        peer.hear(b"toy> ")
        peer.serial.send(b"count\r")
        peer.hear(b"toy> ")
        peer.save(stream)
    with Machine("virt-7.2", ram="16M") as machine:
        machine.load(stream)
        machine.save(again)
    theirs, ours = (sections_of(path.read_bytes()) for path in (stream, again))
    assert list(theirs) == list(ours)
    assert theirs.pop(("globalstate", 0)) != ours.pop(("globalstate", 0))  # one was running, one is stopped
    assert theirs == ours
    assert find_description(memoryview(stream.read_bytes()))[1] == find_description(memoryview(again.read_bytes()))[1]


@pytest.mark.parametrize(
    ("options", "icount", "error", "message"),
    [
        ((), 3, FieldMismatchError, "expected a machine with -icount shift=3, got a machine without -icount"),
        (("-icount", "shift=3"), None, FieldMismatchError, "got a machine with -icount"),
        (("-icount", "shift=auto"), 3, StreamError, "timer/icount/timers"),
    ],
    ids=["none", "icount", "adaptive"],
)
def test_time_must_be_kept_in_the_same_way(
    tmp_path: Path, options: tuple[str, ...], icount: int | None, error: type[StreamError], message: str
) -> None:
    stream = tmp_path / "stream"
    with qemu(tmp_path, *options) as peer:
        peer.hear(b"toy> ")
        peer.save(stream)
    with Machine("virt-7.2", ram="16M", icount=icount) as machine:
        with pytest.raises(error) as caught:
            machine.load(stream)
        assert message in str(caught.value)
