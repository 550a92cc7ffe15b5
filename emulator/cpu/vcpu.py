"""One hart: the engine joined to the board's address map, with traps, interrupt lines, `wfi` and tracing.

Everything here runs on the machine's thread; `stop` alone may be called from any. Interrupts that are pending together
are taken by the engine in the order of their numbers (MSI, MTI, MEI), where the specification has MEI, MSI, MTI: the
engine chooses by itself, in the middle of running code, and asking it to leave that code first would cost every
interrupt some microseconds. All of them are taken all the same, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.core import log
from emulator.core.bits import mask
from emulator.core.bus import AddressMap, Mapping, MmioRegion
from emulator.core.errors import MemoryAccessError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.cpu import csrs, decode, mmu
from emulator.cpu.engine import Access, Engine, Exit
from emulator.cpu.env import F_NAMES, X_NAMES
from emulator.cpu.state import CommonPart, RegisterPart
from emulator.cpu.traps import ADDRESS_CAUSES, MODES, PRIV_M, PRIV_S, Cause, enter_trap, log_interrupt

MSIP, MTIP, SEIP, MEIP = 1 << 3, 1 << 7, 1 << 9, 1 << 11
"""The bits of `mip` that interrupt lines drive."""

USER_COUNTERS = 0xC00
CYCLES_OR_INSTRUCTIONS = (0xB00, 0xB02, 0xC00, 0xC02)

CSRS_SHOWN = (
    "mhartid mstatus mip mie mideleg medeleg mtvec stvec mepc sepc mcause scause mtval stval mscratch sscratch satp"
).split()

_FAULTS = {
    Access.LOAD: Cause.LOAD_ACCESS_FAULT,
    Access.STORE: Cause.STORE_ACCESS_FAULT,
    Access.FETCH: Cause.INSTRUCTION_ACCESS_FAULT,
}

_STORE_TWINS: dict[int, int] = {
    Cause.LOAD_MISALIGNED: Cause.STORE_MISALIGNED,
    Cause.LOAD_ACCESS_FAULT: Cause.STORE_ACCESS_FAULT,
    Cause.LOAD_PAGE_FAULT: Cause.STORE_PAGE_FAULT,
}


class Vcpu:
    """A hart on a board.

    `time` answers the `time` CSR (ticks of mtime), `cycles` the cycle and instruction counters. `counting` chooses
    exact instruction counts, and the same run every time, over speed.
    """

    def __init__(
        self,
        bus: AddressMap,
        *,
        time: Callable[[], int],
        cycles: Callable[[], int],
        hart: int = 0,
        xlen: int = 64,
        counting: bool = False,
    ) -> None:
        self.bus = bus
        self.hart = hart
        self.halted = False
        """Waiting in `wfi`, with no enabled interrupt pending."""
        self._time = time
        self._cycles = cycles
        self._retired = 0
        self._pages: dict[int, Mapping] = {}
        self._read_only: set[int] = set()  # bases of what the guest sees as memory and cannot store to
        self._raised = 0
        self._lowered = 0
        self._later: list[Callable[[], None]] = []
        self._trace_mmio = False
        self._shown: set[int] = set()
        self.engine = Engine(self, xlen=xlen, counting=counting)
        self.env = self.engine.env
        self._block: int | None = None
        """Where the block begins that was traced last; None without tracing."""
        self._stopped_in: int | None = None
        """The same, if it was stopped before its first instruction: it is going to begin again."""
        self.parts = CommonPart(self), RegisterPart(self)
        """What the hart has in a stream."""
        self._map_all()

    # Running

    def run(self, budget: int = 0) -> None:
        """Run the guest until a stop or `wfi`, or for `budget` instructions in counting mode; may return sooner."""
        if self.halted and not self._interrupt_pending():
            return
        self.halted = False
        left = self.engine.run(budget)
        self._retired += self.engine.executed
        if self._block is not None:
            self._stopped_in = self._block if self.env["pc"] == self._block else None
        if self._raised or self._lowered:
            self.engine.set_interrupts(self._raised, self._lowered)
            self._raised = self._lowered = 0
        while self._later:
            self._later.pop(0)()
        if left is Exit.WFI:
            self.halted = not self._interrupt_pending()
        elif left is Exit.REFUSED:
            self._access_fault()

    def stop(self) -> None:
        """Make `run` return between two instructions; to be repeated while `running`."""
        self.engine.stop()

    def stop_here(self) -> None:
        """On the machine's thread, perhaps inside a chip's callback: let no more run than the engine must."""
        if self.engine.running:
            self.engine.stop_after_this_instruction()

    @property
    def wakes(self) -> bool:
        """Whether an enabled interrupt is pending, which ends `wfi`."""
        return self._interrupt_pending()

    @property
    def running(self) -> bool:
        """Whether guest code runs at this moment."""
        return self.engine.running

    @property
    def instructions(self) -> int:
        """Instructions run since power-on, the one in progress included; counting mode only."""
        return self._retired + self.engine.progress

    def count_from(self, instructions: int) -> None:
        """Go on counting from there, as a machine that is restored does."""
        self._retired = instructions

    def reset(self) -> None:
        """Registers as after power-on; interrupt lines must be driven again."""
        self.engine.reset()
        self.env["mhartid"] = self.hart
        self.halted = False

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def set_line(self, bit: int, level: bool) -> None:
        """An interrupt line moved: `bit` is one of MSIP, MTIP, SEIP, MEIP."""
        if self.engine.running and not self.engine.precise:
            # An exit that the engine requests by itself inside this store would run the store twice.
            self._raised = self._raised & ~bit | (bit if level else 0)
            self._lowered = self._lowered & ~bit | (0 if level else bit)
            self.engine.stop_after_this_instruction()
        else:
            self.engine.set_interrupts(bit if level else 0, 0 if level else bit)

    # What the engine asks

    def load(self, address: int, size: int) -> int | None:
        """A load from a device page; None where the chip does not answer."""
        target = self._target(self._mapping(address), address, size)
        if target is None:
            return None
        region, offset = target
        value = region.read(offset, size)
        if self._trace_mmio:
            log.mmio.debug("%s: read 0x%x, %d bytes: 0x%x", region.name, offset, size, value)
        return value

    def store(self, address: int, size: int, value: int) -> bool:
        """A store to a device page or to ROM, which ignores it; False where nothing answers."""
        mapping = self._mapping(address)
        is_memory = mapping is not None and mapping.base in self._read_only
        if is_memory and decode.is_amo(self._instruction()):
            return False  # the engine would do it to the memory
        target = self._target(mapping, address, size)
        if target is not None:
            region, offset = target
            if self._trace_mmio:
                log.mmio.debug("%s: write 0x%x, %d bytes: 0x%x", region.name, offset, size, value)
            region.write(offset, size, value)
        elif mapping is not None and isinstance(mapping.target, RamBlock):
            log.guest_errors.debug("%s: store at 0x%x, pc 0x%x", mapping.target.name, address, self.env["pc"])
        else:
            return False
        if is_memory:
            # What is not refused the engine stores: leave the instruction before it does.
            self.engine.redo_after(self._next_pc())
        return True

    def exception(self, cause: int) -> None:
        """A synchronous exception that the engine found."""
        env = self.env
        trap_value = 0
        if cause == Cause.ECALL_U:
            cause += env["priv"]  # the engine does not tell the modes apart
        elif cause == Cause.ILLEGAL_INSTRUCTION:
            trap_value = self._instruction()
        elif cause in ADDRESS_CAUSES:
            cause = self._as_amo(cause)
            trap_value = env["badaddr"]
        enter_trap(env, cause, trap_value)

    def counter(self, csr: int) -> int | None:
        """A counter CSR; None where `mcounteren` or `scounteren` keeps it from the present mode."""
        env = self.env
        if csr >= USER_COUNTERS and env["priv"] < PRIV_M:
            enabled = env["mcounteren"] if env["priv"] == PRIV_S else env["mcounteren"] & env["scounteren"]
            if not enabled >> (csr - USER_COUNTERS) & 1:
                return None
        if csr == csrs.TIME:
            return self._time()
        return self._cycles() if csr in CYCLES_OR_INSTRUCTIONS else 0

    # Memory that changes its face

    def map_rom_device(self, base: int, block: RamBlock, as_rom: bool) -> None:
        """Show the pages at `base` as the memory of `block`, stores going to the device there, or as the device alone.

        Called by a device in the middle of a store, it takes effect before the next instruction.
        """
        if self.engine.running:
            self._later.append(lambda: self._map_rom_device(base, block, as_rom))
            self.engine.redo_after(self._next_pc())
        else:
            self._map_rom_device(base, block, as_rom)

    def _map_rom_device(self, base: int, block: RamBlock, as_rom: bool) -> None:
        self.engine.unmap(base, block.size)
        if as_rom:
            self.engine.map_ram(base, block, readonly=True)
            self._read_only.add(base)
        else:
            self.engine.map_devices(base, block.size)
            self._read_only.discard(base)
        self.engine.flush()

    # For people

    def registers(self) -> dict[str, int]:
        """The registers that `info registers` shows, in its order."""
        names = ["pc", *CSRS_SHOWN]
        shown = {name: self.env[name] for name in names}
        shown |= {f"x{n}/{name}": self.env[f"x{n}"] for n, name in enumerate(X_NAMES)}
        shown |= {f"f{n}/{name}": self.env[f"f{n}"] for n, name in enumerate(F_NAMES)}
        return shown

    def read_virtual(self, address: int, length: int) -> bytes:
        """Memory as the hart's next instruction would see it; MemoryAccessError where there is none."""
        return mmu.read_virtual(self.env, self.bus, address, length)

    def page_map(self) -> mmu.PageMap | None:
        """What `info mem` shows; None while addresses are not translated."""
        return mmu.page_map(self.env, self.bus)

    def trace(self) -> None:
        """Follow what `-d` asks for; call it once, before the guest runs."""
        self._trace_mmio = log.enabled(log.mmio)
        if any(log.enabled(item) for item in (log.in_asm, log.executed, log.interrupts)):
            self.engine.trace_blocks(self._on_block)

    # Inside

    def _map_all(self) -> None:
        mapped_to = watched_to = 0
        for mapping in self.bus:
            if isinstance(mapping.target, RamBlock) and not mapping.target.readonly:
                if watched_to < mapping.base:
                    self.engine.watch(watched_to, mapping.base)
                watched_to = mapping.end
        self.engine.watch(watched_to, 1 << 64)
        for mapping in self.bus:
            if isinstance(mapping.target, RamBlock):
                self.engine.map_ram(mapping.base, mapping.target, readonly=mapping.target.readonly)
                if mapping.target.readonly:
                    self._read_only.add(mapping.base)
                continue
            if mapping.target.rom is not None:
                self.engine.map_ram(mapping.base, mapping.target.rom, readonly=True)
                self._read_only.add(mapping.base)
                continue
            first = max(mapping.base // PAGE_SIZE * PAGE_SIZE, mapped_to)
            mapped_to = -(-mapping.end // PAGE_SIZE) * PAGE_SIZE
            if first < mapped_to:
                self.engine.map_devices(first, mapped_to - first)

    def _mapping(self, address: int) -> Mapping | None:
        return self._pages.get(address >> 12) or self._find(address)

    @staticmethod
    def _target(mapping: Mapping | None, address: int, size: int) -> tuple[MmioRegion, int] | None:
        """The region of `mapping` that takes this access and the offset in it, if it does."""
        if mapping is None or isinstance(mapping.target, RamBlock):
            return None
        offset = address - mapping.base
        return (mapping.target, offset) if mapping.target.accepts(offset, size) else None

    def _find(self, address: int) -> Mapping | None:
        mapping = self.bus.find(address)
        if mapping is not None:
            first = address >> 12 << 12
            if (mapping.base <= first and first + PAGE_SIZE <= mapping.end) or mapping.base == first:
                self._pages[address >> 12] = mapping
        return mapping

    def _interrupt_pending(self) -> bool:
        return bool(self.env["mip"] & self.env["mie"])

    def _instruction(self) -> int:
        """The instruction at the PC, 0 where it cannot be read; a compressed one in the low half."""
        pc = self.env["pc"]
        try:
            low = int.from_bytes(self.read_virtual(pc, 2), "little")
            if decode.length(low) == 2:
                return low
            return low | int.from_bytes(self.read_virtual(pc + 2, 2), "little") << 16
        except MemoryAccessError:
            return 0

    def _next_pc(self) -> int:
        return self.env["pc"] + decode.length(self._instruction()) & mask(self.env.xlen)

    def _access_fault(self) -> None:
        refusal = self.engine.refusal
        if log.enabled(log.guest_errors):
            log.guest_errors.debug(
                "%s of %d bytes refused at 0x%x, pc 0x%x",
                refusal.access.value,
                refusal.size,
                refusal.address,
                self.env["pc"],
            )
        cause = self._as_amo(_FAULTS[refusal.access])
        enter_trap(self.env, cause, self._fault_address(refusal.access, refusal.address))

    def _as_amo(self, cause: int) -> int:
        """`cause`, or for an AMO, whose load the engine does first, the store's twin of it (section 3.1.15)."""
        if cause not in _STORE_TWINS:
            return cause
        instruction = self._instruction()
        is_read_only = decode.is_load_reserved(instruction) or not decode.is_amo(instruction)
        return cause if is_read_only else _STORE_TWINS[cause]

    def _fault_address(self, access: Access, physical: int) -> int:
        """The virtual address of a refused access: the instruction tells, as the engine only knows the physical one."""
        pc = self.env["pc"]
        if access is Access.FETCH:
            return pc + ((physical - pc) & (PAGE_SIZE - 1)) & mask(self.env.xlen)
        address = decode.effective_address(self._instruction(), self.env.x, self.env.xlen)
        return physical if address is None else address

    def _on_block(self, address: int, size: int) -> None:
        self._block, stopped_in, self._stopped_in = address, self._stopped_in, None
        if address == stopped_in:
            return  # told already, and has not run since
        if log.enabled(log.interrupts):
            log_interrupt(self.env)
        if log.enabled(log.executed):
            log.executed.debug("Trace %d: 0x%x %s", self.hart, address, MODES[self.env["priv"]])
        if log.enabled(log.in_asm):
            self._show_code(address, size)

    def _show_code(self, address: int, size: int) -> None:
        """Log a block's instructions, once for each place in memory: programs have the same addresses, not the code."""
        try:
            place, code = mmu.translate(self.env, self.bus, address), self.read_virtual(address, size)
        except MemoryAccessError:
            return  # the guest has taken the page away, and not told the hart yet
        if place in self._shown:
            return
        self._shown.add(place)
        from emulator.cpu.disasm import disassemble  # Capstone takes 120 ms to import

        lines = (f"0x{at:016x}:  {raw[::-1].hex():<8}  {text}" for at, raw, text in disassemble(code, address))
        log.in_asm.debug("----------------\nIN:\n%s\n", "\n".join(lines))
