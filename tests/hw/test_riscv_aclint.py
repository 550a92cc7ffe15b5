"""MSWI and MTIMER at 10 MHz: one tick is 100 ns. Register answers as QEMU 7.2 gives them."""

from __future__ import annotations

from functools import partial

import pytest

from emulator.core.bus import MmioRegion
from emulator.core.clock import VirtualClock
from emulator.core.irq import IrqLine
from emulator.hw.riscv_aclint import MtimerState, RiscvAclintMtimer, RiscvAclintSwi, SwiState

MTIME = 0x7FF8
MAX = 2**64 - 1


class Bench:
    """An MTIMER for two harts on a clock that the test moves."""

    def __init__(self, *, now: int = 0, timebase_hz: int = 10_000_000) -> None:
        self.now = now
        self.clock = VirtualClock(lambda: self.now)
        self.lines = [IrqLine("MTIP0"), IrqLine("MTIP1")]
        self.mtimer = RiscvAclintMtimer(self.clock, self.lines, timebase_hz=timebase_hz)
        self.edges: list[tuple[int, bool]] = []
        for hart, line in enumerate(self.lines):
            line.connect(partial(self._edge, hart))

    def _edge(self, which: int, level: bool) -> None:
        self.edges.append((which, level))

    def read(self, offset: int, size: int = 8) -> int:
        region = self.mtimer.regions[0]
        assert region.accepts(offset, size)
        return region.read(offset, size)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        region = self.mtimer.regions[0]
        assert region.accepts(offset, size)
        region.write(offset, size, value)

    def advance_to(self, now: int) -> None:
        self.now = now
        self.clock.run_expired()


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.write(0, MAX)
    bench.write(8, MAX)
    bench.edges.clear()
    return bench


def region_of(device: RiscvAclintMtimer | RiscvAclintSwi) -> MmioRegion:
    (region,) = device.regions
    return region


def test_mtimer_region_takes_words_and_doublewords() -> None:
    region = region_of(Bench().mtimer)
    assert (region.name, region.size) == ("riscv.aclint.mtimer", 0x8000)
    assert [region.accepts(0, size) for size in (1, 2, 4, 8)] == [False, False, True, True]
    assert not region.accepts(0x7FFC, 8)


def test_timer_interrupt_is_asserted_at_power_on() -> None:
    bench = Bench()
    assert [line.level for line in bench.lines] == [True, True]
    assert (bench.read(0), bench.read(MTIME)) == (0, 0)
    assert bench.edges == []


