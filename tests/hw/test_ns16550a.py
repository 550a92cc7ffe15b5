"""The UART against the PC16550D datasheet, and against the real QEMU where it is installed."""

from __future__ import annotations

import copy
import random
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from emulator.core.charport import CharPort
from emulator.core.clock import VirtualClock
from emulator.core.irq import IrqLine
from emulator.hw.fifo8 import Cursor, Fifo
from emulator.hw.ns16550a import INPUT_BURST, INPUT_PAUSE_NS, Ns16550a, SerialState

# Registers by offset; DLL and DLM stand behind LCR's divisor latch access bit.
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

# IER
RECEIVED, THR_EMPTY, LINE_STATUS, MODEM_STATUS = 0x01, 0x02, 0x04, 0x08
# IIR's low four bits, table 2 of the datasheet, most urgent first
ID_LINE_STATUS, ID_RECEIVED, ID_TIMEOUT, ID_THR_EMPTY, ID_MODEM_STATUS, ID_NONE = 0x6, 0x4, 0xC, 0x2, 0x0, 0x1
FIFOS = 0xC0  # IIR's high bits while the FIFOs are on
# LSR
DR, OE, BI, THRE, TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
IDLE = THRE | TEMT
# MCR
DTR, RTS, LOOP = 0x01, 0x02, 0x10
DLAB = 0x80

FIFO_ON = {1: 0x01, 4: 0x41, 8: 0x81, 14: 0xC1}  # FCR by trigger level
FOUR_CHARACTERS_8N1 = 1_202_425  # ns: 4 * 10 bits at 399193 / 12 baud


class Bench:
    """A UART on a bench: the test is the CPU, the terminal, the interrupt controller and the clock."""

    def __init__(self) -> None:
        self.now = 0
        self.sent = bytearray()
        self.edges: list[bool] = []
        self.irq = IrqLine("serial")
        self.irq.connect(self.edges.append)
        self.clock = VirtualClock(lambda: self.now)
        self.port = CharPort()
        self.port.sink = self.sent.extend
        self.uart = Ns16550a(self.irq, self.clock, self.port)

    def read(self, register: int, size: int = 1) -> int:
        return self.uart.regions[0].read(register, size)

    def write(self, register: int, value: int, size: int = 1) -> None:
        self.uart.regions[0].write(register, size, value)

    def type(self, data: bytes) -> None:
        """The user types."""
        self.port.feed(data)
        self.uart.poll_input()

    def loop(self, data: bytes) -> None:
        """Receive `data` through the loop-back, which no trigger level holds back."""
        self.write(MCR, LOOP)
        for value in data:
            self.write(THR, value)

    def wait(self, ns: int) -> None:
        self.now += ns
        self.clock.run_expired()

    def identify(self) -> int:
        """IIR without the FIFO bits, after a look whether the line agrees."""
        level = self.irq.level
        ident = self.read(IIR) & 0xF
        assert level == (ident != ID_NONE)
        return ident


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Reset and the register file


def test_reset_values(bench: Bench) -> None:
    assert [bench.read(n) for n in range(8)] == [0, 0, 0x01, 0, 0x08, 0x60, 0xB0, 0]
    assert not bench.irq.level


def test_reset_undoes_everything_the_guest_did(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, 0x0F)
    bench.type(b"pending")
    for register, value in ((LCR, DLAB), (DLM, 1), (LCR, 0x1B), (MCR, 0x0B), (SCR, 0x77)):
        bench.write(register, value)
    bench.uart.reset()
    assert bench.uart.state == SerialState()
    assert not bench.irq.level
    assert bench.clock.next_deadline() is None


def test_only_eight_bytes_answer(bench: Bench) -> None:
    (region,) = bench.uart.regions
    assert (region.name, region.size) == ("serial", 8)
    assert region.accepts(7, 1)
    assert not region.accepts(8, 1)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_wide_access_reaches_only_the_register_at_its_offset(bench: Bench, size: int) -> None:
    bench.write(SCR, 0x5A)
    bench.write(LCR, 0x03)
    bench.write(THR, 0x1122334455667788 & ((1 << (8 * size)) - 1), size)
    assert bench.sent == b"\x88"
    assert bench.read(LCR) == 0x03
    assert bench.read(MCR, size) == 0x08


def test_scratch_register_keeps_any_byte(bench: Bench) -> None:
    for value in range(256):
        bench.write(SCR, value)
        assert bench.read(SCR) == value


