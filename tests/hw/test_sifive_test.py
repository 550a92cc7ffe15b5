"""The test finisher: status in the low half of a write, exit code in the high half."""

from __future__ import annotations

import pytest

from emulator.hw.sifive_test import SifiveTest


class Bench:
    """A finisher whose calls are written down."""

    def __init__(self) -> None:
        self.calls: list[int | str] = []
        self.finisher = SifiveTest(self.calls.append, lambda: self.calls.append("reset"))
        (self.region,) = self.finisher.regions


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_region_takes_halfwords_and_words(bench: Bench) -> None:
    assert (bench.region.name, bench.region.size) == ("riscv.sifive.test", 0x1000)
    assert [bench.region.accepts(0, size) for size in (1, 2, 4, 8)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("size", "value", "calls"),
    [
        (4, 0x5555, [0]),
        (4, 0x0007_5555, [0]),
        (2, 0x5555, [0]),
        (4, 0x0001_3333, [1]),
        (4, 0xFFFF_3333, [0xFFFF]),
        (4, 0x0000_3333, [0]),
        (2, 0x3333, [0]),
        (4, 0x7777, ["reset"]),
        (4, 0xABCD_7777, ["reset"]),
        (2, 0x7777, ["reset"]),
        (4, 0x0000_0000, []),
        (4, 0x5555_0000, []),
        (4, 0x5554, []),
    ],
)
def test_finisher_codes(bench: Bench, size: int, value: int, calls: list[int | str]) -> None:
    bench.region.write(0, size, value)
    assert bench.calls == calls


@pytest.mark.parametrize("offset", [2, 4, 0xFFC])
def test_only_the_first_register_finishes(bench: Bench, offset: int) -> None:
    bench.region.write(offset, 2, 0x5555)
    assert bench.calls == []


def test_reads_return_0(bench: Bench) -> None:
    assert [bench.region.read(0, 4), bench.region.read(0xFFE, 2)] == [0, 0]


def test_reset_changes_nothing(bench: Bench) -> None:
    bench.finisher.reset()
    assert bench.calls == []
