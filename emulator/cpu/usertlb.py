"""The translator's TLB for user mode, which must not get too small.

Each mode's TLB is a direct-mapped table. Its size follows its use: a flush doubles it if more than 70 % were in use,
and makes it smaller if less than 30 % were for 100 ms. So the 40 pages of a shell end up in 64 entries, and which of
them share one depends on their addresses, which Linux draws anew at each start. Of two pages that do and are needed in
turns, each access takes the long way, which is far longer here than in QEMU. With 512 entries few pages share one, and
a flush takes a microsecond longer.

The tables' descriptions lie just before the hart's registers (Unicorn 2.1, 64-bit guests: `CPUNegativeOffsetState`):
what is known of each mode's use, then size and address of each mode's table. `locate` checks all of them.
"""

from __future__ import annotations

import ctypes

ENTRIES = 512
"""The least that there are, from the second or third flush on."""

_MODES = 4
_ENTRY_BITS = 6
_SIZES = [1 << bits for bits in range(6, 23)]
"""Entries that a table can have."""
_USE_BYTES = 696
_LARGE_PAGE, _LARGE_PAGE_MASK, _WINDOW_BEGIN, _WINDOW_MOST, _USED, _VICTIM = range(6)
"""Words of a mode's use: two that are all ones unless there are large pages, then since when it is watched, in ns, the
most entries used since then, those used now, and which of the eight victims is the next to go."""
_VICTIMS = 8
_NEVER_ENDS = 1 << 62
_NONE = (1 << 64) - 1


class UserTlb:
    """One hart's; `keep_large` is to be called again and again, while no guest code runs."""

    def __init__(self, use: ctypes.Array[ctypes.c_uint64], table: ctypes.Array[ctypes.c_uint64]) -> None:
        self._use = use
        self._table = table

    @classmethod
    def locate(cls, registers: int) -> UserTlb | None:
        """Find it before the address of the hart's registers; None if what is there looks different."""
        tables = registers - 16 - 16 * _MODES  # a counter and what aligns it stand in between
        modes = [
            cls(
                (ctypes.c_uint64 * 6).from_address(tables - (_MODES - mode) * _USE_BYTES),
                (ctypes.c_uint64 * 2).from_address(tables + 16 * mode),
            )
            for mode in range(_MODES)
        ]
        return modes[0] if all(mode._is_credible() for mode in modes) else None

    @property
    def entries(self) -> int:
        """How many it has now."""
        return (self._table[0] >> _ENTRY_BITS) + 1

    def _is_credible(self) -> bool:
        """Whether everything is as it can be in a TLB."""
        (mask, table), use, entries = self._table, self._use, self.entries
        return (
            entries in _SIZES
            and mask == entries - 1 << _ENTRY_BITS
            and table != 0
            and use[_LARGE_PAGE] == use[_LARGE_PAGE_MASK] == _NONE
            and max(use[_WINDOW_MOST], use[_USED]) <= entries
            and use[_VICTIM] < _VICTIMS
        )

    def keep_large(self) -> None:
        """Have it doubled by the next flush if it is too small, and not made smaller if it is just large enough."""
        entries = self.entries
        if entries < ENTRIES:
            self._use[_WINDOW_MOST] = entries
        elif entries == ENTRIES:
            self._use[_WINDOW_BEGIN] = _NEVER_ENDS
