"""The CSRs that Python answers: counters, memory protection, and one bit that the floating-point registers forget.

- `time`, `cycle`, `instret` and their machine-mode names: Unicorn has no time, its own counters read the host's
  time-stamp counter, different on every run, and `mcounteren` means nothing to it. The other counters are 0.
- `pmpcfg` and `pmpaddr`: see `pmp.py`.
- A write to `fflags`, `frm` or `fcsr` makes `mstatus.FS` dirty, but not the `SD` bit that sums it up, by which an
  operating system sees that it has registers to save.

The translator has one table of CSR handlers for all engines of the process, so who asks is told by the address of the
hart's registers. That is also how the engine learns this address: from the first read by a hart that nobody knows yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple, Protocol

from emulator.core.errors import EngineError
from emulator.cpu import libunicorn as uc
from emulator.cpu import pmp

TIME = 0xC01
COUNTERS = (0xB00, 0xB02, *range(0xC00, 0xC20))
"""mcycle, minstret; cycle, time, instret, hpmcounter3 to 31."""
FLOAT = (0x001, 0x002, 0x003)
"""fflags, frm, fcsr."""


class Hart(Protocol):
    """Who answers for a hart; nothing here may raise."""

    def read(self, csr: int) -> int | None:
        """The value of one of COUNTERS or `pmp.CONFIG`; None makes the instruction illegal."""

    def write(self, csr: int, value: int) -> None:
        """One of `pmp.CONFIG` or `pmp.ADDRESS` is to become `value`; one of FLOAT has."""


_harts: dict[int, Hart] = {}
_newcomers: list[int] = []


class _Handlers(NamedTuple):
    """What one register width's table holds for good."""

    read: ctypes._CFunctionType
    write: ctypes._CFunctionType
    write_float: ctypes._CFunctionType


_installed: dict[int, _Handlers] = {}


def take_over(library: ctypes.CDLL, xlen: int) -> None:
    """Put the handlers into the library's table for this register width; harmless when repeated."""
    if xlen in _installed:
        return
    operations = uc.CsrOperations()
    native: dict[int, Callable[[int, int, int], int]] = {}
    for csr in FLOAT:
        library.riscv_get_csr_ops(csr, ctypes.byref(operations))
        native[csr] = uc.CsrWriteCallback(operations.write)

    def write_float(hart: int, csr: int, value: int) -> int:
        result = native[csr](hart, csr, value)
        if result == 0 and hart in _harts:
            _harts[hart].write(csr, value)
        return result

    handlers = _Handlers(uc.CsrReadCallback(_read), uc.CsrWriteCallback(_write), uc.CsrWriteCallback(write_float))
    _installed[xlen] = handlers
    for csrs, read, write in (
        (COUNTERS, handlers.read, None),
        (pmp.CONFIG, handlers.read, handlers.write),
        (pmp.ADDRESS, None, handlers.write),
        (FLOAT, None, handlers.write_float),
    ):
        for csr in csrs:
            library.riscv_get_csr_ops(csr, ctypes.byref(operations))
            if read:
                operations.read = ctypes.cast(read, ctypes.c_void_p)
            if write:
                operations.write = ctypes.cast(write, ctypes.c_void_p)
            library.riscv_set_csr_ops(csr, ctypes.byref(operations))


def newcomer() -> int:
    """The address of the registers of a hart that has read a counter without being served; EngineError if none has."""
    if not _newcomers:
        raise EngineError("this version of Unicorn does not read counters as expected")
    return _newcomers.pop()


def serve(address: int, hart: Hart) -> None:
    """From now on `hart` answers for the hart with its registers at `address`."""
    _harts[address] = hart


def forget(address: int) -> None:
    """Undo `serve`."""
    _harts.pop(address, None)


def _read(address: int, csr: int, value: ctypes._Pointer[ctypes.c_uint64]) -> int:
    hart = _harts.get(address)
    if hart is None:
        _newcomers.append(address)
        return 0
    answer = hart.read(csr)
    if answer is None:
        return -1
    value[0] = answer
    return 0


def _write(address: int, csr: int, value: int) -> int:
    hart = _harts.get(address)
    if hart is not None:
        hart.write(csr, value)
    return 0