def test_unused_bits_read_as_zero(bench: Bench) -> None:
    bench.write(IER, 0xFF)
    bench.write(MCR, 0xFF)
    assert bench.read(IER) == 0x0F
    assert bench.read(MCR) == 0x1F


def test_status_registers_ignore_writes(bench: Bench) -> None:
    bench.write(LSR, 0x00)
    bench.write(MSR, 0x0F)
    assert bench.read(LSR) == IDLE
    assert bench.read(MSR) == 0xB0


# Divisor latch


def test_divisor_latch_hides_behind_dlab(bench: Bench) -> None:
    bench.write(LCR, DLAB | 3)
    assert (bench.read(DLL), bench.read(DLM)) == (12, 0)
    bench.write(DLL, 0x34)
    bench.write(DLM, 0x12)
    assert (bench.read(DLL), bench.read(DLM)) == (0x34, 0x12)
    assert bench.uart.state.divider == 0x1234
    bench.write(LCR, 3)
    assert bench.read(IER) == 0
    assert bench.sent == b""


def test_divisor_access_neither_takes_input_nor_enables_interrupts(bench: Bench) -> None:
    bench.type(b"x")
    bench.write(LCR, DLAB)
    bench.read(DLL)
    bench.write(DLM, 0xFF)
    bench.write(LCR, 0)
    assert bench.read(IER) == 0
    assert bench.read(LSR) & DR
    assert bench.read(RBR) == ord("x")


# Transmitting


def test_transmitted_bytes_leave_at_once(bench: Bench) -> None:
    for value in b"hello":
        bench.write(THR, value)
        assert bench.read(LSR) == IDLE
    assert bench.sent == b"hello"


def test_enabling_thr_empty_interrupt_brings_it(bench: Bench) -> None:
    bench.write(IER, THR_EMPTY)
    assert bench.irq.level
    assert bench.identify() == ID_THR_EMPTY


def test_reading_iir_acknowledges_thr_empty(bench: Bench) -> None:
    bench.write(IER, THR_EMPTY)
    assert bench.read(IIR) == ID_THR_EMPTY
    assert not bench.irq.level
    assert bench.read(IIR) == ID_NONE


def test_reading_iir_leaves_a_masked_thr_empty_pending(bench: Bench) -> None:
    bench.type(b"x")
    bench.write(IER, THR_EMPTY | RECEIVED)
    assert bench.identify() == ID_RECEIVED
    bench.read(RBR)
    assert bench.identify() == ID_THR_EMPTY


def test_writing_thr_lowers_and_raises_the_line(bench: Bench) -> None:
    bench.write(IER, THR_EMPTY)
    bench.edges.clear()
    bench.write(THR, ord("a"))
    assert bench.edges == [False, True]
    bench.read(IIR)
    bench.write(THR, ord("b"))
    assert bench.edges == [False, True, False, True]


def test_thr_empty_comes_again_when_it_is_enabled_again(bench: Bench) -> None:
    bench.write(IER, THR_EMPTY)
    bench.read(IIR)
    bench.write(IER, THR_EMPTY)  # no change, no interrupt
    assert not bench.irq.level
    bench.write(IER, 0)
    bench.write(IER, THR_EMPTY)
    assert bench.irq.level


def test_break_bit_of_lcr_is_kept_and_sends_nothing(bench: Bench) -> None:
    bench.write(LCR, 0x43)
    assert bench.read(LCR) == 0x43
    assert bench.sent == b""


# Receiving without FIFOs, as a 16450


def test_16450_takes_one_byte_at_a_time(bench: Bench) -> None:
    bench.type(b"abc")
    assert bench.port.receive(9) == b"bc"
    assert bench.read(LSR) == IDLE | DR
    assert bench.read(RBR) == ord("a")
    assert bench.read(LSR) == IDLE


def test_reading_rbr_fetches_the_next_byte(bench: Bench) -> None:
    bench.type(b"abc")
    assert bytes(bench.read(RBR) for _ in range(3)) == b"abc"
    assert not bench.read(LSR) & DR


def test_16450_repeats_the_last_byte_when_empty(bench: Bench) -> None:
    bench.type(b"z")
    assert [bench.read(RBR), bench.read(RBR)] == [ord("z"), ord("z")]


def test_16450_overrun_replaces_the_byte(bench: Bench) -> None:
    bench.loop(b"ab")
    assert bench.read(LSR) == IDLE | DR | OE
    assert bench.read(RBR) == ord("b")


