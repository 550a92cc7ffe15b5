"""NS16550A: a UART with 16-byte FIFOs, as QEMU's `serial-mm` plays it on the `virt` board.

Datasheet: National Semiconductor PC16550D, "Universal Asynchronous Receiver/Transmitter with FIFOs". Where QEMU 7.2
and the datasheet differ, the chip follows QEMU unless this text says otherwise.

Region: `serial`, eight byte-wide registers. A wider access reaches only the register at its offset: a store uses the
low byte, a load is zero-extended. The board reserves 0x100 bytes, but nothing answers behind the eighth.
Line: one, active while IIR identifies an interrupt. Clock: the character timeout runs on the virtual clock.

Bytes leave through the port the moment they are written, so the transmitter is always empty. The exception is a state
that came from a machine whose terminal was stuck: its bytes leave as soon as the clock runs here. Input waits in the
port until there is room: up to the trigger level and not up to 16, so the guest gets the interrupts it asked for. It
also waits while the guest holds RTS low with DTR high, which is how a driver with hardware flow control says that
nobody reads what it takes; and now and then for a moment (`INPUT_BURST`).

State in a stream: section `serial` as QEMU 7.2 has it, a struct with seven subsections. What means nothing is nothing:
an empty FIFO has its head at 0 and no byte of what was in it, THR and TSR are 0 unless a byte waits in them, and so is
`thr_ipending` unless IER enables the interrupt. So a saved state holds no input that the guest has read, and a restored
machine is the saved one, byte for byte.

On purpose:
- There is no line, so no parity or framing errors, and a break that LCR sends reaches nobody.
- Loop-back of MCR shows in MSR's levels but makes no change bits, as in QEMU. Input waits while loop-back is on, as in
  the datasheet; QEMU mixes it with the looped bytes.
- Reset clears FCR, as in the datasheet; QEMU keeps it. A character's length always follows from the divisor latch and
  LCR; QEMU takes it for 1/960 s until the guest writes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import ClassVar

from emulator.core.bits import replace_bytes
from emulator.core.bus import MmioRegion
from emulator.core.charport import CharPort
from emulator.core.clock import NS_PER_SECOND, VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.hw.fifo8 import FIFO_SIZE, VMSTATE_FIFO8, Fifo
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Field, Int32, Struct, UInt8, UInt16, UInt32, WithTmp
from emulator.migration.fields import Timer as WireTimer
from emulator.migration.vmstate import VMStateDescription

BAUD_BASE = 399_193
"""Baud at divisor 1: the `baudbase` QEMU 7.2 gives the board's UART, not the 230400 of its device tree's clock."""
SLOWEST_BAUD = 3500
"""What a divisor of 0 stands for."""
TIMEOUT_CHARACTERS = 4
INPUT_BURST = 256
INPUT_PAUSE_NS = 1_000_000
"""After so many bytes of input, for so long none comes.

An interrupt handler that reads as long as there is something would never return while a large text is pasted, and what
it has read would pile up. Linux takes up to 256 bytes at a time, and loses what piles up beyond 64 KiB.
"""
RETRY_LIMIT = 4
"""How often QEMU offers a byte to a terminal that is stuck before it drops it."""

IER_RDI, IER_THRI, IER_RLSI, IER_MSI, IER_STORED = 0x01, 0x02, 0x04, 0x08, 0x0F
IIR_MSI, IIR_NO_INT, IIR_THRI, IIR_RDI, IIR_RLSI, IIR_CTI = 0x00, 0x01, 0x02, 0x04, 0x06, 0x0C
IIR_ID, IIR_FE = 0x06, 0xC0
FCR_FE, FCR_RFR, FCR_XFR, FCR_STORED = 0x01, 0x02, 0x04, 0xC9
LCR_WLS, LCR_STB, LCR_PEN, LCR_DLAB = 0x03, 0x04, 0x08, 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP, MCR_STORED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x1F
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 0x01, 0x02, 0x10, 0x20, 0x40
LSR_ERRORS, LSR_IDLE = 0x1E, LSR_THRE | LSR_TEMT
MSR_DCTS, MSR_DDSR, MSR_TERI, MSR_DDCD = 0x01, 0x02, 0x04, 0x08
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_DELTAS, MSR_LINES = 0x0F, 0xF0

TRIGGER_LEVELS = (1, 4, 8, 14)
"""Received bytes at which the data interrupt comes, by FCR bits 7:6."""
LOOPED_LINES = ((MCR_DTR, MSR_DSR), (MCR_RTS, MSR_CTS), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))
"""In loop-back, the modem output that each modem input is tied to."""
BYTES = tuple(bytes([value]) for value in range(256))


@dataclass(slots=True)
class SerialState:
    """All that the guest can observe, by QEMU's names; deadlines are virtual ns, flags 0 or 1."""

    divider: int = 12
    rbr: int = 0
    ier: int = 0
    iir: int = IIR_NO_INT
    lcr: int = 0
    mcr: int = MCR_OUT2
    lsr: int = LSR_IDLE
    msr: int = MSR_DCD | MSR_DSR | MSR_CTS
    scr: int = 0
    fcr: int = 0
    thr_ipending: int = 0
    """IER_THRI is set, and the transmitter has run empty since THR was written or the interrupt was acknowledged."""
    tsr_retry: int = 0
    """How often the terminal refused the byte in `tsr`; only another machine's can."""
    thr: int = 0
    tsr: int = 0
    recv_fifo: Fifo = field(default_factory=Fifo)
    xmit_fifo: Fifo = field(default_factory=Fifo)
    fifo_timeout_timer: int | None = None
    timeout_ipending: int = 0
    poll_msl: int = -1
    modem_status_poll: int | None = None
    """Whether and when modem lines are polled: -1 and None for a port without any, as here; a peer's are kept."""


