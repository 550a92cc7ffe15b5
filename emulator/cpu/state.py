"""A hart's sections in a stream: `cpu_common` and `cpu`, in the layouts of QEMU 7.2 (version 5) and 10.0 (version 10).

What the engine holds is read from it when the hart is saved. The rest of QEMU's fields belong to extensions that this
hart does not have (counters that can be set, triggers, the AIA): they have one value here, a peer's are kept as they
came, and a hart with other instructions or modes is refused.

Beyond QEMU 7.2: subsection `cpu/fflags`, sent when a floating-point exception flag is set. QEMU forgets the flags, and
refuses a stream with this subsection rather than run a changed guest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, ClassVar

from emulator.core.bits import mask
from emulator.cpu.env import PMP_ENTRIES
from emulator.cpu.pmp import ADDRESS_NAMES, CONFIG_NAMES
from emulator.migration.errors import FieldMismatchError, FieldRangeError
from emulator.migration.fields import Array, Bool, Int32, UInt8, UInt32, UInt64, Unused
from emulator.migration.fields.scalar import IntegerField
from emulator.migration.vmstate import VMStateDescription

if TYPE_CHECKING:
    from emulator.cpu.vcpu import Vcpu

CPU_INTERRUPT_HARD = 2
"""The bit of `interrupt_request` that says that `mip` is not 0."""

MISA = 0x14112D
"""RV64 with A, C, D, F, I, M, S and U, as bits of `misa`."""
MISA_BITS = "".join(letter for bit, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ") if MISA >> bit & 1)
MXL_64 = 2
FEATURES = 0x13
"""QEMU's RISCV_FEATURE bits for a memory management unit, memory protection and triggers."""
TRIGGERS = 2
TRIGGER_TYPE = 2 << 60
"""`tdata1` of an unused trigger that matches addresses."""
COUNTERS = 32

# Default priorities of interrupts 0 to 63 in machine and in supervisor mode; only the AIA could change them.
_MIPRIO = bytes.fromhex(
    "ff141811ff151912ff131700 16ffffff24211e1b0e0b0805 ffffffffffffffff25232220 1f1d1c1a0f0d0c0a09070604" + "ff" * 16
)
_SIPRIO = _MIPRIO[:9] + bytes((0, 23, 16)) + _MIPRIO[12:]

SPEC_TW, SPEC_TSR = 1 << 21, 1 << 22
ENGINE_TW, ENGINE_TSR = 1 << 29, 1 << 30
"""Where the engine keeps the bits of mstatus that the specification has at 21 and 22; 29 and 30 are nothing there."""
SATP_MODE = 60
"""The lowest bit of the mode in `satp`."""
SATP_MODES = {0: "Bare", 8: "Sv39", 9: "Sv48", 10: "Sv57"}
"""What a guest can set, by its name. The engine ends the process when it meets another."""
DIRTY_FLOATS = 3 << 13
SD = 1 << 63
"""A summary of FS (and XS, which is always 0) that mstatus shows and QEMU does not store."""


@dataclass(slots=True)
class CpuCommonState:
    """What QEMU keeps of every CPU."""

    halted: int = 0
    """Waiting in `wfi`."""
    interrupt_request: int = 0
    exception_index: int = -1
    crash_occurred: bool = False


@dataclass(slots=True)
class PmpEntry:
    """One entry of physical memory protection."""

    addr_reg: int = 0
    cfg_reg: int = 0


@dataclass(slots=True)
class PmuCounter:
    """A performance counter as QEMU has them: value, and host's cycles when it was set."""

    mhpmcounter_val: int = 0
    mhpmcounterh_val: int = 0
    mhpmcounter_prev: int = 0
    mhpmcounterh_prev: int = 0
    started: bool = False


