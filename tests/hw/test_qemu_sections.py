"""The devices' sections beside the real board's: same accesses, same bytes, same description, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.core.memory import RamBlock
from emulator.hw.fw_cfg import STANDARD_FILES, FwCfg, standard_items
from emulator.hw.goldfish_rtc import GoldfishRtc
from emulator.hw.gpex import Gpex
from emulator.hw.ns16550a import Ns16550a
from emulator.hw.pflash_cfi01 import PflashCfi01
from emulator.hw.riscv_aclint import RiscvAclintMtimer
from emulator.hw.sifive_plic import SifivePlic
from emulator.migration.vmdesc import decode, from_json, save_section
from emulator.migration.wire import Reader, Writer

FLASH_SIZE = 0x2000000
Section = tuple[str, int]


class Board:
    """The devices that have sections, at the addresses of the virt board, and nothing else."""

    def __init__(self) -> None:
        self.bus = AddressMap()
        clock = VirtualClock()
        self.flash = [RamBlock(f"virt.flash{bank}", FLASH_SIZE) for bank in range(2)]
        items = standard_items(cpus=1, nographic=True)
        plic = SifivePlic([IrqLine(), IrqLine()])
        serial = IrqLine("serial")
        plic.connect(10, serial)
        self.devices: dict[Section, tuple[int, Device]] = {
            ("riscv_mtimer", 0): (0x2004000, RiscvAclintMtimer(clock, [IrqLine()])),
            ("riscv_sifive_plic", 0): (0xC000000, plic),
            ("0000:00:00.0/gpex_root", 0): (0x30000000, Gpex([IrqLine() for _ in range(4)])),
            ("serial", 0): (0x10000000, Ns16550a(serial, clock, CharPort())),
            ("goldfish_rtc", 0): (0x101000, GoldfishRtc(IrqLine(), clock, lambda: 0)),
            ("pflash_cfi01", 0): (0x20000000, PflashCfi01(self.flash[0], on_mode_change=lambda _mode: None)),
            ("pflash_cfi01", 1): (0x22000000, PflashCfi01(self.flash[1], on_mode_change=lambda _mode: None)),
            ("fw_cfg", 0): (0x10100000, FwCfg(self.bus, items, STANDARD_FILES)),
        }
        for base, device in self.devices.values():
            self.bus.add(base, device.regions[0])
        gpex = self.devices["0000:00:00.0/gpex_root", 0]
        self.devices |= {("PCIHost", 0): gpex, ("PCIBUS", 0): gpex}

    def store(self, address: int, size: int, value: int) -> None:
        self.bus.store(address, size, value)

    def load(self, address: int, size: int) -> int:
        return self.bus.load(address, size)

    def close(self) -> None:
        for block in self.flash:
            block.close()


@pytest.fixture
def board() -> Iterator[Board]:
    ours = Board()
    yield ours
    ours.close()


def sections_of(stream: bytes) -> dict[Section, tuple[bytes, dict[str, Any]]]:
    """The payload and the description of each section, found by its heading; RAM has none."""
    found = {}
    description = from_json(stream[stream.index(b'{"page_size"') :])
    for (name, instance_id), section in description.items():
        numbers = instance_id.to_bytes(4, "big") + section["version"].to_bytes(4, "big")
        heading = re.search(b"\x04....%c%s" % (len(name), re.escape(name.encode() + numbers)), stream, re.DOTALL)
        assert heading is not None
        reader = Reader(stream[heading.end() :])
        decode(section, reader)
        assert reader.peek() == 0x7E
        found[name, instance_id] = (stream[heading.end() : heading.end() + reader.offset], section)
    return found


def nothing(_machine: Any) -> None:
    """As after power-on."""


def program_everything(machine: Any) -> None:
    """Each device in the middle of something."""
    machine.store(0x2004000, 8, 0x123456789)  # mtimecmp
    machine.store(0xC000004, 4, 3)  # PLIC: priorities of sources 1 and 10, thresholds, enables
    machine.store(0xC000028, 4, 7)
    machine.store(0xC002000, 4, 0xFFFFFFFF)
    machine.store(0xC002084, 4, 0x80000001)
    machine.store(0xC200000, 4, 2)
    machine.store(0xC201000, 4, 5)
    machine.store(0x30000004, 4, 0x0507)  # PCI: command, cache line, interrupt line, behind the header
    machine.store(0x3000000C, 1, 0x10)
    machine.store(0x3000003C, 1, 0x42)
    machine.store(0x30000040, 4, 0xDEADBEEF)
    machine.store(0x10100008, 2, 0x0100)  # fw_cfg: two bytes of item 1, half of a DMA address
    machine.load(0x10100000, 2)
    machine.store(0x10100010, 4, 0x78563412)
    machine.store(0x10000003, 1, 0x9B)  # UART: divisor latch, frame, FIFOs with trigger at 8, scratch
    machine.store(0x10000000, 1, 0x39)
    machine.store(0x10000001, 1, 0x05)
    machine.store(0x10000003, 1, 0x1B)
    machine.store(0x10000002, 1, 0x87)
    machine.store(0x10000007, 1, 0xA5)


def fill_the_receive_fifo(machine: Any) -> None:
    """Five bytes in, two of them read, with the data and line status interrupts enabled."""
    machine.store(0x10000003, 1, 0x80)
    machine.store(0x10000000, 1, 0x01)
    machine.store(0x10000003, 1, 0x03)
    machine.store(0x10000001, 1, 0x05)
    machine.store(0x10000002, 1, 0x41)
    machine.store(0x10000004, 1, 0x1B)
    for value in b"abcde":
        machine.store(0x10000000, 1, value)
    assert bytes(machine.load(0x10000000, 1) for _ in range(2)) == b"ab"


def leave_the_transmit_interrupt_behind_another(machine: Any) -> None:
    """A byte was sent and one received: the data interrupt hides that the transmitter is empty."""
    machine.store(0x10000001, 1, 0x03)
    machine.store(0x10000004, 1, 0x10)
    machine.store(0x10000000, 1, 0x55)


def claim_the_uarts_interrupt(machine: Any) -> None:
    """Source 10 is in service, and pending once more."""
    machine.store(0xC000028, 4, 1)
    machine.store(0xC002080, 4, 0x400)
    machine.store(0x10000001, 1, 0x02)
    assert machine.load(0xC201004, 4) == 10
    machine.store(0x10000001, 1, 0x00)
    machine.store(0x10000001, 1, 0x02)


def start_a_buffered_write(machine: Any) -> None:
    """Two of four words are in the write buffer of bank 1."""
    machine.store(0x22001000, 4, 0xE8)
    machine.store(0x22001000, 4, 3)
    machine.store(0x22001000, 4, 0x01020304)
    machine.store(0x22001FFC, 4, 0xF0F1F2F3)


def arm_the_alarm(machine: Any) -> None:
    """Far away, with its interrupt enabled."""
    machine.store(0x10100C, 4, 0x7FFFFFFF)
    machine.store(0x101008, 4, 0x89ABCDEF)
    machine.store(0x101010, 4, 1)


PROGRAMS = (
    nothing,
    program_everything,
    fill_the_receive_fifo,
    leave_the_transmit_interrupt_behind_another,
    claim_the_uarts_interrupt,
    start_a_buffered_write,
    arm_the_alarm,
)


def comparable(values: dict[str, Any]) -> dict[str, Any]:
    """What a payload says, less the time of day and deadlines, which no two machines agree on, and bytes long read."""
    values.pop("tick_offset", None)
    for name, part in values.items():
        if name == "fifo_timeout_timer":
            values[name] = part > 0
        elif name in ("recv_fifo", "xmit_fifo"):
            held = (part["data"] * 2)[part["head"] :][: part["num"]]
            values[name] = held, part["head"]
        elif isinstance(part, dict):
            comparable(part)
    return values


@pytest.mark.qemu
@pytest.mark.parametrize("program", PROGRAMS)
def test_same_accesses_end_in_the_same_sections(
    program: Callable[[Any], None], board: Board, start_real_board: Any, tmp_path: Path
) -> None:
    real = start_real_board()
    program(real)
    program(board)
    theirs = sections_of(real.save(tmp_path / "stream"))
    for (name, instance_id), (_, device) in board.devices.items():
        writer = Writer()
        section = save_section(device.vmstate[name], device.state, writer, name=name, instance_id=instance_id)
        payload, expected = theirs[name, instance_id]
        assert section == expected
        assert comparable(decode(section, Reader(writer.data))) == comparable(decode(expected, Reader(payload)))


@pytest.mark.qemu
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_real_boards_sections_are_loaded_and_saved_unchanged(
    program: Callable[[Any], None], board: Board, start_real_board: Any, tmp_path: Path
) -> None:
    real = start_real_board()
    program(real)
    for (name, instance_id), (payload, expected) in sections_of(real.save(tmp_path / "stream")).items():
        if (name, instance_id) not in board.devices:
            continue
        device = board.devices[name, instance_id][1]
        reader, writer = Reader(payload), Writer()
        state = device.vmstate[name].load(reader, expected["version"], device.fresh())
        device.check(state)
        assert reader.remaining == 0
        assert save_section(device.vmstate[name], state, writer, name=name, instance_id=instance_id) == expected
        assert writer.data == payload