def test_16450_interrupts_on_every_byte_and_has_no_timeout(bench: Bench) -> None:
    bench.write(IER, RECEIVED)
    bench.type(b"ab")
    assert bench.clock.next_deadline() is None
    assert bench.identify() == ID_RECEIVED
    bench.edges.clear()
    bench.read(RBR)
    assert bench.edges == [False, True]
    bench.read(RBR)
    assert bench.identify() == ID_NONE


# Receiving with FIFOs


@pytest.mark.parametrize("level", FIFO_ON)
def test_trigger_level(bench: Bench, level: int) -> None:
    bench.write(FCR, FIFO_ON[level])
    bench.write(IER, RECEIVED)
    for n in range(1, level + 1):
        assert not bench.irq.level
        bench.type(bytes([n]))
    assert bench.identify() == ID_RECEIVED
    bench.read(RBR)
    assert not bench.irq.level


@pytest.mark.parametrize("level", FIFO_ON)
def test_input_fills_the_fifo_up_to_the_trigger_level(bench: Bench, level: int) -> None:
    bench.write(FCR, FIFO_ON[level])
    bench.type(bytes(range(100)))
    assert bench.uart.state.recv_fifo.count == level
    assert [bench.read(RBR) for _ in range(100)] == list(range(100))
    assert bench.uart.state.recv_fifo.count == 0


def test_lowered_trigger_level_lets_the_fifo_fill_up(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[8])
    bench.type(bytes(range(40)))
    bench.write(FCR, FIFO_ON[4])
    assert bench.uart.state.recv_fifo.count == 16
    assert not bench.read(LSR) & OE
    assert [bench.read(RBR) for _ in range(40)] == list(range(40))


def test_raised_trigger_level_takes_more_input(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[4])
    bench.type(bytes(40))
    bench.write(FCR, FIFO_ON[14])
    assert bench.uart.state.recv_fifo.count == 14


def test_iir_shows_whether_the_fifos_are_on(bench: Bench) -> None:
    bench.write(FCR, 0x01)
    assert bench.read(IIR) == FIFOS | ID_NONE
    bench.write(FCR, 0x00)
    assert bench.read(IIR) == ID_NONE


def test_empty_fifo_reads_as_zero(bench: Bench) -> None:
    bench.write(FCR, 0x01)
    bench.type(b"q")
    assert [bench.read(RBR), bench.read(RBR)] == [ord("q"), 0]


def test_seventeenth_byte_is_lost_and_sets_overrun(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.loop(bytes(range(16)))
    assert bench.read(LSR) == IDLE | DR
    bench.loop(b"\xee")
    assert bench.read(LSR) == IDLE | DR | OE
    assert bench.read(LSR) == IDLE | DR
    assert [bench.read(RBR) for _ in range(16)] == list(range(16))
    assert bench.read(LSR) == IDLE


def test_receive_fifo_reset_drops_input_and_timeout(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, RECEIVED)
    bench.type(b"abc")
    bench.write(FCR, FIFO_ON[14] | 0x02)
    assert bench.read(LSR) == IDLE
    assert bench.clock.next_deadline() is None
    bench.wait(10**9)
    assert bench.identify() == ID_NONE


def test_receive_fifo_reset_makes_room_for_waiting_input(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[4])
    bench.type(b"abcdefgh")
    bench.write(FCR, FIFO_ON[4] | 0x02)
    assert bytes(bench.read(RBR) for _ in range(4)) == b"efgh"


def test_receive_fifo_reset_does_not_clear_overrun(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[1])
    bench.loop(bytes(17))
    bench.write(FCR, FIFO_ON[1] | 0x02)
    assert bench.read(LSR) == IDLE | OE


def test_transmit_fifo_reset_brings_thr_empty(bench: Bench) -> None:
    bench.write(FCR, 0x01)
    bench.write(IER, THR_EMPTY)
    bench.read(IIR)
    bench.write(FCR, 0x05)
    assert bench.identify() == ID_THR_EMPTY


@pytest.mark.parametrize(("before", "after"), [(0x00, 0x01), (0x01, 0x00)])
def test_switching_the_fifos_empties_both(bench: Bench, before: int, after: int) -> None:
    bench.write(FCR, before)
    bench.type(b"a")
    bench.write(IER, THR_EMPTY)
    bench.read(IIR)
    bench.write(FCR, after)
    assert bench.read(LSR) == IDLE
    assert bench.identify() == ID_THR_EMPTY


def test_fifo_head_is_a_reference_into_its_ring() -> None:
    fifo = Fifo()
    for value in range(16):
        assert fifo.push(value)
    assert not fifo.push(99)
    assert [fifo.pop() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert fifo.push(16)
    assert fifo.head == Cursor(fifo.ring, 5)
    assert fifo.head.ring is fifo.ring
    assert (fifo.ring[0], fifo.count) == (16, 12)
    fifo.clear()
    assert (fifo.head.offset, fifo.count) == (0, 0)


# Character timeout


def test_timeout_comes_four_characters_after_the_last_byte(bench: Bench) -> None:
    bench.write(LCR, 0x03)
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, RECEIVED)
    bench.type(b"ab")
    bench.wait(FOUR_CHARACTERS_8N1 - 1)
    assert bench.identify() == ID_NONE
    bench.wait(1)
    assert bench.identify() == ID_TIMEOUT
    assert bench.read(IIR) == FIFOS | ID_TIMEOUT  # reading IIR is no acknowledgement


def test_every_byte_received_or_read_puts_the_timeout_off(bench: Bench) -> None:
    bench.write(LCR, 0x03)
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, RECEIVED)
    for _ in range(6):
        bench.type(b"x")
        bench.wait(FOUR_CHARACTERS_8N1 - 1)
        assert bench.identify() == ID_NONE
    for _ in range(5):
        bench.read(RBR)
        bench.wait(FOUR_CHARACTERS_8N1 - 1)
        assert bench.identify() == ID_NONE
    bench.wait(1)
    assert bench.identify() == ID_TIMEOUT