@dataclass(slots=True)
class CpuState:
    """The registers of one hart, by QEMU's names; unsigned."""

    gpr: list[int] = field(default_factory=lambda: [0] * 32)
    fpr: list[int] = field(default_factory=lambda: [0] * 32)
    miprio: bytearray = field(default_factory=lambda: bytearray(_MIPRIO))
    siprio: bytearray = field(default_factory=lambda: bytearray(_SIPRIO))
    pc: int = 0
    load_res: int = mask(64)
    """The address that `lr` has reserved; all ones for none."""
    load_val: int = 0
    frm: int = 0
    badaddr: int = 0
    guest_phys_fault_addr: int = 0
    priv_ver: int = 0
    vext_ver: int = 0
    misa_mxl: int = MXL_64
    misa_ext: int = MISA
    misa_mxl_max: int = MXL_64
    misa_ext_mask: int = MISA
    features: int = FEATURES
    priv: int = 3
    virt: int = 0
    resetvec: int = 0x1000
    mhartid: int = 0
    mstatus: int = 0
    mip: int = 0
    miclaim: int = 1 << 12
    mie: int = 0
    mideleg: int = 0
    satp: int = 0
    stval: int = 0
    medeleg: int = 0
    stvec: int = 0
    sepc: int = 0
    scause: int = 0
    mtvec: int = 0
    mepc: int = 0
    mcause: int = 0
    mtval: int = 0
    miselect: int = 0
    siselect: int = 0
    scounteren: int = 0
    mcounteren: int = 0
    scountinhibit: int = 0
    mcountinhibit: int = 0
    mvien: int = 0
    mvip: int = 0
    sie: int = 0
    """The three belong to virtual interrupts of the AIA."""
    pmu_ctrs: list[PmuCounter] = field(default_factory=lambda: [PmuCounter() for _ in range(COUNTERS)])
    mhpmevent_val: list[int] = field(default_factory=lambda: [0] * COUNTERS)
    mhpmeventh_val: list[int] = field(default_factory=lambda: [0] * COUNTERS)
    sscratch: int = 0
    mscratch: int = 0
    mfromhost: int = 0
    mtohost: int = 0
    stimecmp: int = 0
    pmp: list[PmpEntry] = field(default_factory=lambda: [PmpEntry() for _ in range(PMP_ENTRIES)])
    trigger_cur: int = 0
    tdata1: list[int] = field(default_factory=lambda: [TRIGGER_TYPE] * TRIGGERS)
    tdata2: list[int] = field(default_factory=lambda: [0] * TRIGGERS)
    tdata3: list[int] = field(default_factory=lambda: [0] * TRIGGERS)
    fflags: int = 0
    """Floating-point exceptions that have happened, five bits."""

    def post_load(self, _version_id: int) -> None:
        """Refuse what no hart can be in."""
        if self.gpr[0]:
            raise FieldRangeError("env.gpr[0]", self.gpr[0], 1)
        if self.priv not in (0, 1, 3):
            raise FieldRangeError("env.priv", self.priv, "0, 1 or 3")
        if self.frm > 7:
            raise FieldRangeError("env.frm", self.frm, 8)
        if self.pc & 1:
            raise FieldRangeError("env.pc", f"0x{self.pc:x}", "an even address")
        if self.mstatus & (ENGINE_TW | ENGINE_TSR):
            raise FieldRangeError("env.mstatus", f"0x{self.mstatus:x}", "bits that the hart has")
        if self.satp >> SATP_MODE not in SATP_MODES:
            raise FieldRangeError("env.satp", f"0x{self.satp:x}", "mode Bare, Sv39, Sv48 or Sv57")


IN_ENGINE = (
    "pc load_res load_val frm badaddr guest_phys_fault_addr priv mhartid mie mideleg satp stval medeleg stvec sepc "
    "scause mtvec mepc mcause mtval scounteren mcounteren sscratch mscratch"
).split()
"""Attributes that are registers of the engine by the same name."""

INTEGERS, FLOATS = (tuple(f"{kind}{number}" for number in range(32)) for kind in "xf")
"""What the engine calls the registers in `gpr` and `fpr`."""

IN_32_BITS = ("mcounteren", "scounteren")
"""Those of 32 bits, whatever the width of the others."""

FIXED = {
    "misa_ext": f"-cpu sifive-u54: extensions {MISA_BITS}",
    "priv_ver": "-cpu sifive-u54",
    "misa_mxl": "a 64-bit CPU",
    "misa_mxl_max": "a 64-bit CPU",
    "misa_ext_mask": f"-cpu sifive-u54: extensions {MISA_BITS}",
    "features": "-cpu sifive-u54: mmu, pmp and debug",
    "virt": "no hypervisor extension",
}
"""Attributes that must be as here, and what to use where the stream comes from."""


VERSION_7_2, VERSION_10_0 = 5, 10


def _env(kind: type[IntegerField], names: str) -> tuple[IntegerField, ...]:
    """Registers that all versions have."""
    return tuple(kind(name, wire_name=f"env.{name}") for name in names.split())


def _before_10(kind: type[IntegerField], names: str) -> tuple[IntegerField, ...]:
    """Registers that version 10 has in another form, or not."""
    return tuple(kind(name, wire_name=f"env.{name}", last_version_id=VERSION_7_2) for name in names.split())


