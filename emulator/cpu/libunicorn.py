"""As much of Unicorn's C interface as the engine uses, declared for ctypes.

The PyPI package brings the shared library; its Python binding is not imported, because it costs 70 ms at start-up and
a wrapper around each callback. Only `engine.py` and `csrs.py` import this file. Beside the documented functions it
uses some of the embedded translator's that every ELF and Mach-O build exports: CSR access without the guest's privilege
check, and the table of CSR handlers.

Source: unicorn/unicorn.h and qemu/target/riscv/csr.c of Unicorn 2.1.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import POINTER, c_bool, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from emulator.core.errors import EngineError

ARCH_RISCV = 8
MODE_RISCV = {32: 1 << 2, 64: 1 << 3}
CTL_CPU_MODEL, CTL_TB_FLUSH, CTL_TLB_FLUSH, CTL_TLB_TYPE = 7, 10, 11, 12
CTL_WRITE, CTL_NO_ARGUMENT, CTL_ONE_ARGUMENT = 1 << 30, 0 << 26, 1 << 26
TLB_CPU, TLB_VIRTUAL = 0, 1
PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4

HOOK_INTR = 1 << 0
HOOK_BLOCK = 1 << 3
HOOK_MEM_READ_UNMAPPED, HOOK_MEM_WRITE_UNMAPPED, HOOK_MEM_FETCH_UNMAPPED = 1 << 4, 1 << 5, 1 << 6
HOOK_MEM_READ_PROT, HOOK_MEM_WRITE_PROT, HOOK_MEM_FETCH_PROT = 1 << 7, 1 << 8, 1 << 9
HOOK_INSN_INVALID = 1 << 14
HOOK_TLB_FILL = 1 << 17
MEM_WRITE_UNMAPPED, MEM_FETCH_UNMAPPED, MEM_WRITE_PROT, MEM_READ_PROT, MEM_FETCH_PROT = 20, 21, 22, 23, 24
MEM_READ, MEM_WRITE, MEM_FETCH = 16, 17, 18


class TlbEntry(ctypes.Structure):
    """What a TLB-fill callback answers with: the page's physical address and its PROT_ bits."""

    _fields_ = (("paddr", c_uint64), ("perms", c_uint32))


class CsrOperations(ctypes.Structure):
    """One row of the translator's CSR table."""

    _fields_ = (("predicate", c_void_p), ("read", c_void_p), ("write", c_void_p), ("op", c_void_p))


MmioReadCallback = ctypes.CFUNCTYPE(c_uint64, c_void_p, c_uint64, c_uint, c_void_p)
MemoryCallback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_int, c_uint64, c_int, c_uint64, c_void_p)
InterruptCallback = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
InvalidCallback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_void_p)
BlockCallback = ctypes.CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)
TlbFillCallback = ctypes.CFUNCTYPE(c_bool, c_void_p, c_uint64, c_int, POINTER(TlbEntry), c_void_p)
CsrReadCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_uint64))
CsrWriteCallback = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, c_uint64)

_Prototypes = dict[str, tuple[type[Any] | None, tuple[type[Any], ...]]]

_PROTOTYPES: _Prototypes = {
    "uc_version": (c_uint, (c_void_p, c_void_p)),
    "uc_open": (c_int, (c_int, c_int, POINTER(c_void_p))),
    "uc_close": (c_int, (c_void_p,)),
    "uc_strerror": (ctypes.c_char_p, (c_int,)),
    "uc_emu_start": (c_int, (c_void_p, c_uint64, c_uint64, c_uint64, c_size_t)),
    "uc_emu_stop": (c_int, (c_void_p,)),
    "uc_reg_write": (c_int, (c_void_p, c_int, c_void_p)),
    "uc_mem_map_ptr": (c_int, (c_void_p, c_uint64, c_size_t, c_uint32, c_void_p)),
    "uc_mem_unmap": (c_int, (c_void_p, c_uint64, c_size_t)),
    "uc_mem_protect": (c_int, (c_void_p, c_uint64, c_size_t, c_uint32)),
    "uc_mmio_map": (c_int, (c_void_p, c_uint64, c_size_t, MmioReadCallback, c_void_p, c_void_p, c_void_p)),
    "uc_hook_add": (c_int, (c_void_p, POINTER(c_size_t), c_int, c_void_p, c_void_p, c_uint64, c_uint64)),
    "uc_hook_del": (c_int, (c_void_p, c_size_t)),
    # variadic: the named arguments first, as the x86-64 and AArch64 ELF conventions pass integers alike
    "uc_ctl": (c_int, (c_void_p, c_int)),
}
_TRANSLATOR: _Prototypes = {
    "riscv_csrrw_debug": (c_int, (c_void_p, c_int, POINTER(c_uint64), c_uint64, c_uint64)),
    "riscv_get_csr_ops": (None, (c_int, POINTER(CsrOperations))),
    "riscv_set_csr_ops": (None, (c_int, POINTER(CsrOperations))),
}


def load(xlen: int) -> ctypes.CDLL:
    """The library, with its prototypes set and the translator's functions for this register width under plain names."""
    spec = importlib.util.find_spec("unicorn")
    folder = Path(spec.submodule_search_locations[0]) / "lib" if spec and spec.submodule_search_locations else None
    found = sorted(folder.glob("libunicorn*.so*")) + sorted(folder.glob("libunicorn*.dylib")) if folder else []
    if not found:
        raise EngineError("the Unicorn engine is not installed: pip install unicorn")
    library = ctypes.CDLL(str(found[0]))
    for name, (result, arguments) in _PROTOTYPES.items():
        _declare(library, name, name, result, arguments)
    for name, (result, arguments) in _TRANSLATOR.items():
        _declare(library, name, f"{name}_riscv{xlen}", result, arguments)
    return library


def _declare(
    library: ctypes.CDLL, name: str, symbol: str, result: type[Any] | None, arguments: tuple[type[Any], ...]
) -> None:
    try:
        function = getattr(library, symbol)
    except AttributeError:
        raise EngineError(f"this build of Unicorn does not export {symbol}") from None
    function.restype = result
    function.argtypes = arguments
    setattr(library, name, function)
