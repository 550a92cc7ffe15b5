"""Scattered memory to a file descriptor without a copy: libc's gather writes, fed with an array of rows.

A row is C's `struct iovec` as two words, a host address and a length in bytes, so an array of rows is what the system
takes. Any number of rows goes out in as few calls as the system allows; what a call leaves over is found by NumPy.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

IOV_MAX = 1024
"""Rows that Linux takes in one call."""
PIECE = 1 << 18
"""Bytes that `pieces` puts together at least, unless there are no more."""

_MSG_NOSIGNAL = 0x4000


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.writev.restype = ctypes.c_ssize_t
_libc.writev.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_libc.sendmsg.restype = ctypes.c_ssize_t
_libc.sendmsg.argtypes = [ctypes.c_int, ctypes.POINTER(_Msghdr), ctypes.c_int]


def write_rows(iovec: NDArray[np.uint64], write_some: Callable[[int, int], int]) -> None:
    """Write all rows; `write_some` gets the address of the first of up to `IOV_MAX` rows and how many there are.

    It returns how many bytes it has written, and is called until all are. The caller's array is not changed. Raises
    ValueError if it is no array of rows, and what `write_some` raises.
    """
    rows = _checked(iovec).copy()
    ends = np.cumsum(rows[:, 1])
    total = int(ends[-1]) if len(ends) else 0
    sent = 0
    while sent < total:
        first = int(np.searchsorted(ends, np.uint64(sent), side="right"))
        left = int(ends[first]) - sent
        rows[first] = int(rows[first, 0]) + int(rows[first, 1]) - left, left
        sent += write_some(rows[first:].ctypes.data, min(len(rows) - first, IOV_MAX))


def writev(fd: int, rows: int, count: int) -> int:
    """Write what `count` rows at this address stand for; how many bytes went out. Raises OSError."""
    return _checked_result(_libc.writev(fd, rows, count))


def send_rows(fd: int, rows: int, count: int) -> int:
    """The same for a socket, whose peer may have gone: an error then, and no signal whatever its disposition."""
    if sys.platform != "linux":  # the structure is laid out otherwise; Python ignores SIGPIPE
        return writev(fd, rows, count)
    return _checked_result(_libc.sendmsg(fd, _Msghdr(iov=rows, iovlen=count), _MSG_NOSIGNAL))


def _checked_result(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def pieces(iovec: NDArray[np.uint64]) -> Iterator[bytearray | memoryview]:
    """What the rows stand for, in their order, put together to a few large pieces: for those who need the bytes."""
    gathered = bytearray()
    for address, length in _checked(iovec).tolist():
        if length < PIECE:
            gathered += ctypes.string_at(address, length)
            if len(gathered) < PIECE:
                continue
        if gathered:
            yield gathered
            gathered = bytearray()
        if length >= PIECE:
            yield memoryview((ctypes.c_char * length).from_address(address)).cast("B")
    if gathered:
        yield gathered


def _checked(iovec: NDArray[np.uint64]) -> NDArray[np.uint64]:
    if iovec.dtype != np.uint64 or iovec.ndim != 2 or iovec.shape[1] != 2:
        raise ValueError(f"expected rows of an address and a length, not {iovec.dtype} {iovec.shape}")
    return np.ascontiguousarray(iovec)
