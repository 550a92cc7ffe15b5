"""Deltas of pages: QEMU's own cases, every length, what is no delta at all."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE
from emulator.migration.errors import RamError, TruncatedError
from emulator.migration.wire import Reader
from emulator.migration.xbzrle import HEAD_BYTES, OVERFLOW, decode, encode, encode_pages, get_delta, put_heads

ZEROS = bytes(PAGE_SIZE)
LONG_ZEROS = "a01f"
"""A run of 4000 bytes that stay."""


def changed(*places: int, page: bytes = ZEROS) -> bytes:
    """The page with the bytes at these places inverted."""
    new = bytearray(page)
    for place in places:
        new[place] ^= 0xFF
    return bytes(new)


def decoded(page: bytes, delta: bytes) -> bytes:
    result = bytearray(page)
    decode(result, delta)
    return bytes(result)


def plainly_encoded(old: bytes, new: bytes) -> bytes | None:
    """The same as `encode`, byte by byte."""
    runs, at = [], 0
    while at < PAGE_SIZE:
        start = at
        while at < PAGE_SIZE and old[at] == new[at]:
            at += 1
        first = at
        while at < PAGE_SIZE and old[at] != new[at]:
            at += 1
        if at > first:
            runs.append(uleb128(first - start) + uleb128(at - first) + new[first:at])
    delta = b"".join(runs)
    return delta if len(delta) <= PAGE_SIZE else None


def uleb128(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80, value >> 7))


def test_the_example_of_qemus_documentation() -> None:
    before = bytes.fromhex("05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 68 00 00 6b 00 6d")
    after = bytes.fromhex("01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 68 00 00 67 00 69")
    old, new = (bytes(1001) + middle + bytes(3074) for middle in (before, after))
    delta = bytes.fromhex("e9 07 0f 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 03 01 67 01 01 69")
    assert encode(old, new) == delta
    assert decoded(old, delta) == new


def test_encode_decode_unchanged() -> None:
    for page in (ZEROS, changed(1000, 1003, 1005)):
        assert encode(page, page) == b""


def test_encode_decode_1_byte() -> None:
    delta = encode(ZEROS, changed(PAGE_SIZE - 1))
    assert delta == bytes.fromhex("ff1f 01 ff")
    assert decoded(ZEROS, delta) == changed(PAGE_SIZE - 1)


def test_encode_decode_overflow() -> None:
    assert encode(ZEROS, changed(*range(0, PAGE_SIZE, 2))) is None
    assert encode(ZEROS, changed(*range(PAGE_SIZE))) is None


def test_a_delta_may_be_as_long_as_the_page() -> None:
    page = changed(*range(1, 4094))
    delta = encode(ZEROS, page)
    assert delta is not None
    assert len(delta) == PAGE_SIZE
    assert decoded(ZEROS, delta) == page
    assert encode(ZEROS, changed(*range(1, 4095))) is None


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 255, 256, 4000])
def test_uleb(length: int) -> None:
    behind, run = changed(length), changed(*range(length))
    assert encode(ZEROS, behind) == uleb128(length) + b"\x01\xff"
    assert encode(ZEROS, run) == b"\0" + uleb128(length) + b"\xff" * length
    assert decoded(ZEROS, encode(ZEROS, behind) or b"") == behind
    assert decoded(ZEROS, encode(ZEROS, run) or b"") == run


def some_pages(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Pages before and after changes of all sizes, from none to all of the page."""
    dice = np.random.default_rng(7)
    old = dice.integers(0, 256, (count, PAGE_SIZE), np.uint8)
    new = old.copy()
    for page in new[10:]:
        for _ in range(dice.integers(0, 12)):
            first = dice.integers(0, PAGE_SIZE)
            page[first : first + int(2 ** dice.uniform(0, 11))] ^= dice.integers(0, 256, dtype=np.uint8)
        if dice.random() < 0.2:
            page[:: dice.integers(1, 9)] ^= 1
    return old.view(np.uint64), new.view(np.uint64)


def test_encode_decode() -> None:
    old, new = some_pages(400)
    data, lengths = encode_pages(old, new)
    assert (lengths == 0).any()
    assert (lengths == OVERFLOW).any()
    at = 0
    for before, after, length in zip(old, new, lengths.tolist(), strict=True):
        expected = plainly_encoded(before.tobytes(), after.tobytes())
        assert length == (OVERFLOW if expected is None else len(expected))
        if expected:
            assert data[at : at + HEAD_BYTES].tobytes() == bytes(HEAD_BYTES)
            assert data[at + HEAD_BYTES : at + HEAD_BYTES + length].tobytes() == expected
            assert decoded(before.tobytes(), expected) == after.tobytes()
            at += HEAD_BYTES + length
    assert at == len(data)


