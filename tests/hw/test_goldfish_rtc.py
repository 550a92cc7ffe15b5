"""The Goldfish RTC: register behaviour of QEMU 7.2, times in ns."""

from __future__ import annotations

import pytest

from emulator.core.clock import VirtualClock
from emulator.core.irq import IrqLine
from emulator.hw.goldfish_rtc import GoldfishRtc, GoldfishRtcState

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C
WALL = 0x17A0_0000_FFFF_FF00


class Bench:
    """An RTC that was powered on at WALL, on clocks that the test moves: the virtual one, and how far ahead wall is."""

    def __init__(self) -> None:
        self.now = 0
        self.ahead = WALL
        self.clock = VirtualClock(lambda: self.now)
        self.irq = IrqLine("rtc")
        self.edges: list[bool] = []
        self.irq.connect(self.edges.append)
        self.rtc = GoldfishRtc(self.irq, self.clock, lambda: self.now + self.ahead)

    def read(self, offset: int) -> int:
        region = self.rtc.regions[0]
        assert region.accepts(offset, 4)
        return region.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        region = self.rtc.regions[0]
        assert region.accepts(offset, 4)
        region.write(offset, 4, value)

    def time(self) -> int:
        low = self.read(TIME_LOW)
        return self.read(TIME_HIGH) << 32 | low

    def set_alarm(self, time: int) -> None:
        self.write(ALARM_HIGH, time >> 32)
        self.write(ALARM_LOW, time & 0xFFFFFFFF)

    def advance_to(self, now: int) -> None:
        self.now = now
        self.clock.run_expired()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_region_holds_nine_words(bench: Bench) -> None:
    (region,) = bench.rtc.regions
    assert (region.name, region.size) == ("goldfish_rtc", 0x24)
    assert [region.accepts(0, size) for size in (1, 2, 4, 8)] == [False, False, True, False]


def test_time_is_the_wall_time_also_while_the_machine_is_stopped(bench: Bench) -> None:
    assert bench.time() == WALL
    bench.now = 1_000_000_000
    assert bench.time() == WALL + 1_000_000_000
    bench.ahead += 60_000_000_000
    assert bench.time() == WALL + 61_000_000_000


def test_machine_that_is_powered_on_later_starts_with_that_wall_time() -> None:
    rtc = GoldfishRtc(IrqLine(), VirtualClock(lambda: 700), lambda: WALL)
    assert rtc.time() == WALL


def test_reading_low_latches_high(bench: Bench) -> None:
    assert bench.read(TIME_HIGH) == 0
    assert bench.read(TIME_LOW) == 0xFFFFFF00
    bench.now = 0x200
    assert bench.read(TIME_HIGH) == 0x17A0_0000
    assert bench.read(TIME_LOW) == 0x100
    assert bench.read(TIME_HIGH) == 0x17A0_0001


def test_time_can_be_set_half_by_half(bench: Bench) -> None:
    bench.write(TIME_HIGH, 0x100)
    bench.write(TIME_LOW, 0x200)
    assert bench.time() == 0x100_0000_0200
    bench.now = 50
    assert bench.time() == 0x100_0000_0232


def test_alarm_fires_when_its_time_has_come(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL + 500)
    assert bench.read(ALARM_STATUS) == 1
    bench.advance_to(499)
    assert bench.edges == []
    bench.advance_to(500)
    assert bench.edges == [True]
    assert bench.read(ALARM_STATUS) == 0


def test_high_half_alone_arms_nothing(bench: Bench) -> None:
    bench.write(ALARM_HIGH, 0xFFFF_FFFF)
    assert bench.read(ALARM_STATUS) == 0
    assert bench.clock.next_deadline() is None
    assert (bench.read(ALARM_HIGH), bench.read(ALARM_LOW)) == (0xFFFF_FFFF, 0)


@pytest.mark.parametrize("late", [0, 1, 1 << 40])
def test_alarm_in_the_past_fires_at_once(bench: Bench, late: int) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL - late)
    assert bench.edges == [True]
    assert bench.read(ALARM_STATUS) == 0


def test_past_alarm_replaces_the_armed_one(bench: Bench) -> None:
    bench.set_alarm(WALL + 100)
    bench.write(ALARM_LOW, 0)
    assert bench.read(ALARM_STATUS) == 0
    assert bench.clock.next_deadline() is None


