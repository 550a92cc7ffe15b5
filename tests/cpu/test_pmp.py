"""PMP registers and the ranges they stand for: the Privileged Architecture 1.10, section 3.6.1 and its table 3.11."""

from __future__ import annotations

import pytest

from emulator.cpu import pmp

TOR, NA4, NAPOT, LOCKED, RWX = 0x08, 0x10, 0x18, 0x80, 7
CFG0, CFG1, CFG2, CFG3, ADDR0 = 0x3A0, 0x3A1, 0x3A2, 0x3A3, 0x3B0
TOP = (1 << 64) - 1


class Registers(dict[str, int]):
    def __init__(self, xlen: int = 64) -> None:
        super().__init__({f"{name}{entry}": 0 for name in ("pmpaddr", "pmpcfg") for entry in range(16)})
        self.xlen = xlen
        pmp.update(self)

    def range(self, entry: int) -> tuple[int, int]:
        return self[f"pmpstart{entry}"], self[f"pmpend{entry}"]


@pytest.fixture
def env() -> Registers:
    return Registers()


@pytest.mark.parametrize(
    ("address", "first", "last"),
    [
        (0x2000_0000, 0x8000_0000, 0x8000_0007),
        (0x2000_0001, 0x8000_0000, 0x8000_000F),
        (0x2000_0003, 0x8000_0000, 0x8000_001F),
        (0x2000_01FF, 0x8000_0000, 0x8000_0FFF),
        (0x2000_FFFF, 0x8000_0000, 0x8007_FFFF),
        ((1 << 54) - 1, 0, (1 << 57) - 1),
        (TOP, 0, TOP),
    ],
)
def test_a_power_of_two(env: Registers, address: int, first: int, last: int) -> None:
    pmp.write(env, ADDR0, address)
    pmp.write(env, CFG0, NAPOT | RWX)
    assert env.range(0) == (first, last)


def test_four_bytes(env: Registers) -> None:
    pmp.write(env, ADDR0, 0x2000_0041)
    pmp.write(env, CFG0, NA4 | RWX)
    assert env.range(0) == (0x8000_0104, 0x8000_0107)


def test_from_the_top_of_one_to_the_top_of_the_next(env: Registers) -> None:
    pmp.write(env, ADDR0, 0x1000)
    pmp.write(env, ADDR0 + 1, 0x3000)
    pmp.write(env, CFG0, TOR << 8 | TOR)
    assert (env.range(0), env.range(1)) == ((0, 0x3FFF), (0x4000, 0xBFFF))
    pmp.write(env, ADDR0, 0x2000)
    assert (env.range(0), env.range(1)) == ((0, 0x7FFF), (0x8000, 0xBFFF))


@pytest.mark.parametrize("base", [0x3000, 0x3001, TOP])
def test_a_base_at_or_above_the_top_matches_nothing(env: Registers, base: int) -> None:
    pmp.write(env, ADDR0, base)
    pmp.write(env, ADDR0 + 1, 0x3000)
    pmp.write(env, CFG0, TOR << 8)
    first, last = env.range(1)
    assert first > last


def test_an_entry_that_is_off_matches_nothing(env: Registers) -> None:
    pmp.write(env, ADDR0, TOP)
    pmp.write(env, CFG0, RWX)
    first, last = env.range(0)
    assert first > last


def test_each_byte_configures_an_entry_and_odd_registers_are_for_rv32(env: Registers) -> None:
    pmp.write(env, CFG0, 0x1716_1514_1312_1110)
    pmp.write(env, CFG2, 0x1F1E_1D1C_1B1A_1918)
    assert [env[f"pmpcfg{entry}"] for entry in range(16)] == list(range(0x10, 0x20))
    assert pmp.read_config(env, CFG0) == 0x1716_1514_1312_1110
    assert pmp.read_config(env, CFG2) == 0x1F1E_1D1C_1B1A_1918
    assert pmp.read_config(env, CFG1) is pmp.read_config(env, CFG3) is None


def test_on_rv32_each_register_has_four() -> None:
    env = Registers(xlen=32)
    for number in range(4):
        pmp.write(env, CFG0 + number, 0x0302_0100 + 0x0404_0404 * number)
    assert [env[f"pmpcfg{entry}"] for entry in range(16)] == list(range(16))
    assert pmp.read_config(env, CFG3) == 0x0F0E_0D0C


def test_a_locked_entry_keeps_its_registers(env: Registers) -> None:
    pmp.write(env, ADDR0, 0x1FF)
    pmp.write(env, CFG0, LOCKED | NAPOT | 1)
    pmp.write(env, ADDR0, 0)
    pmp.write(env, CFG0, RWX << 8)
    assert env.range(0) == (0, 0xFFF)
    assert pmp.read_config(env, CFG0) == RWX << 8 | LOCKED | NAPOT | 1


@pytest.mark.parametrize(("match", "kept"), [(TOR, 0x1000), (NAPOT, 0x2000)])
def test_a_locked_top_keeps_its_base_as_well(env: Registers, match: int, kept: int) -> None:
    pmp.write(env, ADDR0, 0x1000)
    pmp.write(env, CFG0, (LOCKED | match) << 8)
    pmp.write(env, ADDR0, 0x2000)
    assert env["pmpaddr0"] == kept


def test_the_last_entry_has_no_next(env: Registers) -> None:
    pmp.write(env, ADDR0 + 15, 5)
    assert env["pmpaddr15"] == 5


def test_no_entry_is_not_the_same_as_no_protection(env: Registers) -> None:
    assert env["pmp_rules"] == 1
