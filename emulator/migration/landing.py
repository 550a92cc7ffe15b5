"""Page records that land where they belong: the destination's shortcut beside `ram.py`.

When many pages have come one behind the other, more are expected. One scatter read then puts each record's header into
a table and its page into the memory staged for it. Should other bytes come, those from the first header on that is not
as expected are taken back, to be read as usual; the pages that they fell into are zero again, as they were before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE
from emulator.migration.blocklist import HEADER_BYTES, PAGE_RECORD
from emulator.migration.iovec import IOV_MAX, rows_behind

MOST_PAGES = IOV_MAX // 2


class Expected(NamedTuple):
    """Pages that seem to come next."""

    block: str
    first: int
    """The first page's number in the block."""
    word: int
    """The first record's header; that of each other is `PAGE_SIZE` more."""
    pages: NDArray[np.uint8]
    """Where they belong, a row for each, all zeros: at most `MOST_PAGES`, and at least one."""

    def begins_with(self, data: memoryview) -> bool:
        """Whether `data` can be what has come of the first record: less than the whole."""
        return len(data) < PAGE_RECORD and self.word.to_bytes(HEADER_BYTES, "big").startswith(data[:HEADER_BYTES])


class Landing:
    """Reads records of expected pages."""

    def __init__(self) -> None:
        self._headers = np.zeros((MOST_PAGES, HEADER_BYTES), np.uint8)
        self._rows = np.zeros((2 * MOST_PAGES, 2), np.uint64)
        self._rows[0::2, 0] = self._headers.ctypes.data + HEADER_BYTES * np.arange(MOST_PAGES, dtype=np.uint64)
        self._rows[0::2, 1], self._rows[1::2, 1] = HEADER_BYTES, PAGE_SIZE
        self._ends = np.cumsum(self._rows[:, 1])
        self._steps = np.arange(MOST_PAGES, dtype=np.uint64) * np.uint64(PAGE_SIZE)

    def read(
        self, read: Callable[[NDArray[np.uint64]], int], begun: memoryview, expected: Expected
    ) -> tuple[int, bytes] | None:
        """Let `read` fill memory once; how many pages have come, and the bytes behind them.

        `begun` is what has come of the first record already. None if `read` returns 0.
        """
        count = len(expected.pages)
        self._headers[0, : len(begun)] = begun[:HEADER_BYTES]
        expected.pages[0, : max(len(begun) - HEADER_BYTES, 0)] = begun[HEADER_BYTES:]
        rows = self._rows[: 2 * count].copy()
        rows[1::2, 0] = self._steps[:count] + np.uint64(expected.pages.ctypes.data)
        if not (received := read(rows_behind(rows, self._ends, len(begun)))):
            return None
        received += len(begun)
        landed = self._as_expected(expected, received // PAGE_RECORD)
        touched = slice(landed, -(-received // PAGE_RECORD))
        stray = np.hstack((self._headers[touched], expected.pages[touched]))
        expected.pages[touched] = 0
        return landed, stray.tobytes()[: received - landed * PAGE_RECORD]

    def _as_expected(self, expected: Expected, count: int) -> int:
        """How many of the first `count` headers are as expected, up to the first that is not."""
        wrong = self._headers[:count].view(">u8")[:, 0] != self._steps[:count] + np.uint64(expected.word)
        return int(wrong.argmax()) if wrong.any() else count
