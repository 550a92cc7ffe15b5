"""Which pages of a RAM block hold anything but zeros, without touching those that were never used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock

WORDS = PAGE_SIZE // 8
USED = 62
"""From this bit on a word of `RamBlock.touched` tells that the page exists."""


def rows_of(block: RamBlock) -> NDArray[np.uint64]:
    """The block's content, one row of 512 words for each page; a view."""
    return np.frombuffer(block.view, np.uint64).reshape(-1, WORDS)


def data_pages(block: RamBlock) -> NDArray[np.bool_]:
    """For each page whether it holds anything but zeros."""
    rows = rows_of(block)
    touched = block.touched()
    if touched is None:
        return np.asarray(rows.any(axis=1))
    used = np.frombuffer(touched, np.uint64) >> np.uint64(USED) != 0
    has_data = np.zeros(len(rows), np.bool_)
    for first, end in runs(used):
        has_data[first:end] = rows[first:end].any(axis=1)
    return has_data


def runs(pages: NDArray[np.bool_], *, gap: int = 0) -> Iterator[tuple[int, int]]:
    """First and end of each row of pages that are set; `gap` pages that are not, or fewer, do not end one."""
    edges = np.flatnonzero(np.diff(pages.view(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    if gap and len(starts):
        keeps = starts[1:] - ends[:-1] > gap
        starts, ends = starts[np.append(True, keeps)], ends[np.append(keeps, True)]
    return zip(starts.tolist(), ends.tolist(), strict=True)
