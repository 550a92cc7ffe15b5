"""Sending RAM in passes, straight from guest memory: the source's end of `ram.py`.

Pages are handed to the channel as addresses and lengths, up to 4096 at a time, each behind its header; nothing is
copied. The guest may write to a page while it is sent: whatever arrives then is sent again, as the page is dirty.

With XBZRLE, from the second pass on, pages are copied first: what is compared, sent and remembered must be the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration.blocklist import HEADER_BYTES, RamFlag, put_name
from emulator.migration.pagecache import PageCache
from emulator.migration.status import Figures, XbzrleFigures
from emulator.migration.wire import Writer
from emulator.migration.xbzrle import OVERFLOW, Deltas, put_heads

CHUNK_PAGES = 4096
"""Pages that are handed over at once; each time takes 0.2 ms beside the guest."""
DELTA_PAGES = 512
"""The same where pages are copied first."""
SLICE_SECONDS = 0.1
"""What a rate limit allows for in this time goes out at once, a page at least, and no more."""
PAUSE_SECONDS = 0.05
"""The longest that a rate limit waits at once, so that a change of it is soon felt."""


class Outlet(Protocol):
    """What pages are sent through: a channel."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        """Send what lies at each row's host address, of each row's length."""


class RamSender:
    """Sends pages of one migration, and counts them; `limit()` is the rate in bytes a second, 0 for none.

    `rest` sleeps so many seconds, or tells by True that the migration has been cancelled.
    """

    def __init__(
        self, outlet: Outlet, figures: Figures, *, limit: Callable[[], int], rest: Callable[[float], bool]
    ) -> None:
        self._outlet = outlet
        self._figures = figures
        self._limit = limit
        self._rest = rest
        self._block = ""
        self._ahead = 0.0
        """Bytes sent beyond what the limit has allowed for, as of `_looked`; what was not used of it is below zero."""
        self._looked = time.monotonic()
        self.unlimited = False
        """Whether the limit is not kept any more: the guest stands still."""
        self._headers = np.zeros((CHUNK_PAGES, HEADER_BYTES), np.uint8)
        self._iovec = np.zeros((2 * CHUNK_PAGES, 2), np.uint64)
        self._iovec[0::2, 0] = self._headers.ctypes.data + HEADER_BYTES * np.arange(CHUNK_PAGES, dtype=np.uint64)
        self._iovec[0::2, 1] = HEADER_BYTES
        self._iovec[1::2, 1] = PAGE_SIZE
        self._cache: PageCache | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send what is no page."""
        self._outlet.write(data)
        self._figures.transferred += len(data)

    def use_deltas(self, cache_size: int) -> None:
        """Send deltas with a cache of so many bytes; to be called before each pass but the first."""
        figures = self._figures.xbzrle = self._figures.xbzrle or XbzrleFigures()
        if self._cache is None or self._cache.size != cache_size:
            self._cache = PageCache(cache_size, figures)
        else:
            self._cache.end_pass()

    def send(
        self,
        block: RamBlock,
        rows: NDArray[np.uint64],
        pages: NDArray[np.bool_],
        has_data: NDArray[np.bool_] | None = None,
    ) -> None:
        """Send those of the block's pages that are set, whose content is in `rows`, of 512 words each.

        `has_data`, if known, tells which of all are not zero.
        """
        numbers = np.flatnonzero(pages)
        while len(numbers):
            chunk, numbers = np.split(numbers, [self._pages_at_once()])
            data = _with_data(rows, chunk) if has_data is None else has_data[chunk]
            before = self._figures.transferred
            if self._cache is None:
                self._send_data(block, chunk[data], rows.ctypes.data + chunk[data].astype(np.uint64) * PAGE_SIZE)
            else:
                self._send_changes(self._cache, block, chunk[data], rows[chunk[data]])
                self._cache.put_zeros(_keys(block, chunk[~data]), age=self._figures.dirty_sync_count)
            self._send_zeros(block, chunk[~data])
            self._figures.remaining -= len(chunk) * PAGE_SIZE
            self._keep_rate(self._figures.transferred - before)

    def _send_changes(
        self, cache: PageCache, block: RamBlock, numbers: NDArray[np.intp], pages: NDArray[np.uint64]
    ) -> None:
        """Send deltas of those of the `pages` that the destination is known to have, and the others as they are."""
        keys = _keys(block, numbers)
        deltas = cache.encode(keys, pages, age=self._figures.dirty_sync_count, keep=not self.unlimited)
        whole = np.flatnonzero(deltas.lengths == OVERFLOW)
        self._send_data(block, numbers[whole], pages.ctypes.data + whole.astype(np.uint64) * PAGE_SIZE)
        self._send_deltas(block, numbers[deltas.lengths > 0], deltas)

    def _send_deltas(self, block: RamBlock, numbers: NDArray[np.intp], deltas: Deltas) -> None:
        if not len(numbers):
            return
        addresses = numbers.astype(np.uint64) * PAGE_SIZE
        put_heads(deltas, _headers(addresses, RamFlag.XBZRLE | RamFlag.CONTINUE))
        data = deltas.data.tobytes()
        if self._block != block.name:
            data = self._first(block, int(addresses[0]) | RamFlag.XBZRLE) + data[HEADER_BYTES:]
        self.write(data)

    def _send_data(self, block: RamBlock, numbers: NDArray[np.intp], host: NDArray[np.uint64]) -> None:
        """Send pages whose content lies at these addresses of ours."""
        count = len(numbers)
        if not count:
            return
        addresses = numbers.astype(np.uint64) * PAGE_SIZE
        self._headers[:count] = _headers(addresses, RamFlag.PAGE | RamFlag.CONTINUE)
        iovec = self._iovec[: 2 * count]
        iovec[1::2, 0] = host
        if self._block != block.name:
            first = np.frombuffer(self._first(block, int(addresses[0]) | RamFlag.PAGE), np.uint8)
            iovec = iovec.copy()
            iovec[0] = first.ctypes.data, len(first)
        self._outlet.writev(iovec)
        self._figures.normal += count
        self._figures.transferred += int(iovec[:, 1].sum())

    def _send_zeros(self, block: RamBlock, numbers: NDArray[np.intp]) -> None:
        count = len(numbers)
        if not count:
            return
        addresses = numbers.astype(np.uint64) * PAGE_SIZE
        records = np.zeros((count, HEADER_BYTES + 1), np.uint8)
        records[:, :HEADER_BYTES] = _headers(addresses, RamFlag.ZERO | RamFlag.CONTINUE)
        data = records.tobytes()
        if self._block != block.name:
            data = self._first(block, int(addresses[0]) | RamFlag.ZERO) + data[HEADER_BYTES:]
        self.write(data)
        self._figures.duplicate += count

    def _first(self, block: RamBlock, word: int) -> bytes:
        """How the first record of a block begins, which names it for those that continue it."""
        self._block = block.name
        writer = Writer()
        writer.u64(word)
        put_name(writer, block.name)
        return bytes(writer.data)

    def _pages_at_once(self) -> int:
        """How many pages go out before the limit is thought of again."""
        limit, most = self._limit(), CHUNK_PAGES if self._cache is None else DELTA_PAGES
        if not limit or self.unlimited:
            return most
        return max(1, min(int(limit * SLICE_SECONDS) // PAGE_SIZE, most))

    def _keep_rate(self, sent: int) -> None:
        """Rest until the limit, as it is from moment to moment, has allowed for all that was sent."""
        while True:
            limit, now = self._limit(), time.monotonic()
            allowed, self._looked = limit * (now - self._looked), now
            if not limit or self.unlimited:
                self._ahead = 0.0
                return
            self._ahead, sent = max(self._ahead - allowed, -limit * PAUSE_SECONDS) + sent, 0
            if self._ahead < 1 or self._rest(min(self._ahead / limit, PAUSE_SECONDS)):
                return


def _headers(addresses: NDArray[np.uint64], flags: int) -> NDArray[np.uint8]:
    return (addresses + np.uint64(flags)).astype(">u8").view(np.uint8).reshape(-1, HEADER_BYTES)


def _keys(block: RamBlock, numbers: NDArray[np.intp]) -> NDArray[np.intp]:
    """Numbers of pages among those of all blocks: of where they lie in our memory, since a block does not move."""
    return numbers + block.address // PAGE_SIZE


def _with_data(rows: NDArray[np.uint64], numbers: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which of these pages are not zero; most show it in their first word."""
    data: NDArray[np.bool_] = rows[numbers, 0] != 0
    unsure = numbers[~data]
    if len(unsure):
        data[~data] = rows[unsure].any(axis=1)
    return data