@dataclass(slots=True)
class SerialMmTmp:
    """QEMU's `serial-mm` holds the chip in a field `serial`; here the device's state is the chip's."""

    parent: SerialState


def _expect_subsections(state: SerialState) -> None:
    state.thr_ipending = -1


def _settle(state: SerialState, _version_id: int) -> None:
    """Fill in what the stream left out, as QEMU does, and refuse what no transmitter can be in."""
    if state.thr_ipending < 0:
        state.thr_ipending = int(state.iir & IIR_ID == IIR_THRI)
    if not state.ier & IER_THRI:
        state.thr_ipending = 0
    if not state.tsr_retry:
        state.thr = state.tsr = 0
    state.iir = state.iir & ~IIR_FE | (IIR_FE if state.fcr & FCR_FE else 0)
    idle, waiting = state.lsr & LSR_IDLE, state.xmit_fifo.count
    if not state.tsr_retry and (idle != LSR_IDLE or waiting):
        raise FieldRangeError("lsr", hex(state.lsr), "an empty transmitter, as no byte waits for the terminal")
    if state.tsr_retry and idle & LSR_TEMT:
        raise FieldRangeError("lsr", hex(state.lsr), "a busy transmitter, as a byte waits for the terminal")
    if state.tsr_retry and state.fcr & FCR_FE and bool(idle) == bool(waiting):
        raise FieldRangeError("lsr", hex(state.lsr), f"THRE to say whether the FIFO is empty; it holds {waiting}")


def _thr_ipending_needed(state: SerialState) -> bool:
    return bool(state.ier & IER_THRI) and state.thr_ipending != (state.iir & IIR_ID == IIR_THRI)


def _subsection(name: str, needed: Callable[[SerialState], bool], *fields: Field) -> VMStateDescription:
    return VMStateDescription(
        f"serial/{name}", SerialState, version_id=1, minimum_version_id=1, needed=needed, fields=fields
    )


