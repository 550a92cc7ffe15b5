from __future__ import annotations

import pytest

from emulator.core import bits


def test_fields_are_taken_out_and_put_in_by_mask() -> None:
    assert bits.get_field(0xABCD, 0x0F00) == 0xB
    assert bits.set_field(0xABCD, 0x0F00, 0x3) == 0xA3CD
    assert bits.set_field(0xABCD, 0x0F00, 0x13) == 0xA3CD


@pytest.mark.parametrize(("value", "width", "signed"), [(0x7FF, 12, 2047), (0x800, 12, -2048), (0xFFF, 12, -1)])
def test_sign_extension(value: int, width: int, signed: int) -> None:
    assert bits.sign_extend(value, width) == signed


def test_bytes_of_a_register_are_little_endian() -> None:
    assert bits.extract_bytes(0x1122_3344_5566_7788, 4, 2) == 0x3344
    assert bits.replace_bytes(0x1122_3344_5566_7788, 0, 4, 0xAABBCCDD) == 0x1122_3344_AABB_CCDD
    assert bits.replace_bytes(0xFFFF, 1, 1, 0x1234) == 0x34FF


def test_alignment() -> None:
    assert [bits.align_up(n, 4096) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