def test_mtime_counts_the_virtual_clock_at_10_mhz(bench: Bench) -> None:
    for now, ticks in [(99, 0), (100, 1), (1_000_000_000, 10_000_000), (2**62 + 1, (2**62 + 1) // 100)]:
        bench.now = now
        assert bench.read(MTIME) == bench.mtimer.mtime() == ticks


def test_timer_fires_when_mtime_reaches_mtimecmp(bench: Bench) -> None:
    bench.write(0, 25)
    bench.advance_to(2_499)
    assert bench.edges == []
    bench.advance_to(2_500)
    assert bench.read(MTIME) == 25
    assert bench.edges == [(0, True)]
    assert bench.clock.next_deadline() is None


def test_deadline_is_exact_when_mtimecmp_was_written_between_two_ticks(bench: Bench) -> None:
    bench.now = 150
    bench.write(0, 2)
    assert bench.clock.next_deadline() == 200


def test_mtimecmp_in_the_past_fires_at_once(bench: Bench) -> None:
    bench.now = 1_000
    bench.write(0, 9)
    assert bench.edges == [(0, True)]
    assert bench.clock.next_deadline() is None


def test_mtimecmp_of_now_fires_at_once(bench: Bench) -> None:
    bench.now = 1_000
    bench.write(8, 10)
    assert bench.edges == [(1, True)]


def test_later_mtimecmp_withdraws_the_interrupt(bench: Bench) -> None:
    bench.now = 1_000
    bench.write(0, 10)
    bench.write(0, 11)
    assert bench.edges == [(0, True), (0, False)]
    assert bench.clock.next_deadline() == 1_100


def test_past_mtimecmp_cancels_the_armed_timer(bench: Bench) -> None:
    bench.write(0, 50)
    bench.write(0, 0)
    bench.write(0, MAX)
    bench.advance_to(5_000)
    assert bench.edges == [(0, True), (0, False)]


def test_each_hart_has_its_own_timer(bench: Bench) -> None:
    bench.write(0, 20)
    bench.write(8, 10)
    bench.advance_to(1_000)
    assert bench.edges == [(1, True)]
    bench.advance_to(2_000)
    assert bench.edges == [(1, True), (0, True)]


@pytest.mark.parametrize("timecmp", [MAX, 2**63, (2**63) // 100 + 1])
def test_deadline_beyond_the_clocks_range_never_fires(bench: Bench, timecmp: int) -> None:
    bench.write(0, timecmp)
    assert bench.read(0) == timecmp
    assert bench.clock.next_deadline() is None
    assert not bench.lines[0].level


def test_last_deadline_in_the_clocks_range_is_armed(bench: Bench) -> None:
    bench.write(0, (2**63 - 1) // 100)
    assert bench.clock.next_deadline() == (2**63 - 1) // 100 * 100


@pytest.mark.parametrize(("offset", "register"), [(0, 0), (8, 8), (MTIME, MTIME)])
def test_halves_of_a_register(bench: Bench, offset: int, register: int) -> None:
    bench.write(offset, 0x11112222, size=4)
    bench.write(offset + 4, 0x33334444, size=4)
    assert bench.read(register) == 0x3333444411112222
    assert (bench.read(offset, 4), bench.read(offset + 4, 4)) == (0x11112222, 0x33334444)


def test_halves_of_mtimecmp_are_compared_one_by_one(bench: Bench) -> None:
    bench.write(0, 5)
    bench.write(MTIME, 5)
    bench.write(4, 1, size=4)
    bench.write(0x7FFC, 2, size=4)
    assert bench.edges == [(0, True), (0, False), (0, True)]
    assert (bench.read(0), bench.read(MTIME)) == (0x1_0000_0005, 0x2_0000_0005)


def test_written_mtime_runs_on_from_there(bench: Bench) -> None:
    bench.now = 1_000
    bench.write(MTIME, 1_000_000)
    assert bench.read(MTIME) == 1_000_000
    bench.now = 1_200
    assert bench.mtimer.mtime() == 1_000_002
    bench.write(MTIME, 3)
    bench.now = 1_300
    assert bench.mtimer.mtime() == 4


def test_written_mtime_moves_the_deadlines(bench: Bench) -> None:
    bench.write(0, 1_000)
    bench.write(MTIME, 990)
    assert bench.clock.next_deadline() == 1_000
    bench.write(MTIME, 1_000)
    assert bench.edges == [(0, True)]
    bench.write(MTIME, 0)
    assert bench.edges == [(0, True), (0, False)]
    assert bench.clock.next_deadline() == 100_000


def test_interrupt_falls_when_mtime_wraps(bench: Bench) -> None:
    bench.write(0, MAX)
    bench.write(8, 0)
    bench.write(MTIME, MAX - 1)
    bench.edges.clear()
    bench.advance_to(100)
    assert bench.edges == [(0, True)]
    bench.advance_to(199)
    assert bench.edges == [(0, True)]
    bench.advance_to(200)
    assert bench.edges == [(0, True), (0, False)]
    assert bench.clock.next_deadline() is None


def test_mtime_wraps_at_64_bits(bench: Bench) -> None:
    bench.write(MTIME, MAX)
    bench.now = 200
    assert bench.mtimer.mtime() == 1


@pytest.mark.parametrize("offset", [0x10, 0x100, 0x7FF0])
def test_mtimer_holes_read_0_and_swallow_writes(bench: Bench, offset: int) -> None:
    bench.write(offset, MAX)
    assert bench.read(offset) == 0
    assert (bench.read(0), bench.read(8), bench.read(MTIME)) == (MAX, MAX, 0)


def test_timebase_that_does_not_divide_a_second_never_fires_early() -> None:
    bench = Bench(timebase_hz=32_768)
    bench.write(0, 1)
    deadline = bench.clock.next_deadline()
    assert deadline == 30_518
    bench.now = deadline - 1
    assert bench.mtimer.mtime() == 0
    bench.now = deadline
    assert bench.mtimer.mtime() == 1


def test_mtimer_reset_restarts_mtime_and_keeps_mtimecmp(bench: Bench) -> None:
    bench.now = 1_000_050
    bench.write(0, 300)
    bench.write(8, 0)
    bench.edges.clear()
    bench.mtimer.reset()
    assert (bench.read(0), bench.read(8), bench.read(MTIME)) == (300, 0, 0)
    assert [line.level for line in bench.lines] == [False, True]
    assert bench.edges == []
    bench.advance_to(1_030_000)
    assert bench.read(MTIME) == 300
    assert bench.edges == [(0, True)]


def test_adopted_mtimer_state_arms_timers_and_sets_lines_without_an_edge() -> None:
    bench = Bench(now=5_000)
    bench.mtimer.adopt(MtimerState(timecmp=[60, 49]))
    assert [line.level for line in bench.lines] == [False, True]
    assert bench.edges == []
    assert bench.clock.next_deadline() == 6_000
    bench.advance_to(6_000)
    assert bench.edges == [(0, True)]


@pytest.fixture
def lines() -> list[IrqLine]:
    return [IrqLine("MSIP0"), IrqLine("MSIP1")]


def test_swi_region_takes_words_only(lines: list[IrqLine]) -> None:
    region = region_of(RiscvAclintSwi(lines))
    assert (region.name, region.size) == ("riscv.aclint.swi", 0x4000)
    assert [region.accepts(0, size) for size in (1, 2, 4, 8)] == [False, False, True, False]


@pytest.mark.parametrize(("value", "bit"), [(1, 1), (3, 1), (0xFF, 1), (2, 0), (0, 0)])
def test_msip_is_bit_0_alone(lines: list[IrqLine], value: int, bit: int) -> None:
    region = region_of(RiscvAclintSwi(lines))
    region.write(4, 4, value)
    assert region.read(4, 4) == bit
    assert [line.level for line in lines] == [False, bool(bit)]
    region.write(4, 4, 0)
    assert not lines[1].level


def test_msip_of_a_hart_that_does_not_exist(lines: list[IrqLine]) -> None:
    region = region_of(RiscvAclintSwi(lines))
    for offset in (8, 0x3FFC):
        region.write(offset, 4, 1)
        assert region.read(offset, 4) == 0
    assert not any(line.level for line in lines)


def test_swi_reset_and_adopt_make_no_edge(lines: list[IrqLine]) -> None:
    edges: list[bool] = []
    lines[0].connect(edges.append)
    swi = RiscvAclintSwi(lines)
    swi.adopt(SwiState([1, 0]))
    assert region_of(swi).read(0, 4) == 1
    assert [line.level for line in lines] == [True, False]
    swi.reset()
    assert region_of(swi).read(0, 4) == 0
    assert [line.level for line in lines] == [False, False]
    assert edges == []
