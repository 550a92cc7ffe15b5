"""Guest code as text."""

from __future__ import annotations

from emulator.cpu.disasm import disassemble

BASE = 0x8000_0000


def texts(code: str, xlen: int = 64) -> list[tuple[int, str, str]]:
    shown = disassemble(bytes.fromhex(code), BASE, xlen)
    return [(address - BASE, raw.hex(), " ".join(text.split())) for address, raw, text in shown]


def test_both_lengths_are_told_apart() -> None:
    assert texts("13051500 0505 73000000") == [
        (0, "13051500", "addi a0, a0, 1"),
        (4, "0505", "c.addi a0, 1"),
        (6, "73000000", "ecall"),
    ]


def test_what_is_no_instruction_is_shown_by_halves_and_nothing_is_lost() -> None:
    assert texts("ffffffff 0000 82 80") == [
        (0, "ffff", ".half 0xffff"),
        (2, "ffff", ".half 0xffff"),
        (4, "0000", "c.unimp"),
        (6, "8280", "c.jr ra"),
    ]


def test_an_instruction_that_is_cut_off_is_left_out() -> None:
    assert texts("0505 1305") == [(0, "0505", "c.addi a0, 1")]
    assert texts("05") == []


def test_the_same_bytes_are_other_instructions_on_rv32() -> None:
    assert texts("2861")[0][2].split()[0] == "c.ld"
    assert texts("2861", xlen=32)[0][2].split()[0] == "c.flw"


def test_a_long_name_stands_apart_from_its_operands() -> None:
    assert texts("2000") == [(0, "2000", "c.addi4spn s0, sp, 8")]


def test_what_a_distance_means_stands_behind_it() -> None:
    """bnez t4, .-4; j .-16; auipc t2, 0xfffff; c.beqz a0, .+6; jal .+8; two jalr, whose number is none."""
    assert [text for _address, _raw, text in texts("e39e0efe 6ff01fff 97f3ffff 19c1 ef008000 67804200 e7804200")] == [
        "bnez t4, -4 # 0x7ffffffc",
        "j -0x10 # 0x7ffffff4",
        "auipc t2, 0xfffff # 0x7ffff008",
        "c.beqz a0, 6 # 0x80000012",
        "jal 8 # 0x80000016",
        "jalr zero, t0, 4",
        "jalr ra, t0, 4",
    ]