def test_reading_rbr_ends_the_timeout_until_the_next(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, RECEIVED)
    bench.type(b"ab")
    bench.wait(10**9)
    bench.read(RBR)
    assert bench.identify() == ID_NONE
    bench.wait(10**9)
    assert bench.identify() == ID_TIMEOUT
    bench.read(RBR)
    bench.wait(10**9)
    assert bench.identify() == ID_NONE


def test_timeout_needs_the_received_data_interrupt(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.type(b"a")
    bench.wait(10**9)
    assert bench.identify() == ID_NONE
    bench.write(IER, RECEIVED)
    assert bench.identify() == ID_TIMEOUT


@pytest.mark.parametrize(
    ("lcr", "divisor", "ns"),
    [
        (0x00, 12, 841_698),  # 5N1: 7 bits
        (0x03, 12, 1_202_425),  # 8N1: 10 bits
        (0x07, 12, 1_322_668),  # 8N2: 11 bits
        (0x0B, 12, 1_322_668),  # 8O1: 11 bits
        (0x1F, 12, 1_442_911),  # 8E2: 12 bits
        (0x03, 1, 100_202),
        (0x03, 0xFFFF, 6_566_748_414),
        (0x03, 0, 11_428_571),  # divisor 0 is 3500 baud
    ],
)
def test_timeout_follows_frame_and_divisor(bench: Bench, lcr: int, divisor: int, ns: int) -> None:
    bench.write(LCR, DLAB)
    bench.write(DLL, divisor & 0xFF)
    bench.write(DLM, divisor >> 8)
    bench.write(LCR, lcr)
    bench.write(FCR, FIFO_ON[14])
    bench.type(b"a")
    assert bench.clock.next_deadline() == ns


def test_faster_line_brings_the_timeout_forward(bench: Bench) -> None:
    bench.write(LCR, DLAB | 3)
    bench.write(DLM, 0x10)
    bench.write(LCR, 3)
    bench.write(FCR, FIFO_ON[14])
    bench.type(b"a")
    bench.write(LCR, DLAB | 3)
    bench.write(DLM, 0)
    bench.write(LCR, 3)
    bench.type(b"b")
    assert bench.clock.next_deadline() == FOUR_CHARACTERS_8N1


# Line status, break


def test_overrun_interrupts_until_lsr_is_read(bench: Bench) -> None:
    bench.write(IER, LINE_STATUS)
    bench.loop(b"ab")
    assert bench.identify() == ID_LINE_STATUS
    assert bench.identify() == ID_LINE_STATUS
    assert bench.read(LSR) == IDLE | DR | OE
    assert bench.identify() == ID_NONE


@pytest.mark.parametrize("fcr", [0x00, 0x01])
def test_received_break_is_a_marked_zero_byte(bench: Bench, fcr: int) -> None:
    bench.write(FCR, fcr)
    bench.write(IER, LINE_STATUS | RECEIVED)
    bench.uart.receive_break()
    assert bench.identify() == ID_LINE_STATUS
    assert bench.read(LSR) == IDLE | DR | BI
    assert bench.identify() == ID_RECEIVED
    assert bench.read(LSR) == IDLE | DR
    assert bench.read(RBR) == 0
    assert bench.identify() == ID_NONE


def test_reading_rbr_clears_the_break_too(bench: Bench) -> None:
    bench.uart.receive_break()
    bench.read(RBR)
    assert bench.read(LSR) == IDLE


def test_break_into_a_full_fifo_is_an_overrun(bench: Bench) -> None:
    bench.write(FCR, 0x01)
    bench.loop(bytes(16))
    bench.uart.receive_break()
    assert bench.read(LSR) == IDLE | DR | BI | OE


# Modem lines


@pytest.mark.parametrize(
    ("lines", "msr"),
    [
        (0xB0, 0xB0),  # CTS, DSR and DCD are on after reset: no change
        (0xA0, 0xA1),  # CTS falls
        (0x90, 0x92),  # DSR falls
        (0x30, 0x38),  # DCD falls
        (0xF0, 0xF0),  # RI rises: no trailing edge, no mark
        (0x00, 0x0B),
    ],
)
def test_modem_line_changes_are_marked_until_msr_is_read(bench: Bench, lines: int, msr: int) -> None:
    bench.uart.set_modem_lines(lines)
    assert bench.read(MSR) == msr
    assert bench.read(MSR) == lines


def test_only_the_end_of_a_ring_counts(bench: Bench) -> None:
    bench.write(IER, MODEM_STATUS)
    bench.uart.set_modem_lines(0xF0)
    assert bench.identify() == ID_NONE
    bench.uart.set_modem_lines(0xB0)
    assert bench.identify() == ID_MODEM_STATUS
    assert bench.read(MSR) == 0xB4


def test_changes_add_up(bench: Bench) -> None:
    bench.uart.set_modem_lines(0xA0)
    bench.uart.set_modem_lines(0xB0)
    bench.uart.set_modem_lines(0x90)
    assert bench.read(MSR) == 0x93


def test_modem_interrupt_lasts_until_msr_is_read(bench: Bench) -> None:
    bench.write(IER, MODEM_STATUS)
    bench.uart.set_modem_lines(0x30)
    assert bench.identify() == ID_MODEM_STATUS
    assert bench.identify() == ID_MODEM_STATUS
    bench.read(MSR)
    assert bench.identify() == ID_NONE


# Loop-back


def test_looped_bytes_come_back_and_are_not_sent(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[8])
    bench.loop(b"echo")
    assert bench.sent == b""
    assert bytes(bench.read(RBR) for _ in range(4)) == b"echo"


@pytest.mark.parametrize(
    ("outputs", "inputs"),
    [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x00, 0x00), (0x0F, 0xF0)],
    ids=["DTR to DSR", "RTS to CTS", "OUT1 to RI", "OUT2 to DCD", "none", "all"],
)
def test_loopback_ties_modem_outputs_to_inputs(bench: Bench, outputs: int, inputs: int) -> None:
    bench.write(MCR, LOOP | outputs)
    assert bench.read(MSR) == inputs


