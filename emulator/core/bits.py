"""Small integer helpers that say what they mean."""

from __future__ import annotations


def mask(bits: int) -> int:
    """An integer with the low `bits` bits set."""
    return (1 << bits) - 1


def get_field(value: int, field_mask: int) -> int:
    """The field that `field_mask` selects, shifted down to bit 0; `field_mask` must not be 0."""
    return (value & field_mask) // (field_mask & -field_mask)


def set_field(value: int, field_mask: int, field: int) -> int:
    """`value` with the field that `field_mask` selects replaced by `field` (cut to the field's width)."""
    return (value & ~field_mask) | ((field * (field_mask & -field_mask)) & field_mask)


def sign_extend(value: int, bits: int) -> int:
    """The low `bits` bits of `value` read as a two's complement number."""
    sign = 1 << (bits - 1)
    return ((value & mask(bits)) ^ sign) - sign


def replace_bytes(register: int, offset: int, size: int, value: int) -> int:
    """`register` after a little-endian store of `size` bytes of `value` at byte `offset` inside it."""
    field = mask(8 * size) << (8 * offset)
    return (register & ~field) | ((value << (8 * offset)) & field)


def extract_bytes(register: int, offset: int, size: int) -> int:
    """What a little-endian load of `size` bytes at byte `offset` inside `register` returns."""
    return (register >> (8 * offset)) & mask(8 * size)


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is at least `value`."""
    return -(-value // alignment) * alignment
