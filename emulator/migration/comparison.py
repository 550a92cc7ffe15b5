"""Dirty logging by comparing with a copy, where the kernel does not help. Any system, and no cost while nobody looks.

The copy takes as much memory as the pages that hold or ever held data, up to the size of RAM; the rest is never
touched. Looking takes a pass over these pages, at about the speed of memory, in pieces of 4 MiB.

A page that changes and changes back between two looks is not seen to change. So whoever sends pages sends them from the
copy (`rows`): what is sent is what later looks compare with, and at the last one, when the guest stands still, copy and
memory are the same.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ConfigError
from emulator.core.memory import RamBlock
from emulator.migration import pages

CHUNK_PAGES = 1024
GAP = 16
"""Pages that nobody has touched between others, up to which it is faster to look at them as well."""

_TOUCHED = np.uint64(pages.TOUCHED)


class ComparisonLog:
    """See `DirtyLog`. Raises ConfigError if there is no memory for the copy."""

    name = "comparison"

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        self._copies: dict[str, NDArray[np.uint64]] = {}
        self._data: dict[str, NDArray[np.bool_]] = {}
        """Pages that the copy may hold data of; the others of it are zero."""
        for block in blocks:
            try:
                memory = mmap.mmap(-1, block.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise ConfigError(f"no memory for a copy of RAM block {block.name}: {error.strerror}") from error
            copy = self._copies[block.name] = np.frombuffer(memory, np.uint64).reshape(-1, pages.WORDS)
            data = self._data[block.name] = pages.data_pages(block)
            rows = pages.rows_of(block)
            for part in _parts(data):
                copy[part] = rows[part]

    def collect(self, block: RamBlock) -> NDArray[np.bool_]:
        """See `DirtyLog.collect`."""
        copy, data, rows = self.rows(block), self._data[block.name], pages.rows_of(block)
        words = block.touched()
        touched = np.ones_like(data) if words is None else np.frombuffer(words, np.uint64) >> _TOUCHED != 0
        changed = np.zeros_like(data)
        for part in _parts(touched | data):
            changed[part] = (rows[part] != copy[part]).any(axis=1)
            numbers = part.start + np.flatnonzero(changed[part])
            copy[numbers] = rows[numbers]
        data |= changed
        return changed

    def rows(self, block: RamBlock) -> NDArray[np.uint64]:
        """See `DirtyLog.rows`: the copy."""
        if block.name not in self._copies:
            raise ValueError(f"there is no open dirty log of {block.name}")
        return self._copies[block.name]

    def data_pages(self, block: RamBlock) -> NDArray[np.bool_]:
        """See `DirtyLog.data_pages`."""
        rows = self.rows(block)
        has_data = self._data[block.name].copy()
        for part in _parts(has_data):
            has_data[part] = rows[part].any(axis=1)
        return has_data

    def close(self) -> None:
        """See `DirtyLog.close`; the copies are given back as soon as nobody holds their rows."""
        self._copies.clear()
        self._data.clear()


def _parts(wanted: NDArray[np.bool_]) -> Iterator[slice]:
    """The pages that are wanted, and perhaps a few between them, in pieces that follow each other."""
    for first, end in pages.runs(wanted, gap=GAP):
        for begin in range(first, end, CHUNK_PAGES):
            yield slice(begin, min(begin + CHUNK_PAGES, end))