def test_interrupt_waits_for_its_enable_bit(bench: Bench) -> None:
    bench.set_alarm(WALL)
    assert bench.edges == []
    bench.write(IRQ_ENABLED, 0xFFFF_FFFF)
    assert bench.read(IRQ_ENABLED) == 1
    assert bench.edges == [True]
    bench.write(IRQ_ENABLED, 2)
    assert bench.edges == [True, False]


def test_clear_interrupt_lowers_the_line(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL)
    bench.write(CLEAR_INTERRUPT, 0)
    assert bench.edges == [True, False]
    bench.write(IRQ_ENABLED, 1)
    assert bench.edges == [True, False]


def test_clear_alarm_disarms_and_keeps_the_interrupt(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL)
    bench.set_alarm(WALL + 500)
    bench.write(CLEAR_ALARM, 1)
    assert bench.read(ALARM_STATUS) == 0
    bench.advance_to(1_000)
    assert bench.edges == [True]


def test_setting_the_time_leaves_an_armed_alarm_where_it_is(bench: Bench) -> None:
    bench.set_alarm(WALL + 500)
    bench.write(TIME_HIGH, 0xFFFF_0000)
    assert bench.read(ALARM_STATUS) == 1
    assert bench.clock.next_deadline() == 500


def test_alarm_beyond_the_clocks_range_runs_and_never_fires(bench: Bench) -> None:
    bench.write(TIME_HIGH, 0)
    bench.set_alarm(2**64 - 1)
    assert bench.read(ALARM_STATUS) == 1
    assert bench.clock.next_deadline() is None


@pytest.mark.parametrize("offset", [CLEAR_ALARM, CLEAR_INTERRUPT, 0x20])
def test_write_only_registers_and_the_hole_read_0(bench: Bench, offset: int) -> None:
    bench.write(IRQ_ENABLED, 1)
    assert bench.read(offset) == 0


@pytest.mark.parametrize("offset", [ALARM_STATUS, 0x20])
def test_writes_to_what_cannot_be_written_change_nothing(bench: Bench, offset: int) -> None:
    before = bench.rtc.state
    bench.write(offset, 0xFFFF_FFFF)
    assert bench.rtc.state == before == GoldfishRtcState()


def test_reset_drops_the_alarm_and_keeps_time_and_latch(bench: Bench) -> None:
    bench.write(TIME_HIGH, 0x100)
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(0)
    bench.set_alarm(2**60)
    bench.read(TIME_LOW)
    bench.edges.clear()
    bench.rtc.reset()
    assert bench.clock.next_deadline() is None
    assert bench.read(TIME_HIGH) == 0x100
    assert bench.time() >> 32 == 0x100
    assert [bench.read(offset) for offset in (ALARM_LOW, ALARM_HIGH, IRQ_ENABLED, ALARM_STATUS)] == [0, 0, 0, 0]
    assert not bench.irq.level
    assert bench.edges == []


def test_adopted_state_arms_the_alarm_and_sets_the_line_without_an_edge(bench: Bench) -> None:
    bench.now = 1_000
    state = GoldfishRtcState(alarm_next=900, alarm_running=1, irq_pending=1, irq_enabled=1)
    state.tick_offset = (500 - WALL - bench.now) % 2**64
    state.post_load(3)
    bench.rtc.adopt(state)
    assert bench.time() == 500
    assert bench.irq.level
    assert bench.edges == []
    bench.write(CLEAR_INTERRUPT, 1)
    bench.advance_to(1_399)
    assert bench.edges == [False]
    bench.advance_to(1_400)
    assert bench.edges == [False, True]


def test_adopted_alarm_that_is_overdue_fires_when_the_clock_runs(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL + 500)
    bench.ahead += 10_000
    bench.rtc.adopt(bench.rtc.state)
    assert bench.edges == []
    bench.advance_to(1)
    assert bench.edges == [True]


def test_alarm_is_late_by_the_time_that_the_machine_stood_still(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL + 500)
    bench.ahead += 10_000
    bench.advance_to(499)
    assert bench.edges == []
    bench.advance_to(500)
    assert bench.edges == [True]


def test_alarm_waits_for_a_wall_clock_that_was_set_back(bench: Bench) -> None:
    bench.write(IRQ_ENABLED, 1)
    bench.set_alarm(WALL + 500)
    bench.ahead -= 100
    bench.advance_to(599)
    assert bench.edges == []
    bench.advance_to(600)
    assert bench.edges == [True]
