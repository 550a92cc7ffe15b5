"""What a machine says in a stream for a QEMU: in the place of real parts, states of their types."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.boards.machinetypes import MACHINE_TYPES
from emulator.cpu.state import CpuCommonState, CpuState
from emulator.hw.goldfish_rtc import GoldfishRtcState
from emulator.hw.ns16550a import SerialState
from emulator.hw.riscv_aclint import MtimerState
from emulator.migration.errors import StateError
from emulator.qemupeer import changed
from emulator.timekeeper import TimersState

MTIP, MTIE = 0x80, 0x80
NEVER = (1 << 64) - 1
SECOND = 1_000_000_000


class Part:
    def __init__(self, name: str, state: Any) -> None:
        self.vmstate = {name: None}
        self.state = state


def sent(kind: str = "virt-7.2", *, cure: bool = True, **states: Any) -> dict[str, Any]:
    """The states that are sent, by section."""
    defaults = {
        "timer": TimersState(0, 5 * SECOND),
        "cpu_common": CpuCommonState(),
        "cpu": CpuState(mie=MTIE),
        "riscv_mtimer": MtimerState([60_000_000]),
        "serial": SerialState(),
        "goldfish_rtc": GoldfishRtcState(),
    }
    parts: Any = [Part(name, state) for name, state in (defaults | states).items()]
    result = changed(parts, MACHINE_TYPES[kind], cure_timer=cure)
    return {next(iter(part.vmstate)): part.state for part in result}


def test_an_armed_and_enabled_timer_is_pending() -> None:
    states = sent()
    assert (states["cpu"].mip, states["cpu_common"].interrupt_request) == (MTIP, 2)


@pytest.mark.parametrize(
    ("cpu", "timecmp", "mip"),
    [
        (CpuState(mie=0), 60_000_000, 0),  # nobody wants it
        (CpuState(mie=MTIE), NEVER, 0),  # it is not armed
        (CpuState(mie=MTIE, mip=MTIP), 1, MTIP),  # it is pending already
    ],
)
def test_any_other_timer_is_left_alone(cpu: CpuState, timecmp: int, mip: int) -> None:
    states = sent(cpu=cpu, riscv_mtimer=MtimerState([timecmp]))
    assert (states["cpu"].mip, states["cpu_common"].interrupt_request) == (mip, 0)


def test_a_timer_that_is_due_and_not_seen_yet_is_pending() -> None:
    assert sent(riscv_mtimer=MtimerState([1]))["cpu"].mip == MTIP


def test_nothing_is_pending_without_the_cure() -> None:
    assert sent(cure=False)["cpu"].mip == 0


@pytest.mark.parametrize(("delta", "now"), [(30_000_000, 8), (-20_000_000, 3)])
def test_the_clock_is_what_mtime_shows(delta: int, now: int) -> None:
    states = sent(
        riscv_mtimer=MtimerState([60_000_000], delta & NEVER), serial=SerialState(fifo_timeout_timer=6 * SECOND)
    )
    assert states["timer"].cpu_clock_offset == now * SECOND
    assert states["riscv_mtimer"].time_delta == 0
    assert states["serial"].fifo_timeout_timer == (now + 1) * SECOND


def test_a_clock_that_cannot_show_mtime_stays() -> None:
    assert sent(riscv_mtimer=MtimerState([0], 1 << 63))["timer"].cpu_clock_offset == 5 * SECOND


def test_what_has_no_place_is_left_out() -> None:
    rtc = GoldfishRtcState(alarm_next=7, alarm_running=1, armed_next=8, tick_offset=9, armed_offset=10)
    states = sent(cpu=CpuState(fflags=0x1F), goldfish_rtc=rtc)
    assert states["cpu"].fflags == 0
    assert (states["goldfish_rtc"].armed_next, states["goldfish_rtc"].armed_offset) == (7, 9)
    assert rtc.armed_next == 8


def test_page_tables_that_are_not_known_there_are_refused() -> None:
    sv48 = CpuState(satp=9 << 60)
    assert sent("virt-7.2", cpu=sv48)["cpu"].satp == 9 << 60
    with pytest.raises(StateError, match=r"env.satp: expected Bare or Sv39, all that .* QEMU 10.0 .* got Sv48"):
        sent("virt-10.0", cpu=sv48)
    assert sent("virt-10.0", cpu=CpuState(satp=8 << 60))["cpu"].satp == 8 << 60
