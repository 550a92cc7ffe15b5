"""SiFive's platform-level interrupt controller (PLIC): device lines in, one external interrupt per hart and mode out.

Datasheet: "RISC-V Platform-Level Interrupt Controller Specification" 1.0.0, with the register file of the SiFive U54
parts as QEMU's `virt` board lays it out. One region of 0x600000 bytes, 4-byte accesses only. Inputs: sources 1 to
95 (`connect`, `input`). Outputs: one line per context, on `virt` M and S of hart 0, M and S of hart 1, and so on.

A source becomes pending at its line's rising edge and stays so when the line falls, until it is claimed. From claim to
completion it is gated. A line that is still high at completion makes the source pending again, as the specification
demands of a level gateway; in QEMU the device would raise its line once more, which lines that carry only edges cannot.

Where QEMU 7.2 departs from the specification, this model keeps to the specification in two places: an enable register
that is written takes effect at once (7.2 waits for the next event), so the outputs are always a function of the
registers; and a completion is ignored unless the source is enabled for that context (7.2 does not look).

State in a stream: section `riscv_sifive_plic` as QEMU 7.2 has it. There a bitmap is 32-bit words, lowest sources first,
and what is in service is the bitmap `claimed`, which does not say by whom, nor in which order. Bit 0 of an enable
register is kept as written and means nothing, as in QEMU.

Left out: contexts in U mode, message-signalled interrupts, and 7.2's access to the priority of a source that does not
exist (offset 4 x sources), which is a hole here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial
from typing import ClassVar

from emulator.core.bits import extract_bytes, mask, replace_bytes
from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.errors import ConfigError
from emulator.core.irq import IrqLine, IrqSink
from emulator.core.log import guest_errors
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import UInt32, VArray, WithTmp
from emulator.migration.vmstate import VMStateDescription

SIZE = 0x600000
PRIORITY_BASE = 0x4
"""Priority registers start with source 1; offset 0 is a hole in 7.2."""
PENDING_BASE = 0x1000
ENABLE_BASE = 0x2000
ENABLE_STRIDE = 0x80
CONTEXT_BASE = 0x200000
CONTEXT_STRIDE = 0x1000
THRESHOLD = 0x0
CLAIM_COMPLETE = 0x4

SOURCE_LIMIT = 1024
"""What the pending and enable registers have room for."""


@dataclass(slots=True)
class Source:
    """An interrupt source: `number` is its id at the claim register, `priority` 0 (never) to the chip's highest."""

    number: int
    priority: int = 0

    def __hash__(self) -> int:
        return self.number


@dataclass(slots=True)
class PlicState:
    """All that the guest can observe; the defaults are the reset values of the board with one hart.

    Bit n of a bitmap stands for source n.
    """

    source_count: InitVar[int] = 96
    context_count: InitVar[int] = 2
    sources: list[Source] = field(init=False)
    """By number; entry 0 is never used."""
    target_priority: list[int] = field(init=False)
    """Threshold of each context, 0 to the chip's highest priority."""
    pending: int = 0
    in_service: set[Source] = field(default_factory=set)
    """Members of `sources` that are claimed and not completed."""
    enable: list[int] = field(init=False)
    """A bitmap for each context."""

    def __post_init__(self, source_count: int, context_count: int) -> None:
        self.sources = [Source(number) for number in range(source_count)]
        self.target_priority = [0] * context_count
        self.enable = [0] * context_count


@dataclass(slots=True)
class PlicTmp:
    """The wire form of a PlicState: priorities without their sources, bitmaps in words, one context after the other."""

    parent: PlicState
    source_priority: list[int] = field(init=False)
    pending: list[int] = field(init=False)
    claimed: list[int] = field(init=False)
    enable: list[int] = field(init=False)

    def __post_init__(self) -> None:
        words = _words_of(len(self.parent.sources))
        self.source_priority = [0] * len(self.parent.sources)
        self.pending = [0] * words
        self.claimed = [0] * words
        self.enable = [0] * words * len(self.parent.enable)

    def pre_save(self) -> None:
        """Take the state apart."""
        state, words = self.parent, len(self.pending)
        self.source_priority = [source.priority for source in state.sources]
        self.pending = _to_words(state.pending, words)
        self.claimed = _to_words(sum(1 << source.number for source in state.in_service), words)
        self.enable = [word for bitmap in state.enable for word in _to_words(bitmap, words)]

    def post_load(self, _version_id: int) -> None:
        """Put the state together; raises FieldRangeError for what is said of sources that do not exist."""
        state, words = self.parent, len(self.pending)
        if self.source_priority[0]:
            raise FieldRangeError("source_priority[0]", self.source_priority[0], 1)
        for source, priority in zip(state.sources, self.source_priority, strict=True):
            source.priority = priority
        state.pending = self._sources("pending", self.pending)
        claimed = self._sources("claimed", self.claimed)
        state.in_service = {source for source in state.sources if claimed >> source.number & 1}
        state.enable[:] = [
            _from_words(self.enable[begin : begin + words]) for begin in range(0, len(self.enable), words)
        ]

    def _sources(self, name: str, words: list[int]) -> int:
        """A bitmap that has only bits of sources that exist."""
        bitmap, count = _from_words(words), len(self.parent.sources)
        if wrong := bitmap & ~(mask(count) & ~1):
            number = (wrong & -wrong).bit_length() - 1
            raise FieldRangeError(f"{name}[{number // 32}]", f"source {number}", f"sources 1 to {count - 1} only")
        return bitmap