def _from_10(kind: type[IntegerField], names: str) -> tuple[IntegerField, ...]:
    """Registers that version 5 has in another form, or not."""
    return tuple(kind(name, wire_name=f"env.{name}", version_id=VERSION_10_0) for name in names.split())


def _pmu(version_id: int) -> VMStateDescription:
    values = (UInt64(f"mhpmcounter{which}") for which in ("_val", "h_val", "_prev", "h_prev"))
    started = (Bool("started"),) if version_id == 1 else ()
    return VMStateDescription(
        "cpu/pmu", PmuCounter, version_id=version_id, minimum_version_id=version_id, fields=(*values, *started)
    )


VMSTATE_PMP_ENTRY = VMStateDescription(
    "cpu/pmp/entry",
    PmpEntry,
    version_id=1,
    minimum_version_id=1,
    fields=(UInt64("addr_reg"), UInt8("cfg_reg")),
)

VMSTATE_CPU = VMStateDescription(
    "cpu",
    CpuState,
    version_id=VERSION_10_0,
    minimum_version_id=VERSION_7_2,
    fields=(
        Array("gpr", UInt64, 32, wire_name="env.gpr"),
        Array("fpr", UInt64, 32, wire_name="env.fpr"),
        Array("miprio", UInt8, 64, wire_name="env.miprio"),
        Array("siprio", UInt8, 64, wire_name="env.siprio"),
        *_env(UInt64, "pc load_res load_val frm badaddr guest_phys_fault_addr priv_ver vext_ver"),
        *_env(UInt32, "misa_mxl misa_ext"),
        *_before_10(UInt32, "misa_mxl_max"),
        Unused(4, version_id=VERSION_10_0),
        *_env(UInt32, "misa_ext_mask"),
        *_before_10(UInt32, "features"),
        *_env(UInt64, "priv"),
        *_before_10(UInt64, "virt"),
        Bool("virt", wire_name="env.virt_enabled", version_id=VERSION_10_0),
        *_env(UInt64, "resetvec mhartid mstatus mip miclaim mie"),
        *_from_10(UInt64, "mvien mvip sie"),
        *_env(UInt64, "mideleg satp stval medeleg stvec sepc scause mtvec mepc mcause mtval miselect siselect"),
        *_before_10(UInt64, "scounteren mcounteren mcountinhibit"),
        *_from_10(UInt32, "scounteren mcounteren scountinhibit mcountinhibit"),
        Array("pmu_ctrs", _pmu(1), COUNTERS, wire_name="env.pmu_ctrs", last_version_id=VERSION_7_2),
        Array("pmu_ctrs", _pmu(2), COUNTERS, wire_name="env.pmu_ctrs", version_id=VERSION_10_0),
        Array("mhpmevent_val", UInt64, COUNTERS, wire_name="env.mhpmevent_val"),
        Array("mhpmeventh_val", UInt64, COUNTERS, wire_name="env.mhpmeventh_val"),
        *_env(UInt64, "sscratch mscratch"),
        *_before_10(UInt64, "mfromhost mtohost"),
        *_env(UInt64, "stimecmp"),
    ),
    subsections=(
        VMStateDescription(
            "cpu/pmp",
            CpuState,
            version_id=1,
            minimum_version_id=1,
            fields=(Array("pmp", VMSTATE_PMP_ENTRY, PMP_ENTRIES, wire_name="env.pmp_state.pmp"),),
        ),
        VMStateDescription(
            "cpu/debug",
            CpuState,
            version_id=2,
            minimum_version_id=2,
            fields=(
                UInt64("trigger_cur", wire_name="env.trigger_cur"),
                Array("tdata1", UInt64, TRIGGERS, wire_name="env.tdata1"),
                Array("tdata2", UInt64, TRIGGERS, wire_name="env.tdata2"),
                Array("tdata3", UInt64, TRIGGERS, wire_name="env.tdata3"),
            ),
        ),
        VMStateDescription(
            "cpu/fflags",
            CpuState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: bool(state.fflags),
            fields=(UInt8("fflags", limit=1 << 5, wire_name="env.fflags"),),
        ),
    ),
)

VMSTATE_CPU_COMMON = VMStateDescription(
    "cpu_common",
    CpuCommonState,
    version_id=1,
    minimum_version_id=1,
    fields=(UInt32("halted", limit=2), UInt32("interrupt_request")),
    subsections=(
        VMStateDescription(
            "cpu_common/exception_index",
            CpuCommonState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: state.exception_index != -1,
            fields=(Int32("exception_index"),),
        ),
        VMStateDescription(
            "cpu_common/crash_occurred",
            CpuCommonState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: state.crash_occurred,
            fields=(Bool("crash_occurred"),),
        ),
    ),
)


