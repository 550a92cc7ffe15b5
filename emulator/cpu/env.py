"""The engine's CPU structure: where each register of the hart lies in it.

Unicorn keeps a hart in one C structure (`CPURISCVState` of the QEMU 5.0 it descends from). Its own register calls go
through the guest's privilege check and answer with uninitialised memory below a CSR's level, so the registers are
read and written in place. The order of the fields is a fact of Unicorn 2.1; `Env.prove` shows at start-up that the
running library agrees, before anything relies on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

X_NAMES = "zero ra sp gp tp t0 t1 t2 s0 s1 a0 a1 a2 a3 a4 a5 a6 a7 s2 s3 s4 s5 s6 s7 s8 s9 s10 s11 t3 t4 t5 t6".split()
F_NAMES = (
    "ft0 ft1 ft2 ft3 ft4 ft5 ft6 ft7 fs0 fs1 fa0 fa1 fa2 fa3 fa4 fa5 fa6 fa7 "
    "fs2 fs3 fs4 fs5 fs6 fs7 fs8 fs9 fs10 fs11 ft8 ft9 ft10 ft11"
).split()

PMP_ENTRIES = 16

# Field, then its width in bytes; 0 stands for the guest's register width.
_FIELDS: tuple[tuple[str, int], ...] = (
    *((f"x{n}", 0) for n in range(32)),
    *((f"f{n}", 8) for n in range(32)),
    *((name, 0) for name in "pc load_res load_val frm badaddr guest_phys_fault_addr priv_ver misa misa_mask".split()),
    ("features", 4),
    *((name, 0) for name in "priv virt resetvec mhartid mstatus mip".split()),
    ("mstatush", -1),
    ("miclaim", 4),
    *((name, 0) for name in "mie mideleg sptbr satp stval mtval medeleg stvec sepc scause".split()),
    *((name, 0) for name in "mtvec mepc mcause mtval_unused".split()),
    *((name, 0) for name in "hstatus hedeleg hideleg hcounteren htval htinst hgatp".split()),
    ("htimedelta", 8),
    *((name, 0) for name in "vsstatus vstvec vsscratch vsepc vscause vstval vsatp".split()),
    ("vsstatush", -1),
    *((name, 0) for name in "mtval2 mtinst".split()),
    *((name, 0) for name in "stvec_hs sscratch_hs sepc_hs scause_hs stval_hs satp_hs mstatus_hs".split()),
    ("mstatush_hs", -1),
    *((name, 0) for name in "scounteren mcounteren sscratch mscratch".split()),
    *((name, 8) for name in "mfromhost mtohost timecmp".split()),
    *((name, width) for n in range(PMP_ENTRIES) for name, width in ((f"pmpaddr{n}", 0), (f"pmpcfg{n}", 1))),
    *((name, 0) for n in range(PMP_ENTRIES) for name in (f"pmpstart{n}", f"pmpend{n}")),
    ("pmp_rules", 4),
)


def _layout(xlen: int) -> tuple[dict[str, int], int]:
    """Byte offset of every field for one register width, and their length in all (those of width -1: RV32 only)."""
    register = xlen // 8
    offsets: dict[str, int] = {}
    end = 0
    for name, width in _FIELDS:
        if width == -1 and xlen != 32:
            continue
        size = width if width > 0 else register
        end = -(-end // size) * size
        offsets[name] = end
        end += size
        if name.startswith("pmpcfg"):
            end = -(-end // register) * register
    return offsets, -(-end // register) * register


class Env:
    """The live registers of one hart, by name: `x0` to `x31`, `f0` to `f31`, `pc`, `priv` and the CSRs.

    Reading and writing costs a tenth of a microsecond and has no side effect in the engine: whoever changes `mip`,
    `satp` or the like tells the engine too. Use it only between blocks or inside a callback.
    """

    __slots__ = ("_index", "_words", "address", "length", "xlen")

    def __init__(self, address: int, xlen: int) -> None:
        offsets, self.length = _layout(xlen)
        register = xlen // 8
        raw = (ctypes.c_char * self.length).from_address(address)
        self.address = address
        self.xlen = xlen
        self._words = memoryview(raw).cast("B")[: self.length // register * register].cast("Q" if xlen == 64 else "I")
        # Fields that are narrower or wider than a register are looked at through the word that they start in.
        self._index = {name: offset // register for name, offset in offsets.items()}

    def __getitem__(self, name: str) -> int:
        return self._words[self._index[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._words[self._index[name]] = value

    def values(self, names: Iterable[str]) -> list[int]:
        """Many registers at once."""
        return list(map(self._words.__getitem__, map(self._index.__getitem__, names)))

    def x(self, number: int) -> int:
        """Integer register `number`, unsigned."""
        return self._words[number]

    def locked_pmp(self) -> bool:
        """Whether any PMP entry binds machine mode too (its L bit is set)."""
        first = self._index["pmpcfg0"]
        return any(word & 0x80 for word in self._words[first : first + 2 * PMP_ENTRIES : 2])

    def save(self) -> bytes:
        """All registers as opaque bytes of this process, for `restore`."""
        return bytes(self._words)

    def restore(self, saved: bytes) -> None:
        """Put back what `save` returned."""
        ctypes.memmove(self.address, saved, len(saved))

    def prove(self, expected: dict[str, int]) -> bool:
        """Whether the named registers hold these values: shows that the library's layout is the one assumed here."""
        return all(self[name] == value for name, value in expected.items())
