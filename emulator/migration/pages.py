"""Which pages of a RAM block hold anything but zeros, without touching those that were never used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock

WORDS = PAGE_SIZE // 8
TOUCHED = 62
"""From this bit on a word of `RamBlock.touched` is not 0 if the page is in memory."""

WINDOW_PAGES = 1 << 14
"""64 MiB."""
FEW_PAGES = 8
"""To look at so many more takes less time than to leave them out."""


def rows_of(block: RamBlock) -> NDArray[np.uint64]:
    """The block's content, one row of 512 words for each page; a view."""
    return np.frombuffer(block.view, np.uint64).reshape(-1, WORDS)


def data_pages(block: RamBlock) -> NDArray[np.bool_]:
    """For each page whether it holds anything but zeros, or may as it is still in the file that it comes from."""
    return np.concatenate([has_data for _, has_data in data_windows(block)])


def data_windows(block: RamBlock) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The same, piece by piece, so that work on one can begin while the next is looked at: first page, and answers."""
    rows = rows_of(block)
    words = block.touched()
    touched = None if words is None else np.frombuffer(words, np.uint64) >> np.uint64(TOUCHED) != 0
    in_file = None if block.present is None else bits_of(block.present)
    for begin in range(0, len(rows), WINDOW_PAGES):
        window = rows[begin : begin + WINDOW_PAGES]
        if touched is None:
            yield begin, _not_zero(window)
            continue
        part = slice(begin, begin + len(window))
        has_data = np.zeros(len(window), np.bool_) if in_file is None else in_file[part]
        for first, end in runs(touched[part]):
            has_data[first:end] = _not_zero(window[first:end])
        yield begin, has_data


def _not_zero(rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows hold anything but zeros; most that do show it in their first word."""
    data: NDArray[np.bool_] = rows[:, 0] != 0
    for first, end in runs(~data, gap=FEW_PAGES):
        data[first:end] = rows[first:end].any(axis=1)
    return data


def bits_of(bitmap: bytes) -> NDArray[np.bool_]:
    """A bitmap as an array of its own: bit n of byte n // 8 is element n."""
    return np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little").view(np.bool_)


def runs(pages: NDArray[np.bool_], *, gap: int = 0) -> Iterator[tuple[int, int]]:
    """First and end of each row of pages that are set; `gap` pages that are not, or fewer, do not end one."""
    edges = np.flatnonzero(np.diff(pages.view(np.int8), prepend=0, append=0))
    starts, ends = edges[::2], edges[1::2]
    if gap and len(starts):
        keeps = starts[1:] - ends[:-1] > gap
        starts, ends = starts[np.append(True, keeps)], ends[np.append(keeps, True)]
    return zip(starts.tolist(), ends.tolist(), strict=True)