def test_loopback_leaves_real_modem_changes_for_later(bench: Bench) -> None:
    bench.uart.set_modem_lines(0xA0)
    bench.write(MCR, LOOP)
    assert bench.read(MSR) == 0
    bench.write(MCR, 0)
    assert bench.read(MSR) == 0xA1


def test_input_waits_while_loopback_is_on(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[8])
    bench.write(MCR, LOOP)
    bench.type(b"typed")
    bench.write(THR, ord("!"))
    assert bench.read(RBR) == ord("!")
    assert not bench.read(LSR) & DR
    bench.write(MCR, 0)
    assert bytes(bench.read(RBR) for _ in range(5)) == b"typed"


def test_looped_bytes_raise_interrupts(bench: Bench) -> None:
    bench.write(IER, RECEIVED | THR_EMPTY)
    bench.read(IIR)
    bench.loop(b"a")
    assert bench.identify() == ID_RECEIVED
    bench.read(RBR)
    assert bench.identify() == ID_THR_EMPTY


# Priority


def test_interrupts_are_identified_in_order_of_priority(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[4])
    bench.write(IER, 0x0F)
    bench.uart.set_modem_lines(0xA0)
    bench.loop(bytes(17))
    bench.write(MCR, 0)
    bench.wait(10**9)
    assert bench.identify() == ID_LINE_STATUS
    bench.read(LSR)
    assert bench.identify() == ID_TIMEOUT
    bench.read(RBR)
    assert bench.identify() == ID_RECEIVED
    for _ in range(12):
        assert bench.identify() == ID_RECEIVED
        bench.read(RBR)
    assert bench.identify() == ID_THR_EMPTY  # three bytes are left, below the trigger level
    assert bench.identify() == ID_MODEM_STATUS
    bench.read(MSR)
    assert bench.identify() == ID_NONE


