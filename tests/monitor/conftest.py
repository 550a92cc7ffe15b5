"""A machine that is only a table of values: everything the monitor needs, without a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from emulator.core.bus import AddressMap, MmioRegion
from emulator.core.charport import CharPort
from emulator.core.device import Device
from emulator.core.memory import RamBlock
from emulator.cpu.env import F_NAMES, X_NAMES
from emulator.cpu.mmu import PageMap
from emulator.events import Events
from emulator.monitor.context import Context
from emulator.monitor.hmp import Hmp

# The reset vector that QEMU 7.2 builds for `-M virt -m 128M -bios none`.
RESET_VECTOR = bytes.fromhex(
    "97020000 13868202 732540f1 83b50202 83b28201 67800200 00000080 00000000 0000e087 00000000 00000000 00000000"
)
RAM_BASE = 0x8000_0000


class FakeUart(Device):
    kind = "serial-mm"

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.regions = (MmioRegion("serial", 8, self.read, lambda *_access: None, max_size=1),)

    def read(self, offset: int, size: int) -> int:
        self.reads.append((offset, size))
        return 0x60 + offset

    def properties(self) -> dict[str, object]:
        return {"regshift": 0, "endianness": 2, "chardev": "serial0", "big-endian": False}


class FakeRtc(Device):
    kind = "goldfish_rtc"

    def __init__(self) -> None:
        self.regions = (
            MmioRegion("goldfish_rtc", 0x24, lambda offset, _size: 0x1000_0000 + offset, lambda *_a: None, 4, 4),
        )


class FakeBoard:
    def __init__(self) -> None:
        self.bus = AddressMap()
        self.rom = RamBlock("riscv_virt_board.mrom", 0x1000, readonly=True)
        self.ram = RamBlock("riscv_virt_board.ram", 0x2000)
        self.uart, self.rtc = FakeUart(), FakeRtc()
        self.devices: dict[str, Device] = {"rtc": self.rtc, "uart0": self.uart}
        self.bus.add(0x1000, self.rom)
        self.bus.add(0x10_1000, self.rtc.regions[0])
        self.bus.add(0x1000_0000, self.uart.regions[0])
        self.bus.add(RAM_BASE, self.ram)
        self.bus.write_ram(0x1000, RESET_VECTOR)


class FakeCpu:
    def __init__(self, bus: AddressMap) -> None:
        self.bus = bus
        self.pc = 0x1000
        self.xlen = 64
        self.pages: PageMap | None = None
        self.values = {"pc": 0x1000, "mhartid": 0, "mstatus": 0xA_0000_0000}
        self.values |= {f"x{n}/{name}": n for n, name in enumerate(X_NAMES)}
        self.values |= {f"f{n}/{name}": 0xFFFF_FFFF_0000_0000 + n for n, name in enumerate(F_NAMES)}

    def registers(self) -> dict[str, int]:
        return dict(self.values)

    def page_map(self) -> PageMap | None:
        return self.pages

    def read_virtual(self, address: int, length: int) -> bytes:
        return self.bus.read_ram(address, length)


class FakeMachine:
    """Records what it is told; `call` and `post` run the function at once."""

    name = "virt"

    def __init__(self) -> None:
        self.events = Events()
        self.status = "prelaunch"
        self.uuid = "00000000-0000-0000-0000-000000000000"
        self.board = FakeBoard()
        self.cpu = FakeCpu(self.board.bus)
        self.told: list[str] = []

    def call(self, function: Callable[[], Any], /) -> Any:
        return function()

    def post(self, function: Callable[[], None], /) -> None:
        function()

    def cont(self) -> None:
        self.status = "running"
        self.events.emit("RESUME")

    def stop(self) -> None:
        self.status = "paused"
        self.events.emit("STOP")

    def reset(self) -> None:
        self.told.append("reset")

    def powerdown(self) -> None:
        self.told.append("powerdown")

    def quit(self, code: int = 0) -> None:
        self.told.append(f"quit {code}")


class Peer:
    """The host's end of a port: what the monitor sent so far, and a way to wait for more of it."""

    def __init__(self, port: CharPort) -> None:
        self.port = port
        self.seen = b""
        self._position = 0
        self._changed = threading.Condition()
        port.sink = self._take

    def _take(self, data: bytes) -> None:
        with self._changed:
            self.seen += data
            self._changed.notify_all()

    def type(self, data: bytes) -> None:
        self.port.feed(data)

    def expect(self, wanted: bytes) -> bytes:
        """Wait for `wanted` behind what was expected before, and return what came up to its end."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: wanted in self.seen[self._position :], timeout=20)
            assert arrived, f"no {wanted!r} in {self.seen[self._position :]!r}"
            start, self._position = self._position, self.seen.index(wanted, self._position) + len(wanted)
            return self.seen[start : self._position]


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def hmp(machine: FakeMachine) -> Hmp:
    return Hmp(Context(machine, machine.quit))


@pytest.fixture
def peer() -> Peer:
    return Peer(CharPort("monitor"))
