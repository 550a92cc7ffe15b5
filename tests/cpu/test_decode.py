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
        (0x80050583, "lb a1, -2048(a0)", 0x2800),
        (0x7FF54583, "lbu a1, 2047(a0)", 0x37FF),
        (0x00251583, "lh a1, 2(a0)", 0x3002),
        (0x00255583, "lhu a1, 2(a0)", 0x3002),
        (0x00456583, "lwu a1, 4(a0)", 0x3004),
        (0x00412587, "flw fa1, 4(sp)", 0x1004),
        (0xFF013587, "fld fa1, -16(sp)", 0xFF0),
        (0x7EB51F23, "sh a1, 2046(a0)", 0x37FE),
        (0x80B52023, "sw a1, -2048(a0)", 0x2800),
        (0x7EB53FA3, "sd a1, 2047(a0)", 0x37FF),
        (0xFEB52E27, "fsw fa1, -4(a0)", 0x2FFC),
        (0x00B13427, "fsd fa1, 8(sp)", 0x1008),
        (0x08B7A52F, "amoswap.w a0, a1, (a5)", 0xFFFFFFFFFFFFFFF8),
        (0xE6B4352F, "amomaxu.d.aqrl a0, a1, (s0)", 0x2000),
        (0x1005252F, "lr.w a0, (a0)", 0x3000),
        (0x18B5252F, "sc.w a0, a1, (a0)", 0x3000),
        (0x18B4352F, "sc.d a0, a1, (s0)", 0x2000),
        (0x4128, "c.lw a0, 64(a0)", 0x3040),
        (0x5C68, "c.lw a0, 124(s0)", 0x207C),
        (0x405C, "c.lw a5, 4(s0)", 0x2004),
        (0x7D68, "c.ld a0, 248(a0)", 0x30F8),
        (0x63BC, "c.ld a5, 64(a5)", 0x38),
        (0x2168, "c.fld fa0, 192(a0)", 0x30C0),
        (0xC028, "c.sw a0, 64(s0)", 0x2040),
        (0xFC68, "c.sd a0, 248(s0)", 0x20F8),
        (0xA148, "c.fsd fa0, 128(a0)", 0x3080),
        (0x557E, "c.lwsp a0, 252(sp)", 0x10FC),
        (0x4506, "c.lwsp a0, 64(sp)", 0x1040),
        (0x757E, "c.ldsp a0, 504(sp)", 0x11F8),
        (0x6512, "c.ldsp a0, 256(sp)", 0x1100),
        (0x2532, "c.fldsp fa0, 264(sp)", 0x1108),
        (0xDFAA, "c.swsp a0, 252(sp)", 0x10FC),
        (0xC0AA, "c.swsp a0, 64(sp)", 0x1040),
        (0xFFAA, "c.sdsp a0, 504(sp)", 0x11F8),
        (0xE0AA, "c.sdsp a0, 64(sp)", 0x1040),
        (0xA22A, "c.fsdsp fa0, 256(sp)", 0x1100),
        (0x0808, "c.addi4spn a0, sp, 16", None),
        (0x6105, "c.addi16sp sp, 32", None),
        (0x8502, "c.jr a0", None),
        (0x9002, "c.ebreak", None),
        (0x852E, "c.mv a0, a1", None),
        (0x2505, "c.addiw a0, 1", None),
        (0x6505, "c.lui a0, 0x1", None),
        (0x6AC5F543, "fmadd.d fa0, fa1, fa2, fa3", None),
        (0x30059573, "csrrw a0, mstatus, a1", None),
        (0x0FF0000F, "fence iorw, iorw", None),
        (0xA001, "c.j .", None),
        (0xC101, "c.beqz a0, .", None),
        (0x00000013, "nop", None),
        (0x0001, "c.nop", None),
        (0x8082, "ret", None),
    ],
)
def test_effective_address(encoding: int, text: str, address: int | None) -> None:
    assert decode.effective_address(encoding, lambda number: X.get(number, 0), 64) == address, text


@pytest.mark.parametrize(
    ("encoding", "text", "address"),
    [
        (0x6548, "c.flw fa0, 12(a0)", 0x300C),
        (0x6128, "c.flw fa0, 64(a0)", 0x3040),
        (0x7C7C, "c.flw fa5, 124(s0)", 0x207C),
        (0xE148, "c.fsw fa0, 4(a0)", 0x3004),
        (0x757E, "c.flwsp fa0, 252(sp)", 0x10FC),
        (0xE0AA, "c.fswsp fa0, 64(sp)", 0x1040),
        (0x2168, "c.fld fa0, 192(a0)", 0x30C0),
        (0xBC68, "c.fsd fa0, 248(s0)", 0x20F8),
        (0x2532, "c.fldsp fa0, 264(sp)", 0x1108),
        (0xA22A, "c.fsdsp fa0, 256(sp)", 0x1100),
        (0x4128, "c.lw a0, 64(a0)", 0x3040),
        (0xDFAA, "c.swsp a0, 252(sp)", 0x10FC),
        (0x2001, "c.jal .", None),
        (0x0107A583, "lw a1, 16(a5): around the top", 8),
    ],
)
def test_effective_address_on_rv32(encoding: int, text: str, address: int | None) -> None:
    registers = {number: value & 0xFFFF_FFFF for number, value in X.items()}
    assert decode.effective_address(encoding, lambda number: registers.get(number, 0), 32) == address, text


def test_lengths_and_kinds() -> None:
    assert (decode.length(0x0001), decode.length(0x00000013)) == (2, 4)
    assert decode.is_amo(0x1005352F)
    assert decode.is_load_reserved(0x1005352F)
    assert not decode.is_load_reserved(0x00B5352F)
    assert not decode.is_load_reserved(0x18B4352F)  # sc.d
    assert not decode.is_amo(0xE0AA)  # c.sdsp