@pytest.mark.parametrize(
    ("enabled", "ident"),
    [
        (0x00, ID_NONE),
        (MODEM_STATUS, ID_MODEM_STATUS),
        (THR_EMPTY, ID_THR_EMPTY),
        (RECEIVED, ID_RECEIVED),
        (LINE_STATUS, ID_LINE_STATUS),
        (MODEM_STATUS | THR_EMPTY, ID_THR_EMPTY),
        (THR_EMPTY | RECEIVED, ID_RECEIVED),
        (RECEIVED | LINE_STATUS, ID_LINE_STATUS),
        (0x0F, ID_LINE_STATUS),
    ],
)
def test_each_interrupt_has_its_enable_bit(bench: Bench, enabled: int, ident: int) -> None:
    bench.uart.set_modem_lines(0xA0)
    bench.loop(b"ab")
    assert not bench.irq.level
    bench.write(IER, enabled)
    assert bench.identify() == ident
    bench.write(IER, 0)
    assert not bench.irq.level


# Adopting states


def test_adopted_state_sets_line_and_timer_without_an_edge(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    bench.write(IER, RECEIVED | THR_EMPTY)
    bench.type(b"abc")
    saved = copy.deepcopy(bench.uart.state)
    other = Bench()
    other.uart.adopt(saved)
    assert other.irq.level
    assert other.edges == []
    assert other.clock.next_deadline() == saved.fifo_timeout_timer
    other.read(IIR)
    other.wait(10**9)
    assert other.identify() == ID_TIMEOUT
    assert bytes(other.read(RBR) for _ in range(3)) == b"abc"


def test_bytes_that_another_machine_could_not_send_leave_when_the_clock_runs(bench: Bench) -> None:
    state = SerialState(fcr=1, iir=0xC1, ier=THR_EMPTY, lsr=0, tsr_retry=2, tsr=ord("a"), thr=ord("c"))
    state.xmit_fifo.push(ord("b"))
    state.xmit_fifo.push(ord("c"))
    untouched = copy.deepcopy(state)
    bench.uart.adopt(state)
    assert bench.sent == b""
    assert bench.edges == []
    assert bench.uart.state == untouched
    bench.wait(0)
    assert bench.sent == b"abc"
    assert bench.edges == [True]
    assert bench.read(LSR) == IDLE


def test_writing_behind_refused_bytes_keeps_the_newest_sixteen(bench: Bench) -> None:
    bench.uart.adopt(SerialState(fcr=1, iir=0xC1, lsr=THRE, tsr_retry=1, tsr=ord("@")))
    for value in range(ord("a"), ord("a") + 18):
        bench.write(THR, value)
        assert bench.read(LSR) == 0
    bench.wait(0)
    assert bench.sent == b"@cdefghijklmnopqr"


def test_transmit_fifo_reset_drops_all_but_the_byte_in_the_shift_register(bench: Bench) -> None:
    state = SerialState(fcr=1, iir=0xC1, lsr=0, tsr_retry=1, tsr=ord("a"))
    state.xmit_fifo.push(ord("b"))
    bench.uart.adopt(state)
    bench.write(FCR, 0x05)
    assert bench.read(LSR) == THRE
    bench.write(THR, ord("c"))
    bench.wait(0)
    assert bench.sent == b"ac"
    assert bench.read(LSR) == IDLE


def test_16450_sends_the_refused_byte_before_thr(bench: Bench) -> None:
    bench.uart.adopt(SerialState(lsr=0, tsr_retry=4, tsr=ord("1"), thr=ord("2")))
    bench.wait(0)
    assert bench.sent == b"12"
    assert bench.read(LSR) == IDLE


def test_what_was_read_and_what_was_sent_leaves_no_trace_in_the_state(bench: Bench) -> None:
    bench.write(FCR, FIFO_ON[14])
    untouched = copy.deepcopy(bench.uart.state)
    for _ in range(3):
        bench.type(b"secret")
        for held in range(6, 0, -1):
            assert bench.uart.state.recv_fifo.ring == bytes(6 - held) + b"secret"[6 - held :] + bytes(10)
            bench.read(RBR)
        bench.write(THR, ord("s"))
    bench.uart.state.fifo_timeout_timer = None
    assert bench.uart.state == untouched


def test_thr_ipending_is_only_kept_while_its_interrupt_is_enabled(bench: Bench) -> None:
    for action in (lambda: bench.write(THR, 1), lambda: bench.write(FCR, 0x05), lambda: bench.loop(b"x")):
        bench.write(IER, 0)
        action()
        assert bench.uart.state.thr_ipending == 0
        bench.write(IER, THR_EMPTY)
        assert bench.uart.state.thr_ipending == 1


@pytest.mark.parametrize("fcr", [0x00, FIFO_ON[1], FIFO_ON[14]])
def test_a_guest_that_reads_all_there_is_gets_a_rest_now_and_then(bench: Bench, fcr: int) -> None:
    bench.write(FCR, fcr)
    bench.type(bytes(3 * INPUT_BURST))

    def read_all() -> int:
        count = 0
        while bench.read(LSR) & DR:
            bench.read(RBR)
            count += 1
        return count

    assert read_all() == INPUT_BURST
    bench.type(b"more")
    bench.wait(INPUT_PAUSE_NS - 1)
    assert read_all() == 0
    bench.wait(1)
    assert read_all() == INPUT_BURST


def test_a_rest_ends_with_a_reset(bench: Bench) -> None:
    bench.type(bytes(2 * INPUT_BURST))
    while bench.read(LSR) & DR:
        bench.read(RBR)
    bench.uart.reset()
    bench.uart.poll_input()
    assert bench.read(LSR) & DR
    assert bench.clock.next_deadline() is None


def test_input_waits_while_the_guest_holds_rts_low(bench: Bench) -> None:
    bench.write(MCR, DTR)
    bench.type(b"x")
    assert not bench.read(LSR) & DR
    bench.write(MCR, DTR | RTS)
    assert bench.read(RBR) == ord("x")


def test_a_guest_that_drives_neither_dtr_nor_rts_gets_input(bench: Bench) -> None:
    bench.write(MCR, 0)
    bench.type(b"x")
    assert bench.read(RBR) == ord("x")


# Whole conversations


@pytest.mark.parametrize("fcr", [0x00, FIFO_ON[1], FIFO_ON[14]])
def test_polling_guest_echoes_100k_bytes_in_order(bench: Bench, fcr: int) -> None:
    text = random.Random(fcr).randbytes(100_000)
    bench.write(FCR, fcr)
    for start in range(0, len(text), 4096):
        bench.type(text[start : start + 4096])
        while bench.read(LSR) & DR or bench.clock.next_deadline() is not None:
            if not bench.read(LSR) & DR:
                bench.wait(10**7)
                continue
            value = bench.read(RBR)
            assert bench.read(LSR) & THRE
            bench.write(THR, value)
    assert bench.sent == text


@pytest.mark.parametrize("fcr", [0x00, FIFO_ON[1], FIFO_ON[14]])
def test_interrupt_driven_guest_echoes_100k_bytes_in_order(bench: Bench, fcr: int) -> None:
    """Only what IIR identifies is served, as a driver does it; a lost interrupt would end the conversation early."""
    text = random.Random(fcr).randbytes(100_000)
    bench.write(FCR, fcr)
    bench.write(IER, RECEIVED | LINE_STATUS)
    backlog = bytearray()
    for start in range(0, len(text), 5000):
        bench.type(text[start : start + 5000])
        while bench.irq.level or bench.clock.next_deadline() is not None:
            if not bench.irq.level:
                bench.wait(10**7)
                continue
            ident = bench.read(IIR) & 0xF
            if ident in (ID_RECEIVED, ID_TIMEOUT):
                backlog.append(bench.read(RBR))
                bench.write(IER, RECEIVED | LINE_STATUS | THR_EMPTY)
            elif ident == ID_THR_EMPTY:
                for value in backlog:
                    bench.write(THR, value)
                backlog.clear()
                bench.write(IER, RECEIVED | LINE_STATUS)
            else:
                pytest.fail(f"unexpected interrupt {ident:x}")
    assert bench.sent == text


# The real QEMU as an oracle

UART = 0x1000_0000
UART_SOURCE = 10
PLIC = "/machine/unattached/device[2]"
ACCESS_LETTER = {1: "b", 2: "w", 4: "l", 8: "q"}

Access = tuple[int, int, int | None]
"""Register, size, and the value to write or None for a read."""
Effect = tuple[int | None, list[bool]]
"""The value that came back, if any, and the edges of the interrupt line."""


class QemuSerial:
    """The UART of a real `virt` board, reached through QEMU's qtest protocol; its CPU is stopped or minds no UART."""

    def __init__(self, *options: str) -> None:
        command = ["qemu-system-riscv64", "-M", "virt", "-nodefaults", "-display", "none", "-serial", "null"]
        self.process = subprocess.Popen(
            [*command, "-qtest", "stdio", "-qtest-log", "none", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ask([f"irq_intercept_in {PLIC}"])

    def ask(self, requests: list[str]) -> list[Effect]:
        """Send requests at once, few enough for the pipe; what each of them did."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("".join(request + "\n" for request in requests))
        self.process.stdin.flush()
        effects: list[Effect] = []
        edges: list[bool] = []
        while len(effects) < len(requests):
            match self.process.stdout.readline().split():
                case ["IRQ", edge, source]:
                    assert int(source) == UART_SOURCE
                    edges.append(edge == "raise")
                case ["OK", *value]:
                    effects.append((int(value[0], 16) if value else None, edges))
                    edges = []
                case answer:
                    pytest.fail(f"QEMU answered {answer}")
        return effects

    def read(self, register: int) -> int | None:
        return self.ask([f"readb 0x{UART + register:x}"])[0][0]

    def write(self, register: int, value: int) -> None:
        self.ask([f"writeb 0x{UART + register:x} 0x{value:x}"])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def qemu_options() -> list[str]:
    return ["-S"]


@pytest.fixture
def qemu(qemu_options: list[str]) -> Iterator[QemuSerial]:
    if shutil.which("qemu-system-riscv64") is None:
        pytest.skip("qemu-system-riscv64 is not installed")
    machine = QemuSerial(*qemu_options)
    yield machine
    machine.close()


def random_accesses(seed: int, count: int) -> Iterator[Access]:
    """Accesses as a curious guest might make them, with most time spent on data and status."""
    rng = random.Random(seed)
    likely = {IER: range(16), FCR: (*range(8), *FIFO_ON.values()), LCR: (3, 3, 3, DLAB), MCR: (LOOP, 0x1F, 0x1A, 0x0B)}
    writing = 0.5
    for n in range(count):
        if n % 50 == 0:
            writing = rng.choice((0.2, 0.5, 0.8))  # spells that fill the FIFO and spells that empty it
        register = rng.choice((RBR, RBR, RBR, RBR, IER, IIR, IIR, LCR, MCR, LSR, LSR, MSR, SCR))
        size = rng.choice([size for size in (1, 1, 1, 2, 4, 8) if register % size == 0])
        value = rng.choice(likely.get(register, range(256))) if rng.random() < 0.9 else rng.randrange(256)
        yield register, size, value if rng.random() < writing else None


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(4))
def test_random_accesses_act_as_on_qemu(bench: Bench, qemu: QemuSerial, seed: int) -> None:
    requests: list[str] = []
    ours: list[Effect] = []
    for register, size, value in random_accesses(seed, 10_000):
        where = f"{ACCESS_LETTER[size]} 0x{UART + register:x}"
        bench.edges.clear()
        if value is None:
            requests.append(f"read{where}")
            ours.append((bench.read(register, size), bench.edges[:]))
        else:
            requests.append(f"write{where} 0x{value:x}")
            bench.write(register, value, size)
            ours.append((None, bench.edges[:]))
    theirs: list[Effect] = []
    for start in range(0, len(requests), 100):
        theirs += qemu.ask(requests[start : start + 100])
    for n, request in enumerate(requests):
        assert ours[n] == theirs[n], f"access {n}: {request}, after {requests[max(n - 20, 0) : n]}"


@pytest.mark.qemu
@pytest.mark.parametrize("qemu_options", [["-bios", "none"]], ids=["running"])
def test_timeout_is_identified_as_on_qemu(bench: Bench, qemu: QemuSerial) -> None:
    for chip in (bench, qemu):
        for register, value in ((LCR, 3), (FCR, FIFO_ON[14]), (IER, RECEIVED), (MCR, LOOP), (THR, 0x41), (THR, 0x42)):
            chip.write(register, value)
    bench.wait(FOUR_CHARACTERS_8N1)
    give_up = time.monotonic() + 10
    while (ident := qemu.read(IIR)) == FIFOS | ID_NONE and time.monotonic() < give_up:
        pass
    assert ident == bench.read(IIR) == FIFOS | ID_TIMEOUT
    # IIR is not looked at in between: the real clock runs, and may time the second byte out again by then.
    for register, expected in ((RBR, 0x41), (LSR, IDLE | DR), (RBR, 0x42), (LSR, IDLE)):
        assert qemu.read(register) == bench.read(register) == expected
