"""XBZRLE: what has changed in a page since it was last sent, as QEMU encodes it.

A delta is a sequence of pairs of runs: how many bytes stay, then how many change and what to. A length is a ULEB128 of
one or two bytes; only the first pair may leave no byte between itself and what stands before it, and none may change
no bytes. What stays at the end of the page is left out. On the wire a delta follows the record's address: u8 1, u16
length, the delta. Source: QEMU's docs/xbzrle.txt and streams of QEMU 7.2.

Encoding works on many pages at once, and its time grows with what has changed; decoding takes a step for each run.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE
from emulator.migration.errors import RamError
from emulator.migration.pages import WORDS
from emulator.migration.wire import Reader

ENCODING = 1
"""The byte before a delta's length: no other encoding has ever been."""
WORD_BYTES = 8
"""A record's address and flags."""
HEAD_BYTES = WORD_BYTES + 3
"""What stands before a delta in its record, unless that names its block."""
OVERFLOW = -1
"""In place of a length: the delta would be longer than the page."""

_LONG = 0x80
"""From here on a length takes two bytes, and this is the bit of the first that says so."""


class Deltas(NamedTuple):
    """The deltas of some pages, one after the other, each behind room for `HEAD_BYTES`."""

    data: NDArray[np.uint8]
    lengths: NDArray[np.intp]
    """For each page the bytes of its delta without the head; 0 if it has not changed; `OVERFLOW` if it has none."""


def encode(old: bytes | bytearray | memoryview, new: bytes | bytearray | memoryview) -> bytes | None:
    """The delta from one page to another: empty if they are alike, None if it would be longer than a page."""
    pages = (np.frombuffer(page, np.uint64).reshape(1, -1) for page in (old, new))
    data, lengths = encode_pages(*pages)
    return None if lengths[0] == OVERFLOW else data[HEAD_BYTES:].tobytes()


def encode_pages(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> Deltas:
    """The deltas between pages, a row of 512 words each; memory of about twice the pages' size is used on the way."""
    first, count, content = _changed_runs(old, new)
    page = first // PAGE_SIZE
    stays = first - np.maximum(np.append(0, (first + count)[:-1]), page * PAGE_SIZE)
    size = _length_bytes(stays) + _length_bytes(count) + count
    lengths = np.bincount(page, size, minlength=len(new)).astype(np.intp)
    too_long = lengths > PAGE_SIZE
    if too_long.any():
        lengths[too_long] = OVERFLOW
        fits = ~too_long[page]
        content = content[np.repeat(fits, count)]
        count, page, stays, size = count[fits], page[fits], stays[fits], size[fits]
    has_delta = lengths > 0
    at = np.cumsum(size) - size + HEAD_BYTES * np.cumsum(has_delta)[page]
    data = np.zeros(int(size.sum()) + HEAD_BYTES * int(np.count_nonzero(has_delta)), np.uint8)
    _put_lengths(data, at, stays)
    at += _length_bytes(stays)
    _put_lengths(data, at, count)
    at += _length_bytes(count)
    data[_covered(at, count, len(data))] = content
    return Deltas(data, lengths)


def put_heads(deltas: Deltas, words: NDArray[np.uint8]) -> None:
    """Make records of the deltas that there are: `words` are what each begins with, a row of eight bytes."""
    lengths = deltas.lengths[deltas.lengths > 0]
    heads = np.empty((len(lengths), HEAD_BYTES), np.uint8)
    heads[:, :WORD_BYTES] = words
    heads[:, WORD_BYTES] = ENCODING
    heads[:, WORD_BYTES + 1 :] = lengths.astype(">u2").view(np.uint8).reshape(-1, 2)
    sizes = lengths + HEAD_BYTES
    begins = np.cumsum(sizes) - sizes
    deltas.data[begins[:, None] + np.arange(HEAD_BYTES)] = heads


def _changed_runs(
    old: NDArray[np.uint64], new: NDArray[np.uint64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.uint8]]:
    """Where each run of changed bytes begins, counted from the first page on; how long it is; what is in all of them.

    No run goes from one page into the next.
    """
    before, after = old.reshape(-1), new.reshape(-1)
    words = np.flatnonzero(before != after)
    now = after[words]
    changed = (before[words] ^ now).view(np.uint8) != 0
    # Only words that have changed are looked at, so those on both sides of a gap have to be told apart.
    apart = np.flatnonzero((np.diff(words, prepend=-2) != 1) | (words % WORDS == 0)) * 8
    begins, ends = changed.copy(), changed.copy()
    begins[1:] &= ~changed[:-1]
    begins[apart] = changed[apart]
    ends[:-1] &= ~changed[1:]
    ends[apart[1:] - 1] = changed[apart[1:] - 1]
    first, last = np.flatnonzero(begins), np.flatnonzero(ends)
    return words[first >> 3] * 8 + (first & 7), last - first + 1, now.view(np.uint8)[changed]


def _covered(first: NDArray[np.intp], count: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    """Which of `length` bytes lie in one of these runs, in their order and none empty, which do not touch."""
    steps = np.zeros(length + 1, np.int8)
    steps[first] = 1
    steps[first + count] = -1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)


def _length_bytes(lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    return 1 + (lengths >= _LONG).astype(np.intp)


def _put_lengths(data: NDArray[np.uint8], at: NDArray[np.intp], lengths: NDArray[np.intp]) -> None:
    long = lengths >= _LONG
    data[at] = lengths & (_LONG - 1) | long * _LONG
    data[at[long] + 1] = lengths[long] >> 7


def get_delta(reader: Reader, block: str) -> bytes:
    """Read what follows the address of a delta's record; whether it can be applied is not looked at."""
    begin = reader.offset
    if (encoding := reader.u8()) != ENCODING:
        raise RamError(f"encoding {ENCODING} of a delta", encoding, field=block, offset=begin)
    begin = reader.offset
    if not 0 < (length := reader.u16()) <= PAGE_SIZE:
        raise RamError(f"a delta of 1 to {PAGE_SIZE} bytes", length, field=block, offset=begin)
    return reader.read(length)


def decode(page: bytearray | memoryview, data: bytes, *, block: str = "", offset: int = 0) -> None:
    """Apply a delta, which stands at byte `offset` of the stream, to a page of `block`.

    Raises RamError for anything but a whole delta that stays in the page; the page's content is undefined then.
    """
    end = len(data)
    begin = at = position = 0
    try:
        while at < end or not at:
            begin = at
            stays, at = data[at], at + 1
            if stays >= _LONG:
                stays, at = _long(stays, data[at]), at + 1
            count, at = data[at], at + 1
            if count >= _LONG:
                count, at = _long(count, data[at]), at + 1
            start = position + stays
            position = start + count
            if not count or (begin and not stays) or position > PAGE_SIZE:
                raise RamError(f"changed bytes up to byte 0x{PAGE_SIZE:x}", f"{count} after {stays} that stay")
            if count > end - at:
                raise RamError(f"{count} changed bytes", f"only {end - at}")
            page[start:position] = data[at : at + count]
            at += count
    except IndexError:
        raise RamError("two lengths", "the end of the delta", field=block, offset=offset + begin) from None
    except RamError as error:
        error.path, error.offset = block, offset + begin
        raise


def _long(first: int, second: int) -> int:
    """A length of two bytes."""
    if second >= _LONG:
        raise RamError("a length of one or two bytes", "a longer one")
    return first - _LONG + (second << 7)
