"""What the kit for authors of devices has to say about the devices of the board."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.memory import RamBlock
from emulator.hw.fw_cfg import STANDARD_FILES, FwCfg, standard_items
from emulator.hw.goldfish_rtc import GoldfishRtc, GoldfishRtcState
from emulator.hw.gpex import Gpex, GpexState
from emulator.hw.ns16550a import Ns16550a, SerialState
from emulator.hw.pflash_cfi01 import SECTOR_SIZE, PflashCfi01
from emulator.hw.riscv_aclint import RiscvAclintMtimer
from emulator.hw.sifive_plic import SifivePlic
from emulator.testing import Bench, check_device

WALL = 0x17A0_0000_0000_0000


@pytest.fixture
def make_block() -> Iterator[Callable[[str, int], RamBlock]]:
    blocks: list[RamBlock] = []

    def make(name: str, size: int) -> RamBlock:
        blocks.append(RamBlock(name, size))
        return blocks[-1]

    yield make
    for block in blocks:
        block.close()


@pytest.mark.parametrize("harts", [1, 3])
def test_mtimer(harts: int) -> None:
    check_device(
        lambda bench: RiscvAclintMtimer(bench.clock, [bench.line(f"mtip{hart}") for hart in range(harts)]),
        offsets=(0, 4, 8, 16, 20, 0x7FF8, 0x7FFC),
    )


@pytest.mark.parametrize(("sources", "contexts", "priorities"), [(96, 2, 7), (33, 3, 5), (2, 1, 1)])
def test_plic(sources: int, contexts: int, priorities: int) -> None:
    wires = [source for source in (1, 2, 31, 32, 40, 95) if source < sources]

    class Wired(SifivePlic):
        def __init__(self, bench: Bench) -> None:
            super().__init__(
                [bench.line(f"context{context}") for context in range(contexts)],
                sources=sources,
                priorities=priorities,
            )
            self.wires = {source: self.input(source) for source in wires}

    def pulse(source: int) -> Callable[[Wired], None]:
        def happen(plic: Wired) -> None:
            plic.wires[source](True)
            plic.wires[source](False)

        return happen

    check_device(
        Wired,
        offsets=(
            *(4 * source for source in wires),
            *(0x2000 + 0x80 * context + 4 * word for context in range(contexts) for word in range(3)),
            *(0x200000 + 0x1000 * context + 4 * register for context in range(contexts) for register in range(2)),
        ),
        events=[pulse(source) for source in wires],
    )


def test_gpex() -> None:
    def assert_pins() -> Iterator[GpexState]:
        state = GpexState(irq_count=[0, 1, 0, 1])
        state.root.irq_state = [0, 1, 0, 1]
        yield state

    check_device(
        lambda bench: Gpex([bench.line(f"INT{pin}") for pin in "ABCD"]), offsets=range(0x100), samples=assert_pins
    )


def test_serial() -> None:
    def stuck() -> Iterator[SerialState]:
        """States of a machine whose terminal took no byte, and of one with modem lines."""
        yield SerialState(ier=2, lsr=0x20, tsr_retry=4, tsr=0x31, thr=0x32)
        state = SerialState(fcr=0xC1, iir=0xC1, lsr=0, tsr_retry=1, tsr=0x31)
        for value in range(16):
            state.xmit_fifo.push(value)
        yield state
        yield SerialState(poll_msl=1, modem_status_poll=1_000)

    def make(bench: Bench) -> Ns16550a:
        return Ns16550a(bench.line(), bench.clock, CharPort())

    def type_bytes(uart: Ns16550a) -> None:
        uart._port.feed(b"key")
        uart.poll_input()

    def carry(old: Ns16550a, new: Ns16550a) -> None:
        waiting = old._port.receive(1 << 16)
        old._port.feed(waiting)
        new._port.feed(waiting)

    check_device(
        make,
        events=[
            type_bytes,
            Ns16550a.receive_break,
            lambda uart: uart.set_modem_lines(0x40),
            lambda uart: uart.set_modem_lines(0xB0),
        ],
        samples=stuck,
        carry=carry,
        rounds=40,
    )


def test_rtc() -> None:
    check_device(lambda bench: GoldfishRtc(bench.line(), bench.clock, lambda: WALL + bench.now), rounds=60)


def test_rtc_far_from_the_wall_clock() -> None:
    def samples() -> Iterator[GoldfishRtcState]:
        yield GoldfishRtcState(tick_offset_vmstate=5, alarm_next=2**64 - 1, alarm_running=1, armed_next=1)

    check_device(lambda bench: GoldfishRtc(bench.line(), bench.clock, lambda: bench.now), samples=samples)


@pytest.mark.parametrize("readonly", [False, True])
def test_pflash(readonly: bool, make_block: Callable[[str, int], RamBlock]) -> None:
    def carry(old: PflashCfi01, new: PflashCfi01) -> None:
        new.block.view[:] = old.block.view

    def command(value: int) -> Callable[[PflashCfi01], None]:
        return lambda chip: chip.regions[0].write(0x1000, 4, value)

    check_device(
        lambda _bench: PflashCfi01(
            make_block("flash", 2 * SECTOR_SIZE), readonly=readonly, on_mode_change=lambda _mode: None
        ),
        offsets=(0, 0x1000, 0x1004, 0x1FFC, 0x7FFF8, 0x7FFFC),
        events=[command(value) for value in (0xE8, 0xE8, 0xD0, 0x70, 0x40, 0x20, 0x90, 0x98, 0x02, 0xFF)],
        carry=carry,
        rounds=8,
    )


def test_fw_cfg(make_block: Callable[[str, int], RamBlock]) -> None:
    items = standard_items(cpus=1, nographic=True)

    class WithRam(FwCfg):
        def __init__(self, _bench: Bench) -> None:
            bus = AddressMap()
            self.ram = make_block("ram", 0x1000)
            bus.add(0, self.ram)
            super().__init__(bus, items, STANDARD_FILES, [(0x20000, 0x20000), (0x900, 0x1000), (0x24, 0x1000)])

    def carry(old: WithRam, new: WithRam) -> None:
        new.ram.view[:] = old.ram.view

    def select(key: int) -> Callable[[FwCfg], None]:
        return lambda chip: chip.regions[0].write(8, 2, int.from_bytes(key.to_bytes(2, "big"), "little"))

    check_device(WithRam, offsets=range(0x18), events=[select(key) for key in (0, 1, 0x19, 0x20, 0x8019)], carry=carry)
