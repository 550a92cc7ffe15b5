"""Where virtual time comes from, and section `timer`: bytes, what is refused, and what QEMU's own streams say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from emulator.core.errors import ConfigError
from emulator.migration.errors import FieldMismatchError, FieldRangeError, StreamError
from emulator.migration.wire import Reader, Writer
from emulator.timekeeper import CLOCK_LIMIT, VMSTATE_TIMERS, Icount, Timekeeper, TimersState

# Sections of QEMU 7.2 running the toy guest, `-icount` as their names say.
HEAD = """
00 00 00 01 81 5f 5d 27   | cpu_ticks_offset
00 00 00 00 00 00 00 00   | unused
00 00 00 00 94 70 ee 0b   | cpu_clock_offset: 2.49 s
"""
COUNTED = """
05 0c 74 69 6d 65 72 2f 69 63 6f 75 6e 74 00 00 00 01   | subsection timer/icount, version 1
00 00 00 00 67 06 dd 91   | qemu_icount_bias: 1.73 s
00 00 00 00 00 00 3a b6   | qemu_icount: 15030 instructions
"""
ASLEEP = """
05 17 74 69 6d 65 72 2f 69 63 6f 75 6e 74 2f 77 61 72 70 5f 74 69 6d 65 72 00 00 00 01 | timer/icount/warp_timer
00 00 00 00 94 3e 11 1a   | vm_clock_warp_start
00 00 00 00 b1 d4 cd 79   | icount_warp_timer's deadline
"""
SHIFT = """
05 12 74 69 6d 65 72 2f 69 63 6f 75 6e 74 2f 73 68 69 66 74 00 00 00 02 | timer/icount/shift, version 2
00 03                     | icount_time_shift
ff ff ff ff ff ff ff fe   | last_delta
"""


def wire(*tables: str) -> bytes:
    return bytes.fromhex(" ".join(line.partition("|")[0] for table in tables for line in table.splitlines()))


def load(*tables: str) -> TimersState:
    reader = Reader(wire(*tables))
    state = VMSTATE_TIMERS.load(reader)
    assert reader.remaining == 0
    return state


def save(state: TimersState) -> bytes:
    writer = Writer()
    VMSTATE_TIMERS.save(state, writer)
    return bytes(writer.data)


class Hart:
    """As much of one as keeps time."""

    def __init__(self, icount: Icount | None) -> None:
        self.instructions = 0
        self.halted = False
        self.time = Timekeeper(icount)
        self.time.connect(lambda: self.instructions, self._count_from, lambda: self.halted)

    def _count_from(self, instructions: int) -> None:
        self.instructions = instructions


def refusal(action: Callable[[], object]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        action()
    assert str(caught.value).isprintable()
    return caught.value


def test_without_icount_the_clock_goes_on_from_where_it_was() -> None:
    hart = Hart(None)
    state = load(HEAD)
    assert not state.counts
    hart.time.check(state)
    hart.time.adopt(state)
    assert hart.time.now() == 0x9470EE0B
    assert save(hart.time.state) == wire(HEAD)
    hart.time.start()
    assert hart.time.now() >= 0x9470EE0B


def test_with_icount_instructions_and_sleep_make_the_time() -> None:
    hart = Hart(Icount(3))
    hart.time.adopt(load(HEAD, COUNTED))
    assert hart.instructions == 15030
    assert hart.time.now() == (15030 << 3) + 0x6706DD91


def test_a_guest_that_slept_has_slept_until_it_was_saved() -> None:
    hart = Hart(Icount(3))
    hart.time.adopt(load(HEAD, COUNTED, ASLEEP))
    assert hart.time.now() == (15030 << 3) + 0x6706DD91 + 0x9470EE0B - 0x943E111A


def test_a_sleeping_guest_tells_which_timer_it_waits_for() -> None:
    hart = Hart(Icount(3))
    timer = hart.time.clock.timer("alarm", lambda: None)
    hart.instructions, hart.halted = 100, True
    timer.arm(5000)
    hart.time.idle(200)
    assert hart.time.now() == 1000
    data = save(hart.time.state)
    # clock 1000; bias 200, 100 instructions; asleep since 1000, until 5000; shift 3, no correction
    assert data == (
        bytes(16)
        + (1000).to_bytes(8, "big")
        + wire(COUNTED)[:18]
        + (200).to_bytes(8, "big")
        + (100).to_bytes(8, "big")
        + wire(ASLEEP)[:29]
        + (1000).to_bytes(8, "big")
        + (5000).to_bytes(8, "big")
        + wire(SHIFT)[:24]
        + b"\0\3"
        + bytes(8)
    )
    again = Hart(Icount(3))
    again.time.adopt(VMSTATE_TIMERS.load(Reader(data)))
    assert again.time.now() == 1000


@pytest.mark.parametrize("sleep", [False, True])
def test_a_guest_that_runs_or_waits_for_nothing_has_no_warp_timer(sleep: bool) -> None:
    hart = Hart(Icount(3, sleep=sleep))
    hart.halted = sleep
    assert b"warp_timer" not in save(hart.time.state)


def test_the_correction_of_adaptive_icount_is_kept() -> None:
    hart = Hart(Icount(3))
    state = load(HEAD, COUNTED, SHIFT)
    hart.time.check(state)
    hart.time.adopt(state)
    assert hart.time.state.last_delta == -2


def test_a_cut_section_is_refused() -> None:
    data, ends = wire(HEAD, COUNTED, ASLEEP, SHIFT), set()
    for tables in ((HEAD,), (HEAD, COUNTED), (HEAD, COUNTED, ASLEEP)):
        ends.add(len(wire(*tables)))
    for length in set(range(len(data))) - ends:
        refusal(lambda length=length: VMSTATE_TIMERS.load(Reader(data[:length])))


@pytest.mark.parametrize(
    ("icount", "tables", "message"),
    [
        (None, (HEAD, COUNTED), "expected a machine without -icount, got a machine with -icount"),
        (None, (HEAD, COUNTED, SHIFT), "expected a machine without -icount, got a machine with -icount shift=3"),
        (Icount(3), (HEAD,), "expected a machine with -icount shift=3, got a machine without -icount"),
        (
            Icount(4),
            (HEAD, COUNTED, SHIFT),
            "expected a machine with -icount shift=4, got a machine with -icount shift=3",
        ),
    ],
)
def test_a_machine_that_keeps_time_in_another_way_is_refused(
    icount: Icount | None, tables: tuple[str, ...], message: str
) -> None:
    error = refusal(lambda: Timekeeper(icount).check(load(*tables)))
    assert isinstance(error, FieldMismatchError)
    assert message in str(error)


def test_qemu_does_not_say_the_shift_so_that_any_will_do() -> None:
    Timekeeper(Icount(7)).check(load(HEAD, COUNTED))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_clock_offset", -1),
        ("cpu_clock_offset", CLOCK_LIMIT),
        ("qemu_icount_bias", -1),
        ("qemu_icount", -1),
        ("qemu_icount", CLOCK_LIMIT),
    ],
)
def test_a_clock_that_no_machine_can_show_is_refused(name: str, value: int) -> None:
    data = save(replace(load(HEAD, COUNTED), **{name: value}))
    error = refusal(lambda: VMSTATE_TIMERS.load(Reader(data)))
    assert isinstance(error, FieldRangeError)
    assert error.path == name


def test_a_guest_cannot_have_fallen_asleep_after_it_was_saved() -> None:
    later = ASLEEP.replace("94 3e 11 1a", "94 70 ee 0c")
    assert "vm_clock_warp_start" in str(refusal(lambda: load(HEAD, COUNTED, later)))


def test_a_sum_past_the_end_of_time_is_refused() -> None:
    state = TimersState(0, 0, counts=True, qemu_icount_bias=CLOCK_LIMIT - 8, qemu_icount=1)
    assert "ns with all that was slept" in str(refusal(lambda: Timekeeper(Icount(3)).check(state)))
    Timekeeper(Icount(2)).check(state)


@pytest.mark.parametrize("shift", [-1, 11])
def test_a_shift_that_qemu_does_not_have_is_refused(shift: int) -> None:
    with pytest.raises(ConfigError, match=f"shift {shift} is not between 0 and 10"):
        Icount(shift)
