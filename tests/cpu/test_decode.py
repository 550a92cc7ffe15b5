"""Addresses that loads, stores and atomics use. The encodings are what GNU as 2.40 makes of the instructions named."""

from __future__ import annotations

import pytest

from emulator.cpu import decode

X = {2: 0x1000, 8: 0x2000, 10: 0x3000, 15: (1 << 64) - 8}


@pytest.mark.parametrize(
    ("encoding", "text", "address"),
    [
        (0x00C53583, "ld a1, 12(a0)", 0x300C),
        (0xFF852587, "flw fa1, -8(a0)", 0x2FF8),
        (0xFEB50E23, "sb a1, -4(a0)", 0x2FFC),
        (0x02B53427, "fsd fa1, 40(a0)", 0x3028),
        (0x00B5352F, "amoadd.d a0, a1, (a0)", 0x3000),
        (0x1005352F, "lr.d a0, (a0)", 0x3000),
        (0x0107B583, "ld a1, 16(a5): around the top", 8),
        (0x4540, "c.lw s0, 12(a0)", 0x300C),
        (0x6908, "c.ld a0, 16(a0)", 0x3010),
        (0xE900, "c.sd s0, 16(a0)", 0x3010),
        (0xC550, "c.sw a2, 12(a0)", 0x300C),
        (0x2508, "c.fld fa0, 8(a0)", 0x3008),
        (0x4532, "c.lwsp a0, 12(sp)", 0x100C),
        (0x7522, "c.ldsp a0, 40(sp)", 0x1028),
        (0xC62A, "c.swsp a0, 12(sp)", 0x100C),
        (0xF42A, "c.sdsp a0, 40(sp)", 0x1028),
        (0xB42A, "c.fsdsp fa0, 40(sp)", 0x1028),
        (0x00000013, "nop", None),
        (0x0001, "c.nop", None),
        (0x8082, "ret", None),
    ],
)
def test_effective_address(encoding: int, text: str, address: int | None) -> None:
    assert decode.effective_address(encoding, lambda number: X.get(number, 0), 64) == address, text


def test_on_rv32_the_doubles_of_rv64_are_floating_point_words() -> None:
    assert decode.effective_address(0x6548, lambda number: X.get(number, 0), 32) == 0x300C  # c.flw fa0, 12(a0)


def test_lengths_and_kinds() -> None:
    assert (decode.length(0x0001), decode.length(0x00000013)) == (2, 4)
    assert decode.is_amo(0x1005352F)
    assert decode.is_load_reserved(0x1005352F)
    assert not decode.is_load_reserved(0x00B5352F)
