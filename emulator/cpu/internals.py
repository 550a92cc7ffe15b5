"""Fields of Unicorn's engine structure that have no API, found by their values and checked before use.

- `no_exit_request` makes the translator leave out the exit check after loads and stores. Without it, a stop from
  another thread can leave the PC at a memory instruction that has already run, and resuming runs it twice. With it,
  every asynchronous stop lands between two blocks.
- `emu_counter` and `emu_count` are the instructions counted by the running `emu_start(count=N)` and its N. Lowering
  `emu_count` from anywhere stops the engine exactly before the next instruction.
- `stop_request` tells, after `emu_start` has returned, a stop from a `wfi`.

The structure starts at the engine's handle. The array `exits` in it begins with the running `until`, so a start with a
recognisable `until` and `count` leaves marks to measure from (offsets of Unicorn 2.1; `locate` checks all of them).
"""

from __future__ import annotations

import ctypes
import struct

UNTIL_MARK = 0x6D69_6E69_7165_6D75
COUNT_MARK = 0x6D69_6E69

_EXITS_TO_COUNT = -56
_EXITS_TO_COUNTER = -64
_EXITS_TO_STOP_REQUEST = -43
_EXITS_TO_FLAGS = 600
_SEARCHED = 4096 - _EXITS_TO_FLAGS

# hook_insert, first_tb, no_exit_request, init_done, once a program has run
_FLAGS_AFTER_RUN = (b"\0\1\0\1", b"\0\0\0\1")


class Internals:
    """The located fields of one engine, as live C variables."""

    def __init__(self, exits: int) -> None:
        self.no_exit_request = ctypes.c_uint8.from_address(exits + _EXITS_TO_FLAGS + 2)
        self.emu_counter = ctypes.c_size_t.from_address(exits + _EXITS_TO_COUNTER)
        self.emu_count = ctypes.c_size_t.from_address(exits + _EXITS_TO_COUNT)
        self.stop_request = ctypes.c_uint8.from_address(exits + _EXITS_TO_STOP_REQUEST)

    @classmethod
    def locate(cls, handle: int, executed: int) -> Internals | None:
        """Find the fields after a run with the marks that executed `executed` instructions and stopped by itself."""
        structure = ctypes.string_at(handle, _SEARCHED)
        exits = structure.find(struct.pack("<Q", UNTIL_MARK))
        if exits < 0 or exits + _EXITS_TO_COUNTER < 0:
            return None
        counter, count = struct.unpack_from("<QQ", structure, exits + _EXITS_TO_COUNTER)
        flags = ctypes.string_at(handle + exits + _EXITS_TO_FLAGS, 4)
        if (counter, count) != (executed, COUNT_MARK) or flags not in _FLAGS_AFTER_RUN:
            return None
        return cls(handle + exits)
