"""The CPU engine: Unicorn made precise. The only file that runs Unicorn.

It runs the guest's code and hands everything that is not plain RAM to its `Client`, always with the registers at the
very instruction. How that is reached, where Unicorn alone falls short:

- **Stops** land between two instructions of which none has run twice: see `internals.py`. Where the proof at start-up
  fails, a callback on each block takes the stop instead (`precise` is False; about a microsecond a block).
- **Device pages** are mapped without any permission, so that Unicorn's protection callback comes first: it knows the PC
  and the full access (8 bytes are not yet split, a misaligned address not yet cut up), and may refuse it.
- **A refused store** does not leave the block by itself (a refused load does). The registers are copied, the TLB is
  emptied and refuses to be filled, so the block ends before its next access to memory, and the copy is put back.
- **Stores in machine mode are fast** only on pages that are not executable in the TLB. While the guest runs there
  without MPRV or locked PMP entries, addresses are physical and each page is either readable and executable, or
  readable and writable, at a time; the first access that needs the hart's own MMU changes over to it for good.
  Counting mode has that MMU from the start, so that an access is never begun, and counted, twice.
- **Counters, time and memory protection** are answered by Python: see `csrs.py`.

One engine belongs to one thread; `stop` alone may be called from any.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.core.bits import mask
from emulator.core.errors import EngineError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.cpu import csrs, pmp
from emulator.cpu import libunicorn as uc
from emulator.cpu.env import Env
from emulator.cpu.internals import COUNT_MARK, UNTIL_MARK, Internals
from emulator.cpu.usertlb import UserTlb

CSR_MIP = 0x344
CSR_FFLAGS, CSR_FFLAGS_MASK = 0x001, 0x1F
MIP_SSIP = 1 << 1
MSTATUS_MPRV = 1 << 17
STATUS_AT_RESET = {64: 2 << 34 | 2 << 32, 32: 0}
"""mstatus by register width: on RV64, supervisor and user mode have 64 bits as well (SXL, UXL), which cannot change."""
PRIV_M = 3

NEVER = 1
"""An `until` that no PC equals, being odd."""

MIXED_PAGE_FLIPS = 32
"""Changes between writing and executing a page after which it stays both: 5 us each, against 50 ns a slow store."""

TLB_ENTRIES_FIRST, TLB_ENTRIES_MOST = 256, 1 << 16

_FETCHED = uc.PROT_READ | uc.PROT_EXEC
_DATA = uc.PROT_READ | uc.PROT_WRITE
_ALL = _FETCHED | _DATA


class Access(enum.Enum):
    """What an instruction tried to do with memory."""

    LOAD = "load"
    STORE = "store"
    FETCH = "fetch"


class Exit(enum.Enum):
    """Why `Engine.run` came back."""

    STOPPED = "stopped"
    WFI = "wfi"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An access that was turned down, by physical address; the registers are as before the instruction."""

    access: Access
    address: int
    size: int


class Client(Protocol):
    """What the engine asks about everything that is not plain RAM; called on the engine's thread."""

    def load(self, address: int, size: int) -> int | None:
        """The value at a physical address, or None to refuse the access."""

    def store(self, address: int, size: int, value: int) -> bool:
        """Take a value at a physical address; False refuses the access."""

    def exception(self, cause: int) -> None:
        """An exception of this cause at `env['pc']`: move the hart into its handler."""

    def counter(self, csr: int) -> int | None:
        """The value of a counter or of the time; None where the hart may not read it now."""


