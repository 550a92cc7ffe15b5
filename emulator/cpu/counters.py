"""The counter CSRs, answered by Python: `time`, `cycle`, `instret` and their machine-mode names.

Unicorn has no time, and its own counters read the host's time-stamp counter, different on every run. Its translator
has one table of CSR handlers for all engines of the process, so who asks is told by the address of the hart's
registers. That is also how the engine learns this address: from the first read of a hart that nobody knows yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from emulator.core.errors import EngineError
from emulator.cpu import libunicorn as uc

TIME = 0xC01
COUNTERS = (0xB00, 0xB02, 0xC00, TIME, 0xC02)
"""mcycle, minstret, cycle, time, instret."""

_answers: dict[int, Callable[[int], int]] = {}
_newcomers: list[int] = []


def take_over(library: ctypes.CDLL) -> None:
    """Put the handler into the library's table; harmless when repeated."""
    operations = uc.CsrOperations()
    for csr in COUNTERS:
        library.riscv_get_csr_ops(csr, ctypes.byref(operations))
        operations.read = ctypes.cast(_handler, ctypes.c_void_p)
        library.riscv_set_csr_ops(csr, ctypes.byref(operations))


def newcomer() -> int:
    """The address of the registers of a hart that has read a counter without being served; EngineError if none has."""
    if not _newcomers:
        raise EngineError("this version of Unicorn does not read counters as expected")
    return _newcomers.pop()


def serve(hart: int, answer: Callable[[int], int]) -> None:
    """From now on `answer(csr)` is what the hart with its registers at `hart` reads; it must not raise."""
    _answers[hart] = answer


def forget(hart: int) -> None:
    """Undo `serve`."""
    _answers.pop(hart, None)


def _read(hart: int, csr: int, value: ctypes._Pointer[ctypes.c_uint64]) -> int:
    answer = _answers.get(hart)
    if answer is None:
        _newcomers.append(hart)
    else:
        value[0] = answer(csr)
    return 0


_handler = uc.CsrReadCallback(_read)
