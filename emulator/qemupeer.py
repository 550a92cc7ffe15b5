"""What a machine's parts say in a stream that is bound for a real QEMU, whose wire has no place for all that ours has.

A QEMU refuses a subsection that it does not know, so ours are left out, and what they tell is told in another way if
there is one. None of this changes the machine: it is what is sent that differs.

- `mtime`: a QEMU's is its virtual clock. If ours has been set, or begun anew with a reset, the clock is sent as `mtime`
  shows it, and what is due at a moment of that clock is moved along.
- The timer: a QEMU does not arm it on arrival (7.2 and 10.0; see docs/qemu-interop.md): the guest would wait for ever.
  With MTIP pending it takes a timer interrupt at once, which is early but harmless, since whoever gets one looks at the
  time, and programs the next one, which arms QEMU's timer.
- Sv48 and Sv57: QEMU 10's sifive-u54 has Sv39 only, and ignores a switch to tables of another mode; a guest that uses
  such tables is not sent there.
- Floating-point exceptions and how an RTC alarm was armed are lost, as they are between two QEMUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emulator.boards.layout import TIMEBASE_HZ
from emulator.boards.machinetypes import MachineType
from emulator.core.bits import mask
from emulator.core.clock import NS_PER_SECOND
from emulator.cpu.state import CPU_INTERRUPT_HARD, SATP_MODE, SATP_MODES
from emulator.cpu.vcpu import MTIP
from emulator.migration.errors import StateError
from emulator.migration.registry import Owner, Sent
from emulator.timekeeper import CLOCK_LIMIT

Parts = Sequence[Owner]


def changed(parts: Parts, kind: MachineType, *, cure_timer: bool) -> Iterator[Owner]:
    """The parts of a stopped machine as they are to be sent to a QEMU, with a pending timer interrupt if need be.

    Raises StateError for a guest that no QEMU of that kind can run.
    """
    states = {name: part.state for part in parts for name in part.vmstate}
    mode = states["cpu"].satp >> SATP_MODE
    if mode not in kind.satp_modes:
        names = " or ".join(SATP_MODES[each] for each in kind.satp_modes)
        why = f"{names}, all that sifive-u54 has in QEMU {kind.qemu} (for Linux: -append no4lvl)"
        error = StateError(why, SATP_MODES[mode])
        error.within("env.satp")
        raise error
    ns = _ahead(states)
    changes: dict[str, Callable[[Any], Any]] = {
        "timer": lambda state: replace(state, cpu_clock_offset=state.cpu_clock_offset + ns),
        "riscv_mtimer": lambda state: replace(state, time_delta=0),
        "serial": lambda state: replace(
            state, fifo_timeout_timer=_moved(state.fifo_timeout_timer, ns), modem_status_poll=None
        ),
        "goldfish_rtc": lambda state: replace(state, armed_next=state.alarm_next, armed_offset=state.tick_offset),
        "cpu": lambda state: replace(state, fflags=0),
    }
    if cure_timer and _waits_for_timer(states):
        changes["cpu"] = lambda state: replace(state, fflags=0, mip=state.mip | MTIP)
        changes["cpu_common"] = lambda state: replace(state, interrupt_request=CPU_INTERRUPT_HARD)
    for part in parts:
        change = next((changes[name] for name in part.vmstate if name in changes), None)
        yield part if change is None else Sent(part, change(part.state))


def _ahead(states: Mapping[str, Any]) -> int:
    """By how many ns `mtime` is ahead of the virtual clock; 0 if no virtual clock can show such an `mtime`."""
    delta = states["riscv_mtimer"].time_delta
    signed = delta - (1 << 64) if delta >> 63 else delta
    ns = signed * NS_PER_SECOND // TIMEBASE_HZ
    return ns if 0 <= states["timer"].cpu_clock_offset + ns < CLOCK_LIMIT else 0


def _moved(deadline: int | None, ns: int) -> int | None:
    return None if deadline is None else max(deadline + ns, 0)


def _waits_for_timer(states: Mapping[str, Any]) -> bool:
    """Whether the hart has its timer interrupt enabled, the timer is armed, and its interrupt is still to come."""
    cpu = states["cpu"]
    return bool(cpu.mie & MTIP and not cpu.mip & MTIP and states["riscv_mtimer"].timecmp[0] < mask(64))