VMSTATE_SERIAL = VMStateDescription(
    "serial",
    SerialState,
    version_id=3,
    minimum_version_id=2,
    pre_load=_expect_subsections,
    post_load=_settle,
    fields=(
        UInt16("divider", version_id=2),
        UInt8("rbr"),
        UInt8("ier", bits=IER_STORED),
        UInt8("iir"),
        UInt8("lcr"),
        UInt8("mcr", bits=MCR_STORED),
        UInt8("lsr"),
        UInt8("msr"),
        UInt8("scr"),
        UInt8("fcr", bits=FCR_STORED, wire_name="fcr_vmstate", version_id=3),
    ),
    subsections=(
        _subsection("thr_ipending", _thr_ipending_needed, Int32("thr_ipending", limit=2)),
        _subsection(
            "tsr",
            lambda state: state.tsr_retry != 0,
            UInt32("tsr_retry", limit=RETRY_LIMIT + 1),
            UInt8("thr"),
            UInt8("tsr"),
        ),
        _subsection(
            "recv_fifo", lambda state: state.recv_fifo.count != 0, Struct("recv_fifo", VMSTATE_FIFO8, version_id=1)
        ),
        _subsection(
            "xmit_fifo", lambda state: state.xmit_fifo.count != 0, Struct("xmit_fifo", VMSTATE_FIFO8, version_id=1)
        ),
        _subsection(
            "fifo_timeout_timer",
            lambda state: state.fifo_timeout_timer is not None,
            WireTimer("fifo_timeout_timer"),
        ),
        _subsection("timeout_ipending", lambda state: state.timeout_ipending != 0, Int32("timeout_ipending", limit=2)),
        _subsection(
            "poll", lambda state: state.poll_msl >= 0, Int32("poll_msl", limit=2), WireTimer("modem_status_poll")
        ),
    ),
)
VMSTATE_SERIAL_MM = VMStateDescription(
    "serial",
    SerialState,
    version_id=3,
    minimum_version_id=2,
    fields=(
        WithTmp(
            VMStateDescription(
                "serial/mm", SerialMmTmp, fields=(Struct("parent", VMSTATE_SERIAL, wire_name="serial"),)
            ),
            inline=True,
        ),
    ),
)