class Engine:
    """One hart of `xlen` bits. `counting` chooses exact instruction counts over speed."""

    def __init__(self, client: Client, *, xlen: int = 64, counting: bool = False) -> None:
        self._library = library = uc.load(xlen)
        self._client = client
        self.counting = counting
        self.precise = False
        """Whether stops are precise by the translator's own doing, not by a callback on each block."""
        self.running = False
        self.executed = 0
        """Instructions run by the last `run`; counted only in counting mode."""
        self._stop_wanted = False
        self._refusal: Refusal | None = None
        self._failure: BaseException | None = None
        self._draining: bytes | None = None
        self._breakpoint_met = False
        self._left_in_trap = False
        self._has_translated = False
        """Whether there can be translated code."""
        self._latch = 0
        self._latch_address = 0
        self._virtual = False
        self._flips: dict[int, list[int]] = {}
        self._tlb_fills = 0
        self._tlb_entries = TLB_ENTRIES_FIRST
        self._hooks: list[tuple[int, object]] = []
        self._internals: Internals | None = None
        self._user_tlb: UserTlb | None = None
        handle = ctypes.c_void_p()
        self._check(library.uc_open(uc.ARCH_RISCV, uc.MODE_RISCV[xlen], ctypes.byref(handle)))
        assert handle.value is not None
        self._handle: int = handle.value
        self._mmio_read = uc.MmioReadCallback(self._on_mmio_read)
        self._hook(uc.HOOK_INTR, uc.InterruptCallback, self._on_exception)
        self._hook(uc.HOOK_INSN_INVALID, uc.InvalidCallback, self._on_breakpoint)
        self._hook(uc.HOOK_TLB_FILL, uc.TlbFillCallback, self._on_tlb_fill)
        self.env = self._prove(xlen)
        if not self.precise and not counting:
            self._hook(uc.HOOK_BLOCK, uc.BlockCallback, self._on_block)
        self._reset_registers = self.env.save()

    # Memory

    def map_ram(self, base: int, block: RamBlock, *, readonly: bool = False) -> None:
        """Map a RAM block; stores into a `readonly` one go to the client."""
        permissions = uc.PROT_READ | uc.PROT_EXEC | (0 if readonly else uc.PROT_WRITE)
        self._check(self._library.uc_mem_map_ptr(self._handle, base, block.size, permissions, block.address))

    def map_devices(self, base: int, size: int) -> None:
        """Hand every load and store in whole pages at `base` to the client; fetching there is an access fault."""
        self._check(self._library.uc_mmio_map(self._handle, base, size, self._mmio_read, None, None, None))
        self._check(self._library.uc_mem_protect(self._handle, base, size, uc.PROT_NONE))

    def watch(self, begin: int, end: int) -> None:
        """Take charge of what is not plain RAM in the physical addresses from `begin` up to, not including, `end`.

        To be called for every range outside of writable RAM. Unicorn never lets a store be fast where such a callback
        might apply, so none may reach into RAM.
        """
        refused = (
            uc.HOOK_MEM_READ_UNMAPPED | uc.HOOK_MEM_WRITE_UNMAPPED | uc.HOOK_MEM_FETCH_UNMAPPED | uc.HOOK_MEM_FETCH_PROT
        )
        self._hook(refused, uc.MemoryCallback, self._on_unassigned, begin, end - 1)
        self._hook(uc.HOOK_MEM_READ_PROT | uc.HOOK_MEM_WRITE_PROT, uc.MemoryCallback, self._on_access, begin, end - 1)

    def unmap(self, base: int, size: int) -> None:
        """Take away what was mapped there; not inside a callback."""
        self._check(self._library.uc_mem_unmap(self._handle, base, size))

    def flush(self) -> None:
        """Forget translated code and addresses, after memory or registers changed behind the engine's back."""
        if self._has_translated:  # a hash table of 2 MiB is wiped
            self._has_translated = False
            self._control(uc.CTL_TB_FLUSH)
        self._control(uc.CTL_TLB_FLUSH)

    def reset(self) -> None:
        """All registers as after power-on."""
        self._library.riscv_csrrw_debug(self.env.address, CSR_FFLAGS, None, 0, CSR_FFLAGS_MASK)
        self.env.restore(self._reset_registers)
        self.set_interrupts(0, self.env["mip"])
        self._flips.clear()
        self._set_tlb(virtual=not self.counting)
        self.flush()

    @property
    def fflags(self) -> int:
        """The floating-point exceptions that have happened, by the bits of the CSR."""
        value = ctypes.c_uint64()
        self._library.riscv_csrrw_debug(self.env.address, CSR_FFLAGS, ctypes.byref(value), 0, 0)
        return value.value

    def adopt(self, registers: Mapping[str, int], *, mip: int, fflags: int) -> None:
        """Take over these registers; memory may have changed as well."""
        env = self.env
        # The flags live in the translator's own form, and a write marks the floating-point registers dirty.
        self._library.riscv_csrrw_debug(env.address, CSR_FFLAGS, None, fflags, CSR_FFLAGS_MASK)
        for name, value in registers.items():
            env[name] = value
        self.set_interrupts(mip, ~mip)
        pmp.update(env)
        self._flips.clear()
        self._set_tlb(virtual=not self.counting)
        self.flush()

    def close(self) -> None:
        """Free the engine; RAM blocks may be closed afterwards."""
        if self._handle:
            csrs.forget(self.env.address)
            self._library.uc_close(self._handle)
            self._handle = 0

    # Running

    def run(self, count: int = 0) -> Exit:
        """Run from `env['pc']` until a stop, a `wfi`, a refused access or, in counting mode, `count` instructions."""
        while True:
            error, stopped = self._enter(count)
            if self._draining is not None:
                self.env.restore(self._draining)
                self._set_tlb(virtual=self._virtual)
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._refusal is not None:
                return Exit.REFUSED
            if self._draining is not None:
                return Exit.STOPPED
            if error and self._virtual and self._needs_mmu():
                self._set_tlb(virtual=False)
                continue
            if error and self._breakpoint_met:
                return Exit.STOPPED
            if error:
                self._check(error)
            return Exit.STOPPED if stopped else Exit.WFI

    def _enter(self, count: int) -> tuple[int, bool]:
        """One `emu_start`, unless a stop came first: Unicorn's error number, and whether it was stopped."""
        self._refusal = self._draining = None
        self._breakpoint_met = self._left_in_trap = False
        # In this order, and in the opposite one in `stop`: whichever comes second sees the first.
        self.running = True
        if self._stop_wanted:
            self.running = False
            return 0, True
        if self._user_tlb is not None:
            self._user_tlb.keep_large()
        self._has_translated = True
        error = self._library.uc_emu_start(self._handle, self.env["pc"], NEVER, 0, count)
        self.running = False
        stopped = self.stop_wanted
        if self._internals is not None:
            asked = bool(self._internals.stop_request.value)
            stopped = stopped or asked
            if self.counting:
                # The hook that ends a run has counted the instruction that it kept from running.
                self.executed = self._internals.emu_counter.value - (asked and not self._left_in_trap)
        return error, stopped

    @property
    def refusal(self) -> Refusal:
        """The access that made `run` return REFUSED."""
        assert self._refusal is not None
        return self._refusal

    def stop(self) -> None:
        """Make the running or the next `run` come back between two instructions; from any thread.

        A stop that meets the engine on its way in is lost, so the caller repeats it while `running` stays true.
        """
        self._stop_wanted = True
        if self.running:
            self._interrupt()

    @property
    def stop_wanted(self) -> bool:
        """Whether a stop has come since `clear_stop`."""
        return self._stop_wanted

    def clear_stop(self) -> None:
        """Forget a stop that has been honoured; on the engine's own thread."""
        self._stop_wanted = False

    def stop_after_this_instruction(self) -> None:
        """Inside a callback: come back before the next instruction (counting mode) or the next block."""
        self._stop_wanted = True
        if self._internals is not None and self.counting:
            self._internals.emu_count.value = self._internals.emu_counter.value
        else:
            self._interrupt()

    @property
    def progress(self) -> int:
        """Instructions begun in the running `emu_start`; counting mode only, inside a callback."""
        return self._internals.emu_counter.value if self._internals is not None and self.running else 0

    def redo_after(self, pc: int) -> None:
        """Inside a `Client.store` that takes the store: end this block now; `run` returns with the PC at `pc`."""
        self._drain()
        assert self._draining is not None
        saved = self.env.save()
        self.env["pc"] = pc
        self._draining = self.env.save()
        self.env.restore(saved)

    def set_interrupts(self, set_bits: int, clear_bits: int) -> None:
        """Raise and lower bits of `mip` as interrupt lines do, whatever the guest's privilege."""
        env = self.env
        env["mip"] = mip = (env["mip"] | set_bits) & ~clear_bits
        # Writing SSIP with its own value makes the translator look at all of mip again.
        self._library.riscv_csrrw_debug(env.address, CSR_MIP, None, mip, MIP_SSIP)

    def trace_blocks(self, seen: Callable[[int, int], None]) -> None:
        """Call `seen(pc, size)` before each block runs."""
        self._hook(uc.HOOK_BLOCK, uc.BlockCallback, lambda _uc, address, size, _data: seen(address, size))
        self.flush()

    # Callbacks from the engine

    def _on_exception(self, _uc: int, cause: int, _data: int) -> None:
        if self._draining is None:
            env = self.env
            env["pc"] = env["pc"] - 4 & mask(env.xlen)  # Unicorn has moved it on, whatever the instruction's length
            self._client.exception(cause)
            if self.counting and self._stop_wanted:
                # Where the handler cannot be fetched, no instruction comes at which the count could end the run.
                self._left_in_trap = True
                self._library.uc_emu_stop(self._handle)

    def _on_breakpoint(self, _uc: int, _data: int) -> bool:
        if self._draining is None:
            self._client.exception(3)
        # Unicorn notes a failure for every breakpoint, and asks nobody about memory while one is noted: leave now.
        self._breakpoint_met = True
        return False

    def _on_access(self, _uc: int, kind: int, address: int, size: int, value: int, _data: int) -> bool:
        if kind == uc.MEM_READ_PROT:
            loaded = self._client.load(address, size)
            if loaded is None:
                self._refusal = Refusal(Access.LOAD, address, size)
                return False
            self._latch, self._latch_address = loaded, address
            return True
        if self._client.store(address, size, value & ((1 << 8 * size) - 1)):
            return self._draining is None
        self._refuse_store(address, size)
        return False

    def _on_mmio_read(self, _uc: int, offset: int, _size: int, _data: int) -> int:
        # The access of _on_access or a 4-byte piece of it; or the page walk, in tables that lie in a device.
        position = (offset - self._latch_address) % PAGE_SIZE
        return self._latch >> 8 * position if position < 8 else 0

    def _on_unassigned(self, _uc: int, kind: int, address: int, size: int, _value: int, _data: int) -> bool:
        if self._draining is not None:
            return False
        if kind == uc.MEM_WRITE_UNMAPPED:
            self._refuse_store(address, size)
        else:
            access = Access.FETCH if kind in (uc.MEM_FETCH_UNMAPPED, uc.MEM_FETCH_PROT) else Access.LOAD
            self._refusal = Refusal(access, address, size)
        return False

    def _on_tlb_fill(
        self, _uc: int, address: int, access: int, entry: ctypes._Pointer[uc.TlbEntry], _data: int
    ) -> bool:
        if self._draining is not None or self._needs_mmu():
            return False
        permissions = _FETCHED if access == uc.MEM_FETCH else _DATA
        flips = self._flips.get(address)
        if flips is not None or permissions == _FETCHED:
            permissions = self._page_with_code(address, permissions, flips)
        answer = entry.contents
        answer.paddr = address
        answer.perms = permissions
        self._tlb_fills += 1
        if self._tlb_fills >= self._tlb_entries:
            # A flush is when the translator looks at how full its TLB is, and doubles it if it is.
            self._tlb_fills = 0
            self._tlb_entries = min(2 * self._tlb_entries, TLB_ENTRIES_MOST)
            self._control(uc.CTL_TLB_FLUSH)
        return True

    def _page_with_code(self, address: int, wanted: int, flips: list[int] | None) -> int:
        """Permissions for a page with code in it: what is wanted now, or all once that has changed too often."""
        if flips is None:
            flips = self._flips[address] = [wanted, 0]
        if flips[0] != wanted:
            flips[:] = wanted, flips[1] + 1
        return wanted if flips[1] < MIXED_PAGE_FLIPS else _ALL

    def _on_block(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        if self._stop_wanted:
            self._library.uc_emu_stop(self._handle)

    # Inside

    def _interrupt(self) -> None:
        if self.counting:
            if self._internals is not None:
                self._internals.emu_count.value = 0
        elif self.precise:
            self._library.uc_emu_stop(self._handle)

    def _needs_mmu(self) -> bool:
        env = self.env
        return env["priv"] != PRIV_M or bool(env["mstatus"] & MSTATUS_MPRV) or env.locked_pmp()

    def _refuse_store(self, address: int, size: int) -> None:
        self._refusal = Refusal(Access.STORE, address, size)
        self._drain()

    def _drain(self) -> None:
        self._draining = self.env.save()
        self._control(uc.CTL_TLB_TYPE, uc.TLB_VIRTUAL)
        self._control(uc.CTL_TLB_FLUSH)

    def _set_tlb(self, *, virtual: bool) -> None:
        self._virtual = virtual
        self._control(uc.CTL_TLB_TYPE, uc.TLB_VIRTUAL if virtual else uc.TLB_CPU)
        self._control(uc.CTL_TLB_FLUSH)

    def _control(self, control: int, *argument: int) -> None:
        arguments = (ctypes.c_int(value) for value in argument)
        code = control | (len(argument) << 26) | uc.CTL_WRITE
        self._check(self._library.uc_ctl(self._handle, code, *arguments))

    def _hook(
        self, kinds: int, prototype: type[Any], method: Callable[..., object], begin: int = 1, end: int = 0
    ) -> None:
        def guarded(*arguments: object) -> object:
            try:
                return method(*arguments)
            except BaseException as failure:  # ctypes would print it and go on
                self._failure = failure
                self._drain()
                return False

        callback = prototype(guarded)
        number = ctypes.c_size_t()
        self._check(
            self._library.uc_hook_add(
                self._handle, ctypes.byref(number), kinds, ctypes.cast(callback, ctypes.c_void_p), None, begin, end
            )
        )
        self._hooks.append((number.value, callback))

    def _check(self, error: int) -> None:
        if error:
            reason = self._library.uc_strerror(error).decode()
            raise EngineError(f"the CPU engine failed: {reason}")

    # The proof at start-up

    def _prove(self, xlen: int) -> Env:
        """Find the registers and the engine's switches, and show on a small program that they do what they should."""
        client, self._client = self._client, (probe := _Probe(self))
        scratch = RamBlock("probe", PAGE_SIZE)
        scratch.view[: len(_PROBE)] = _PROBE
        csrs.take_over(self._library, xlen)
        self.map_ram(0, scratch)
        self.map_devices(PAGE_SIZE, PAGE_SIZE)
        hooks = len(self._hooks)
        self.watch(PAGE_SIZE, 2 * PAGE_SIZE)
        self._library.uc_emu_start(self._handle, 0, UNTIL_MARK, 0, COUNT_MARK)
        self.env = env = Env(csrs.newcomer(), xlen)
        expected = {"mscratch": _PROBE_MARK, "x5": _PROBE_MARK, "pc": _PROBE_STORE, "priv": PRIV_M, "mhartid": 0}
        if not env.prove(expected):
            raise EngineError("this version of Unicorn lays out the CPU's registers in a way that is not known")
        csrs.serve(env.address, _Csrs(self))
        self._internals = Internals.locate(self._handle, executed=4)
        if self._internals is None and self.counting:
            raise EngineError("-icount is not supported with this version of Unicorn")
        self._user_tlb = UserTlb.locate(env.address) if xlen == 64 else None
        self._set_tlb(virtual=not self.counting)
        if self._internals is not None and not self.counting:
            self._internals.no_exit_request.value = 1
            self._control(uc.CTL_TB_FLUSH)
            self.precise = True
            self.run()
            once = probe.stores == 1 and env["pc"] == _PROBE_NEXT
            self.clear_stop()
            self.run()
            self.precise = once and probe.stores == 1 and env["x8"] == 2
            self._internals.no_exit_request.value = int(self.precise)
        self._control(uc.CTL_TB_FLUSH)
        self.unmap(0, PAGE_SIZE)
        self.unmap(PAGE_SIZE, PAGE_SIZE)
        scratch.close()
        for number, _callback in self._hooks[hooks:]:
            self._check(self._library.uc_hook_del(self._handle, number))
        self._client = client
        self._flips.clear()
        for number in range(1, 32):
            env[f"x{number}"] = 0
        env["mscratch"] = 0
        env["mstatus"] = STATUS_AT_RESET[xlen]
        pmp.update(env)
        return env


class _Csrs:
    """Answers for one engine's hart where the translator's own handlers do not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, csr: int) -> int | None:
        engine = self._engine
        return pmp.read_config(engine.env, csr) if csr in pmp.CONFIG else engine._client.counter(csr)

    def write(self, csr: int, value: int) -> None:
        engine = self._engine
        if csr in csrs.FLOAT:
            engine.env["mstatus"] |= 1 << engine.env.xlen - 1  # SD
        else:
            pmp.write(engine.env, csr, value)
            engine._control(uc.CTL_TLB_FLUSH)


class _Probe:
    """The client of the proof: its one device asks for a stop in the middle of a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.stores = 0

    def load(self, address: int, size: int) -> int | None:  # noqa: ARG002
        return None

    def store(self, address: int, size: int, value: int) -> bool:  # noqa: ARG002
        self.stores += 1
        self._engine.stop_after_this_instruction()
        return True

    def exception(self, cause: int) -> None:
        raise EngineError(f"the CPU engine's self-test met exception {cause}")

    def counter(self, csr: int) -> int | None:  # noqa: ARG002
        return 0


_PROBE_MARK = 0x12345000
_PROBE_STORE = 0x10
_PROBE_NEXT = 0x20
_PROBE = b"".join(
    word.to_bytes(4, "little")
    for word in (
        0x123452B7,  # lui t0, 0x12345
        0x34029073,  # csrw mscratch, t0
        0xC0102373,  # rdtime t1
        0x10500073,  # wfi
        0x000013B7,  # lui t2, 1
        0x00038023,  # sb zero, 0(t2)
        0x00140413,  # addi s0, s0, 1
        0x0040006F,  # j .+4
        0x00140413,  # addi s0, s0, 1
        0x10500073,  # wfi
    )
)