class CommonPart:
    """A hart's section `cpu_common`."""

    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"cpu_common": VMSTATE_CPU_COMMON}

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu

    @property
    def state(self) -> CpuCommonState:
        """See Owner."""
        request = CPU_INTERRUPT_HARD if self._vcpu.env["mip"] else 0
        return CpuCommonState(halted=int(self._vcpu.halted), interrupt_request=request)

    def fresh(self) -> CpuCommonState:
        """See Owner."""
        return CpuCommonState()

    def check(self, state: CpuCommonState) -> None:
        """See Owner: what was pending inside QEMU's loop, between two instructions, cannot be taken over."""
        if state.exception_index != -1:
            raise FieldMismatchError("no exception on its way", state.exception_index, field="exception_index")

    def adopt(self, state: CpuCommonState) -> None:
        """See Owner; whether an interrupt is pending follows from the registers."""
        self._vcpu.halted = bool(state.halted)


class RegisterPart:
    """A hart's section `cpu`."""

    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"cpu": VMSTATE_CPU}

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._kept = CpuState()
        """Where the attributes that are not in the engine are kept."""

    @property
    def state(self) -> CpuState:
        """See Owner."""
        env = self._vcpu.env
        pmp = zip(env.values(ADDRESS_NAMES), env.values(CONFIG_NAMES), strict=True)
        values: dict[str, Any] = dict(zip(IN_ENGINE, env.values(IN_ENGINE), strict=True))
        state = replace(
            self._kept,
            gpr=env.values(INTEGERS),
            fpr=env.values(FLOATS),
            pmp=[PmpEntry(address, config & 0xFF) for address, config in pmp],
            mstatus=_to_wire(env["mstatus"]),
            mip=env["mip"],
            fflags=self._vcpu.engine.fflags,
            **values,
        )
        for name in IN_32_BITS:
            setattr(state, name, getattr(state, name) & mask(32))  # the engine keeps what was written in all 64
        state.pc &= ~1  # the engine returns to an odd mepc, where the specification has no such thing
        return state

    def fresh(self) -> CpuState:
        """See Owner."""
        return CpuState(mhartid=self._vcpu.hart)

    def check(self, state: CpuState) -> None:
        """See Owner: another kind of hart is refused, with what to use on the other side."""
        ours = self.fresh()
        for name in ("mhartid", *FIXED):
            if getattr(state, name) != getattr(ours, name):
                expected = f"0x{getattr(ours, name):x}" + (f" ({FIXED[name]})" if name in FIXED else "")
                got = f"0x{getattr(state, name):x}"
                if name.startswith("misa_ext"):
                    got += f" ({_other_extensions(getattr(state, name))})"
                raise FieldMismatchError(expected, got, field=f"env.{name}")

    def adopt(self, state: CpuState) -> None:
        """See Owner."""
        self._kept = state
        values = {name: getattr(state, name) for name in IN_ENGINE}
        values.update(zip(INTEGERS + FLOATS, state.gpr + state.fpr, strict=True))
        values.update(zip(ADDRESS_NAMES, (entry.addr_reg for entry in state.pmp), strict=True))
        values.update(zip(CONFIG_NAMES, (entry.cfg_reg for entry in state.pmp), strict=True))
        values["mstatus"] = _to_engine(state.mstatus)
        self._vcpu.engine.adopt(values, mip=state.mip, fflags=state.fflags)


def _other_extensions(misa: int) -> str:
    """How a peer's extensions differ from this hart's."""
    more, fewer = (
        ", ".join(letter for number, letter in enumerate(ascii_uppercase) if bits >> number & 1)
        for bits in (misa & ~MISA, MISA & ~misa)
    )
    return "; ".join(text for text in (more and f"also {more}", fewer and f"without {fewer}") if text)


def _to_wire(mstatus: int) -> int:
    moved = (SPEC_TW if mstatus & ENGINE_TW else 0) | (SPEC_TSR if mstatus & ENGINE_TSR else 0)
    return mstatus & ~(ENGINE_TW | ENGINE_TSR | SD) | moved


def _to_engine(mstatus: int) -> int:
    moved = (ENGINE_TW if mstatus & SPEC_TW else 0) | (ENGINE_TSR if mstatus & SPEC_TSR else 0)
    dirty = SD if mstatus & DIRTY_FLOATS == DIRTY_FLOATS else 0
    return mstatus & ~(SPEC_TW | SPEC_TSR) | moved | dirty