def test_heads_make_deltas_records() -> None:
    old = np.zeros((3, PAGE_SIZE // 8), np.uint64)
    new = old.copy()
    new[0, 0], new[2, 511] = 1, 1 << 56
    deltas = encode_pages(old, new)
    words = np.frombuffer(bytes.fromhex("0000000000000060 0000000000002060"), np.uint8).reshape(2, 8)
    put_heads(deltas, words)
    assert deltas.data.tobytes() == bytes.fromhex("0000000000000060 01 0003 000101 0000000000002060 01 0004 ff1f 01 01")


@pytest.mark.parametrize(
    ("delta", "where", "message"),
    [
        ("", 0, "expected two lengths, got the end of the delta"),
        ("05", 0, "expected two lengths, got the end of the delta"),
        ("85", 0, "expected two lengths, got the end of the delta"),
        ("0581", 0, "expected two lengths, got the end of the delta"),
        ("0501ff 05", 3, "expected two lengths, got the end of the delta"),
        ("8080 01ff", 0, "expected a length of one or two bytes, got a longer one"),
        ("05 ffff 01", 0, "expected a length of one or two bytes, got a longer one"),
        ("0500", 0, "expected changed bytes up to byte 0x1000, got 0 after 5 that stay"),
        ("0501ff 0001ff", 3, "expected changed bytes up to byte 0x1000, got 1 after 0 that stay"),
        ("8020 01 ff", 0, "expected changed bytes up to byte 0x1000, got 1 after 4096 that stay"),
        ("ff7f ff7f ff", 0, "expected changed bytes up to byte 0x1000, got 16383 after 16383 that stay"),
        (f"{LONG_ZEROS} 01 ff 5f 01 ff", 4, "expected changed bytes up to byte 0x1000, got 1 after 95 that stay"),
        (f"{LONG_ZEROS} 61" + "ff" * 97, 0, "expected changed bytes up to byte 0x1000, got 97 after 4000 that stay"),
        ("05 03 ffff", 0, "expected 3 changed bytes, got only 2"),
    ],
)
def test_what_is_no_delta_is_refused(delta: str, where: int, message: str) -> None:
    page = bytearray(PAGE_SIZE)
    with pytest.raises(RamError) as caught:
        decode(page, bytes.fromhex(delta), block="a", offset=0x100)
    assert str(caught.value) == f"a at byte 0x{0x100 + where:x}: {message}"
    assert len(page) == PAGE_SIZE


def test_a_delta_that_ends_early_is_refused_or_changes_less() -> None:
    page = changed(3, *range(700, 900), 4095)
    delta = encode(ZEROS, page)
    assert delta is not None
    ends = [length for length in range(len(delta)) if not refuses(delta[:length])]
    assert ends == [3, 3 + 4 + 200]


def refuses(delta: bytes) -> bool:
    try:
        decode(bytearray(PAGE_SIZE), delta)
    except RamError:
        return True
    return False


def test_hostile_bytes_never_leave_the_page() -> None:
    dice = np.random.default_rng(3)
    memory = bytearray(3 * PAGE_SIZE)
    page = memoryview(memory)[PAGE_SIZE : 2 * PAGE_SIZE]
    for _ in range(3000):
        data = dice.integers(0, 256, dice.integers(0, 64), np.uint8)
        data[dice.random(len(data)) < 0.5] %= 8
        with suppress(RamError):
            decode(page, data.tobytes())
    assert not any(memory[:PAGE_SIZE])
    assert not any(memory[2 * PAGE_SIZE :])


def test_record_has_a_known_encoding_and_a_length_that_a_page_can_have() -> None:
    assert get_delta(Reader(bytes.fromhex("01 0003 000101 99")), "a") == bytes.fromhex("000101")
    for data, message in (
        ("02 0003 000101", "a at byte 0x0: expected encoding 1 of a delta, got 2"),
        ("01 0000", "a at byte 0x1: expected a delta of 1 to 4096 bytes, got 0"),
        ("01 1001", "a at byte 0x1: expected a delta of 1 to 4096 bytes, got 4097"),
    ):
        with pytest.raises(RamError) as caught:
            get_delta(Reader(bytes.fromhex(data)), "a")
        assert str(caught.value) == message
    for length in range(6):
        with pytest.raises(TruncatedError):
            get_delta(Reader(bytes.fromhex("01 0003 000101")[:length]), "a")