def _words_of(sources: int) -> int:
    return -(-sources // 32)


def _to_words(bitmap: int, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}I", bitmap.to_bytes(4 * count, "little")))


def _from_words(words: list[int]) -> int:
    return int.from_bytes(struct.pack(f"<{len(words)}I", *words), "little")


VMSTATE_PLIC = VMStateDescription(
    "riscv_sifive_plic",
    PlicState,
    version_id=1,
    minimum_version_id=1,
    fields=(
        WithTmp(
            VMStateDescription(
                "riscv_sifive_plic/tmp",
                PlicTmp,
                fields=(
                    VArray("source_priority", UInt32, lambda tmp: len(tmp.source_priority)),
                    VArray(
                        "parent.target_priority",
                        UInt32,
                        lambda tmp: len(tmp.parent.target_priority),
                        wire_name="target_priority",
                    ),
                    VArray("pending", UInt32, lambda tmp: len(tmp.pending)),
                    VArray("claimed", UInt32, lambda tmp: len(tmp.claimed)),
                    VArray("enable", UInt32, lambda tmp: len(tmp.enable)),
                ),
            ),
            covers=("sources", "pending", "in_service", "enable"),
            inline=True,
        ),
    ),
    derived=("sources.number",),
)


class SifivePlic(Device):
    """The controller; `outputs[i]` is the external interrupt line of context i.

    `sources` counts source 0, which does not exist, as QEMU's `num-sources` does; `priorities` is the highest one.
    """

    kind = "riscv.sifive.plic"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"riscv_sifive_plic": VMSTATE_PLIC}
    state: PlicState

    def __init__(self, outputs: Sequence[IrqLine], *, sources: int = 96, priorities: int = 7) -> None:
        if not 1 < sources <= SOURCE_LIMIT:
            raise ConfigError(f"PLIC: {sources} sources, expected 2 to {SOURCE_LIMIT}")
        self.outputs = tuple(outputs)
        self.priorities = priorities
        self._lines: list[IrqLine | None] = [None] * sources
        self.regions = (MmioRegion(self.kind, SIZE, self._read, self._write, min_size=4, max_size=4),)
        self.reset()

    def fresh(self) -> PlicState:
        """The state after reset, sized for the chip's sources and contexts."""
        return PlicState(len(self._lines), len(self.outputs))

    def check(self, state: PlicState) -> None:
        """Refuse priorities and thresholds that this chip does not have."""
        for source in state.sources:
            if source.priority > self.priorities:
                raise FieldRangeError(f"source_priority[{source.number}]", source.priority, self.priorities + 1)
        for context, threshold in enumerate(state.target_priority):
            if threshold > self.priorities:
                raise FieldRangeError(f"target_priority[{context}]", threshold, self.priorities + 1)

    def adopt(self, state: PlicState) -> None:
        """Take over a state with as many sources and contexts, priorities and thresholds in range; no edges."""
        self.state = state
        self._claimed = sum(1 << source.number for source in state.in_service)
        # One bitmap of sources per threshold, so that the hot path never walks through the sources.
        self._above = [0] * (self.priorities + 1)
        for source in state.sources[1:]:
            if source.priority:
                self._set_priority(source, source.priority)
        for context, output in enumerate(self.outputs):
            output.restore_level(self._level(context))

    def properties(self) -> dict[str, object]:
        """The register file's geometry, by QEMU's property names."""
        return {
            "num-sources": len(self._lines),
            "num-priorities": self.priorities,
            "priority-base": PRIORITY_BASE,
            "pending-base": PENDING_BASE,
            "enable-base": ENABLE_BASE,
            "enable-stride": ENABLE_STRIDE,
            "context-base": CONTEXT_BASE,
            "context-stride": CONTEXT_STRIDE,
            "aperture-size": SIZE,
        }

    def connect(self, source: int, line: IrqLine) -> None:
        """Let a device's line drive `source` (1 to sources - 1); raises ConfigError if it cannot.

        Unlike a bare sink, the line also tells its level after a restore, which makes no edge.
        """
        if not 0 < source < len(self._lines) or self._lines[source] is not None:
            raise ConfigError(f"PLIC: source {source} does not exist or is already connected")
        line.connect(partial(self._input_changed, 1 << source))
        self._lines[source] = line

    def input(self, source: int) -> IrqSink:
        """A sink that drives `source` through a line of its own; for drivers whose level survives no restore."""
        line = IrqLine(f"{self.kind}[{source}]")
        self.connect(source, line)
        return line.set

    def _input_changed(self, bit: int, level: bool) -> None:
        if level:
            self.state.pending |= bit
            self._update()

    def _set_priority(self, source: Source, priority: int) -> None:
        source.priority = priority
        bit = 1 << source.number
        for threshold, sources in enumerate(self._above):
            self._above[threshold] = sources | bit if priority > threshold else sources & ~bit

    def _level(self, context: int) -> bool:
        state = self.state
        ready = state.pending & ~self._claimed & state.enable[context]
        return ready != 0 and ready & self._above[state.target_priority[context]] != 0

    def _update(self) -> None:
        for context, output in enumerate(self.outputs):
            output.set(self._level(context))

    def _best(self, context: int) -> int:
        """The source that `context` would claim, 0 if none: highest priority first, then lowest number."""
        state = self.state
        ready = state.pending & ~self._claimed & state.enable[context]
        for threshold in range(self.priorities - 1, state.target_priority[context] - 1, -1):
            if candidates := ready & self._above[threshold]:
                return (candidates & -candidates).bit_length() - 1
        return 0

    def _claim(self, context: int) -> int:
        number = self._best(context)
        if number:
            bit = 1 << number
            self.state.pending &= ~bit
            self.state.in_service.add(self.state.sources[number])
            self._claimed |= bit
            self._update()
        return number

    def _complete(self, context: int, number: int) -> None:
        if number >= len(self._lines) or not self._claimed & self.state.enable[context] & 1 << number:
            guest_errors.debug("%s: completion of %d, not in service or not enabled", self.kind, number)
            return
        self.state.in_service.discard(self.state.sources[number])
        self._claimed &= ~(1 << number)
        line = self._lines[number]
        if line is not None and line.level:
            self.state.pending |= 1 << number
        self._update()

    def _legal(self, value: int, old: int) -> int:
        """What a priority or threshold register holds after a write: some bits wired to 0, or nothing out of range."""
        if not self.priorities & (self.priorities + 1):
            return value & self.priorities
        return value if value <= self.priorities else old

    def _bitmap_offset(self, offset: int) -> int | None:
        """`offset` in bytes into a bitmap of all sources, None behind its last word."""
        return offset if offset < 4 * _words_of(len(self._lines)) else None

    def _read(self, offset: int, size: int) -> int:
        state = self.state
        if offset >= CONTEXT_BASE:
            context, register = divmod(offset - CONTEXT_BASE, CONTEXT_STRIDE)
            if context < len(self.outputs):
                if register == CLAIM_COMPLETE:
                    return self._claim(context)
                if register == THRESHOLD:
                    return state.target_priority[context]
        elif offset >= ENABLE_BASE:
            context, register = divmod(offset - ENABLE_BASE, ENABLE_STRIDE)
            if context < len(self.outputs) and (at := self._bitmap_offset(register)) is not None:
                return extract_bytes(state.enable[context], at, size)
        elif offset >= PENDING_BASE:
            if (at := self._bitmap_offset(offset - PENDING_BASE)) is not None:
                return extract_bytes(state.pending, at, size)
        elif PRIORITY_BASE <= offset < 4 * len(self._lines):
            return state.sources[offset // 4].priority
        guest_errors.debug("%s: read of no register at 0x%x", self.kind, offset)
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        if offset >= CONTEXT_BASE:
            context, register = divmod(offset - CONTEXT_BASE, CONTEXT_STRIDE)
            if context < len(self.outputs):
                if register == CLAIM_COMPLETE:
                    self._complete(context, value)
                    return
                if register == THRESHOLD:
                    state.target_priority[context] = self._legal(value, state.target_priority[context])
                    self._update()
                    return
        elif offset >= ENABLE_BASE:
            context, register = divmod(offset - ENABLE_BASE, ENABLE_STRIDE)
            if context < len(self.outputs) and (at := self._bitmap_offset(register)) is not None:
                state.enable[context] = replace_bytes(state.enable[context], at, size, value)
                self._update()
                return
        elif PRIORITY_BASE <= offset < 4 * len(self._lines):
            source = state.sources[offset // 4]
            self._set_priority(source, self._legal(value, source.priority))
            self._update()
            return
        guest_errors.debug("%s: write of 0x%x to no writable register at 0x%x", self.kind, value, offset)
