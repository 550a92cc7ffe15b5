"""The pages that XBZRLE sends deltas against: what the destination has of them, to the byte.

The cache has a slot for each of a power of two of pages, as QEMU's; a page's place is the low bits of its number. One
that has been looked up or put there in this pass or the last is not displaced. Source: QEMU 7.2's behaviour.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE
from emulator.migration.pages import WORDS
from emulator.migration.status import XbzrleFigures
from emulator.migration.xbzrle import HEAD_BYTES, OVERFLOW, WORD_BYTES, Deltas, encode_pages

LIFETIME = 2
"""Passes in which a page stays although another wants its place."""
AT_ONCE = 64
"""Pages that are compared in one go."""

_COUNTED_BYTES = HEAD_BYTES - WORD_BYTES
"""What the figures count of a record beside its delta."""

Numbers = NDArray[np.intp]


class PageCache:
    """Pages by their number among all of the machine's, in `size` bytes, a power of two; raises ConfigError."""

    def __init__(self, size: int, figures: XbzrleFigures) -> None:
        self.size = size
        self._figures = figures
        figures.cache_size = size
        slots = size // PAGE_SIZE
        try:
            self._pages = np.empty((slots, WORDS), np.uint64)  # memory is taken only as it is written to
            self._numbers = np.full(slots, -1, np.intp)
            self._ages = np.zeros(slots, np.intp)
        except MemoryError as error:
            raise ConfigError(f"xbzrle-cache-size: there is no memory for {size} bytes") from error
        self._mask = slots - 1
        self._before = replace(figures)

    def encode(self, numbers: Numbers, pages: NDArray[np.uint64], *, age: int, keep: bool) -> Deltas:
        """The deltas of the pages that are there, `OVERFLOW` for the others.

        `numbers` are all different, `pages` what they hold, which is taken over if `keep` is set: it must be sent just
        as it is, then. `age` is the number of the pass.
        """
        parts = [
            self._encode(numbers[at : at + AT_ONCE], pages[at : at + AT_ONCE], age, keep)
            for at in range(0, max(len(numbers), 1), AT_ONCE)
        ]
        data, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Deltas(data, lengths)

    def _encode(self, numbers: Numbers, pages: NDArray[np.uint64], age: int, keep: bool) -> Deltas:
        figures, slots = self._figures, numbers & self._mask
        known = self._numbers[slots] == numbers
        hits = slots[known]
        self._ages[hits] = age
        deltas = encode_pages(self._pages[hits], pages[known])
        too_long = int(np.count_nonzero(deltas.lengths == OVERFLOW))
        sent = deltas.lengths[deltas.lengths > 0]
        figures.pages += len(hits)
        figures.cache_miss += len(numbers) - len(hits)
        figures.overflow += too_long
        figures.bytes += too_long * PAGE_SIZE + int(sent.sum()) + _COUNTED_BYTES * len(sent)
        if keep:
            changed = deltas.lengths != 0
            self._pages[hits[changed]] = pages[known][changed]
            missing = np.flatnonzero(~known)
            places = self._claim(numbers[missing], age)
            self._pages[slots[missing[places]]] = pages[missing[places]]
        lengths = np.full(len(numbers), OVERFLOW, np.intp)
        lengths[known] = deltas.lengths
        return Deltas(deltas.data, lengths)

    def end_pass(self) -> None:
        """Work out what the figures say of the pass that has ended, if any page was looked for in it."""
        now, before = self._figures, self._before
        pages, encoded = now.pages - before.pages, now.bytes - before.bytes
        missed = now.cache_miss - before.cache_miss
        if pages or missed:
            now.cache_miss_rate = missed / (pages + missed)
            now.encoding_rate = pages * PAGE_SIZE / encoded if encoded else 0.0
        self._before = replace(now)

    def put_zeros(self, numbers: Numbers, *, age: int) -> None:
        """These pages were sent as zeros."""
        slots = numbers & self._mask
        known = self._numbers[slots] == numbers
        self._pages[slots[known]] = 0
        self._ages[slots[known]] = age
        missing = numbers[~known]
        self._pages[missing[self._claim(missing, age)] & self._mask] = 0

    def _claim(self, numbers: Numbers, age: int) -> Numbers:
        """Give those of these pages a slot that get one: their indexes; the first that wants a slot has it."""
        slots = numbers & self._mask
        free = np.flatnonzero((self._numbers[slots] < 0) | (self._ages[slots] + LIFETIME <= age))
        _, first = np.unique(slots[free], return_index=True)
        places: Numbers = free[first]
        self._numbers[slots[places]] = numbers[places]
        self._ages[slots[places]] = age
        return places
