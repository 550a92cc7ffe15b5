"""What a snapshot says about itself: a note in the stream's description, ending with a checksum of all but the pages.

A stream ends with a JSON object that nobody who loads it needs. There is room in it for a note, and QEMU and its tools
pass over a key that they do not know. The note's last member, `state`, is the XXH3 checksum (128 bits) of every byte
of the file before its own 32 digits, pages left out: what a loader relies on is covered, and QEMU reads the file as it
reads its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from emulator.migration.errors import VmdescError

NOTE = "mini-qemu"
DIGITS = 32
_BLANK = "0" * DIGITS
_END = b'"}}'


def with_note(description: bytes, note: Mapping[str, Any]) -> bytes:
    """A stream's description with `note` as its last member, still without its checksum."""
    members = json.dumps({**note, "state": _BLANK})
    return description[:-1] + f', "{NOTE}": {members}}}'.encode()


def sealed(before: Iterable[bytes | memoryview], tail: bytes) -> bytes:
    """`tail`, which ends with a description that has a note, with the checksum of `before` and itself in its place."""
    place = len(tail) - len(_END) - DIGITS
    return tail[:place] + _checksum((*before, tail[:place])).encode() + _END


def note_of(description: bytes) -> dict[str, Any] | None:
    """The note in a stream's description, if it has one; raises VmdescError for JSON that is none."""
    try:
        whole = json.loads(description)
    except (ValueError, RecursionError):
        raise VmdescError("a JSON description", description[:32]) from None
    note = whole.get(NOTE) if isinstance(whole, dict) else None
    return note if isinstance(note, dict) else None


def is_intact(parts: Iterable[bytes | memoryview]) -> bool:
    """Whether all but the pages of a file, up to its end, is as the checksum at that end says."""
    *before, last = (bytes(part) for part in parts)
    return last.endswith(_END) and sealed(before, last) == last


def _checksum(parts: Iterable[bytes | memoryview]) -> str:
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