class Ns16550a(Device):
    """One UART on `port`, with its interrupt on `irq` and its character timeout on `clock`."""

    kind = "serial-mm"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"serial": VMSTATE_SERIAL_MM}
    state: SerialState

    def __init__(self, irq: IrqLine, clock: VirtualClock, port: CharPort) -> None:
        self._irq = irq
        self._clock = clock
        self._port = port
        self._timeout = clock.timer("serial character timeout", self._on_timeout)
        self._resume = clock.timer("serial transmitter", self._transmit)
        self._pause = clock.timer("serial input pause", self._on_pause)
        self._burst_left = INPUT_BURST
        self._registers: tuple[tuple[Callable[[SerialState], int], Callable[[SerialState, int], None]], ...] = (
            (self._read_rbr, self._write_thr),
            (self._read_ier, self._write_ier),
            (self._read_iir, self._write_fcr),
            (attrgetter("lcr"), self._write_lcr),
            (attrgetter("mcr"), self._write_mcr),
            (self._read_lsr, self._write_status),
            (self._read_msr, self._write_status),
            (attrgetter("scr"), self._write_scr),
        )
        self.regions = (MmioRegion("serial", len(self._registers), self._read, self._write),)
        self.adopt(SerialState())

    def adopt(self, state: SerialState) -> None:
        """Take over a complete state; waiting input is not looked at before the next `poll_input`."""
        self.state = state
        self._set_timeout_span()
        self._timeout.set(state.fifo_timeout_timer)
        self._pause.cancel()
        self._burst_left = INPUT_BURST
        # What another machine could not send must raise its interrupt with an edge, so it waits for a running clock.
        self._resume.set(0 if state.tsr_retry else None)
        self._irq.restore_level(not state.iir & IIR_NO_INT)

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows: register spacing, and 2 for little-endian."""
        return {"regshift": 0, "endianness": 2}

    def poll_input(self) -> None:
        """Take what the chip has room for from the port.

        For the machine's thread, when the port has got input and after reset or load; later bytes are fetched as the
        guest makes room. Not for use inside `CharPort.on_input`, where bytes could overtake one another.
        """
        while (room := self._room()) and (data := self._port.receive(min(room, self._burst_left))):
            self._burst_left -= len(data)
            if not self._burst_left:
                self._pause.arm(self._clock.now() + INPUT_PAUSE_NS)
            self._receive(data)

    def receive_break(self) -> None:
        """The line was held low for longer than a character: a zero byte comes in, marked in LSR."""
        s = self.state
        s.rbr = 0
        if s.fcr & FCR_FE and not s.recv_fifo.push(0):
            s.lsr |= LSR_OE
        s.lsr |= LSR_BI | LSR_DR
        self._update_irq()

    def set_modem_lines(self, lines: int) -> None:
        """Drive the modem inputs: any of MSR_CTS, MSR_DSR, MSR_RI and MSR_DCD, the others are off."""
        s = self.state
        changed = (s.msr ^ lines) >> 4
        if lines & MSR_RI:
            changed &= ~MSR_TERI  # only the trailing edge of a ring counts
        s.msr = (lines & MSR_LINES) | (s.msr & MSR_DELTAS) | changed
        self._update_irq()

    def _read(self, offset: int, _size: int) -> int:
        return self._registers[offset][0](self.state)

    def _write(self, offset: int, _size: int, value: int) -> None:
        self._registers[offset][1](self.state, value & 0xFF)

    def _read_rbr(self, s: SerialState) -> int:
        if s.lcr & LCR_DLAB:
            return s.divider & 0xFF
        value = s.rbr
        if s.fcr & FCR_FE:
            fifo = s.recv_fifo
            value = fifo.pop() if fifo.count else 0
            s.timeout_ipending = 0
            if fifo.count:
                self._restart_timeout()
        if not (s.fcr & FCR_FE and s.recv_fifo.count):
            s.lsr &= ~(LSR_DR | LSR_BI)
        self._update_irq()
        self.poll_input()
        return value

    def _read_ier(self, s: SerialState) -> int:
        return s.divider >> 8 if s.lcr & LCR_DLAB else s.ier

    def _read_iir(self, s: SerialState) -> int:
        iir = s.iir
        if iir & IIR_ID == IIR_THRI:
            s.thr_ipending = 0
            self._update_irq()
        return iir

    def _read_lsr(self, s: SerialState) -> int:
        lsr = s.lsr
        if lsr & (LSR_BI | LSR_OE):
            s.lsr = lsr & ~(LSR_BI | LSR_OE)
            self._update_irq()
        return lsr

    def _read_msr(self, s: SerialState) -> int:
        if s.mcr & MCR_LOOP:
            return sum(level for output, level in LOOPED_LINES if s.mcr & output)
        msr = s.msr
        if msr & MSR_DELTAS:
            s.msr = msr & ~MSR_DELTAS
            self._update_irq()
        return msr

    def _write_thr(self, s: SerialState, value: int) -> None:
        if s.lcr & LCR_DLAB:
            self._write_divider(s, 0, value)
            return
        if not (s.ier & IER_THRI or s.mcr & MCR_LOOP) and s.lsr & LSR_IDLE == LSR_IDLE:
            # The byte is gone before anyone can look, and no interrupt depends on it.
            self._port.send(BYTES[value])
            return
        s.thr = value
        if s.fcr & FCR_FE and not s.xmit_fifo.push(value):
            s.xmit_fifo.pop()
            s.xmit_fifo.push(value)
        s.thr_ipending = 0
        s.lsr &= ~LSR_IDLE
        # The line falls and rises again, which an interrupt controller can tell from a line that stays up.
        self._update_irq()
        if not s.tsr_retry:
            self._transmit()

    def _write_ier(self, s: SerialState, value: int) -> None:
        if s.lcr & LCR_DLAB:
            self._write_divider(s, 1, value)
            return
        changed = (s.ier ^ value) & 0x0F
        s.ier = value & 0x0F
        if changed & IER_THRI:
            # Enabling it while THR is empty brings the interrupt again, acknowledged or not.
            s.thr_ipending = int(bool(s.ier & IER_THRI and s.lsr & LSR_THRE))
        if changed:
            self._update_irq()

    def _write_fcr(self, s: SerialState, value: int) -> None:
        if (value ^ s.fcr) & FCR_FE:
            value |= FCR_RFR | FCR_XFR
        if value & FCR_RFR:
            s.lsr &= ~(LSR_DR | LSR_BI)
            s.fifo_timeout_timer = None
            self._timeout.cancel()
            s.timeout_ipending = 0
            s.recv_fifo.clear()
        if value & FCR_XFR:
            s.lsr |= LSR_THRE
            s.thr_ipending = int(bool(s.ier & IER_THRI))
            s.xmit_fifo.clear()
        s.fcr = value & FCR_STORED
        s.iir = s.iir | IIR_FE if value & FCR_FE else s.iir & ~IIR_FE
        self._update_irq()
        self.poll_input()

    def _write_lcr(self, s: SerialState, value: int) -> None:
        s.lcr = value
        self._set_timeout_span()

    def _write_mcr(self, s: SerialState, value: int) -> None:
        s.mcr = value & MCR_STORED
        self.poll_input()

    def _write_status(self, _s: SerialState, _value: int) -> None:
        """LSR and MSR are read-only: the datasheet leaves writing to factory tests, QEMU ignores it."""

    def _write_scr(self, s: SerialState, value: int) -> None:
        s.scr = value

    def _write_divider(self, s: SerialState, half: int, value: int) -> None:
        s.divider = replace_bytes(s.divider, half, 1, value)
        self._set_timeout_span()

    def _update_irq(self) -> None:
        """Identify the most urgent interrupt that is enabled and pending, and drive the line."""
        s = self.state
        ier = s.ier
        if ier & IER_RLSI and s.lsr & LSR_ERRORS:
            ident = IIR_RLSI
        elif ier & IER_RDI and s.timeout_ipending:
            ident = IIR_CTI
        elif ier & IER_RDI and s.lsr & LSR_DR and self._trigger_reached(s):
            ident = IIR_RDI
        elif ier & IER_THRI and s.thr_ipending:
            ident = IIR_THRI
        elif ier & IER_MSI and s.msr & MSR_DELTAS:
            ident = IIR_MSI
        else:
            ident = IIR_NO_INT
        s.iir = s.iir & 0xF0 | ident
        self._irq.set(ident != IIR_NO_INT)

    def _trigger_reached(self, s: SerialState) -> bool:
        return not s.fcr & FCR_FE or s.recv_fifo.count >= TRIGGER_LEVELS[s.fcr >> 6]

    def _room(self) -> int:
        """How many bytes of input to take now: up to the trigger level, or one by one if the guest has lowered it."""
        s = self.state
        if s.mcr & MCR_LOOP or s.mcr & (MCR_DTR | MCR_RTS) == MCR_DTR or not self._burst_left:
            return 0
        if not s.fcr & FCR_FE:
            return 0 if s.lsr & LSR_DR else 1
        short = TRIGGER_LEVELS[s.fcr >> 6] - s.recv_fifo.count
        return short if short >= 0 else int(s.recv_fifo.count < FIFO_SIZE)

    def _on_pause(self) -> None:
        self._burst_left = INPUT_BURST
        self.poll_input()

    def _receive(self, data: bytes) -> None:
        s = self.state
        if s.fcr & FCR_FE:
            for value in data:
                if not s.recv_fifo.push(value):
                    s.lsr |= LSR_OE
            self._restart_timeout()
        else:
            if s.lsr & LSR_DR:
                s.lsr |= LSR_OE
            s.rbr = data[0]
        s.lsr |= LSR_DR
        self._update_irq()

    def _transmit(self) -> None:
        """Shift out a refused byte and everything behind it."""
        s = self.state
        if s.tsr_retry:
            s.tsr_retry = 0
            self._shift_out(s)
        while not s.lsr & LSR_THRE:
            if not s.fcr & FCR_FE:
                s.tsr = s.thr
            elif s.xmit_fifo.count:
                s.tsr = s.xmit_fifo.pop()
            if not (s.fcr & FCR_FE and s.xmit_fifo.count):
                s.lsr |= LSR_THRE
                s.thr_ipending = int(bool(s.ier & IER_THRI))
                self._update_irq()
            self._shift_out(s)
        s.thr = s.tsr = 0
        s.lsr |= LSR_TEMT

    def _shift_out(self, s: SerialState) -> None:
        if s.mcr & MCR_LOOP:
            self._receive(BYTES[s.tsr])
        else:
            self._port.send(BYTES[s.tsr])

    def _set_timeout_span(self) -> None:
        """Recompute the character timeout in ns: four frames of start, data, parity and stop bits."""
        s = self.state
        bits = 1 + 5 + (s.lcr & LCR_WLS) + bool(s.lcr & LCR_PEN) + (2 if s.lcr & LCR_STB else 1)
        frames_ns = TIMEOUT_CHARACTERS * bits * NS_PER_SECOND
        self._timeout_span = frames_ns * s.divider // BAUD_BASE if s.divider else frames_ns // SLOWEST_BAUD

    def _restart_timeout(self) -> None:
        """Put the timeout off; a timer that is armed already just comes early, so bytes in a row cost no re-arming."""
        deadline = self.state.fifo_timeout_timer = self._clock.now() + self._timeout_span
        armed = self._timeout.deadline
        if armed is None or armed > deadline:
            self._timeout.arm(deadline)

    def _on_timeout(self) -> None:
        s = self.state
        if (s.fifo_timeout_timer or 0) > self._clock.now():
            self._timeout.set(s.fifo_timeout_timer)
            return
        s.fifo_timeout_timer = None
        if s.recv_fifo.count:
            s.timeout_ipending = 1
            self._update_irq()
