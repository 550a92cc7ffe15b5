"""What a sender of RAM counts, and how evenly it keeps a rate limit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration import ramsend
from emulator.migration.pages import rows_of
from emulator.migration.ramsend import PAUSE_SECONDS, SLICE_SECONDS, RamSender
from emulator.migration.status import Figures

MIB = 1 << 20
PAGES = 1024
RECORD = PAGE_SIZE + 8


class Wire:
    """Notes when how many bytes are sent, on a clock that goes on only as the sender rests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.limit = 0
        self.sent: list[tuple[float, int]] = []
        self.figures = Figures()
        monkeypatch.setattr(ramsend.time, "monotonic", lambda: self.now)
        self.sender = RamSender(self, self.figures, limit=lambda: self.limit, rest=self.rest)

    def rest(self, seconds: float) -> bool:
        assert 0 < seconds <= PAUSE_SECONDS
        self.now += seconds
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append((self.now, len(data)))

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        self.sent.append((self.now, int(iovec[:, 1].sum())))

    @property
    def total(self) -> int:
        return sum(count for _, count in self.sent)


@pytest.fixture
def block() -> Iterator[RamBlock]:
    block = RamBlock("ram", PAGES * PAGE_SIZE)
    rows_of(block)[:] = 1
    yield block
    block.close()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def send(wire: Wire, block: RamBlock, count: int = PAGES) -> None:
    wire.figures.remaining = count * PAGE_SIZE
    wire.sender.send(block, rows_of(block), np.arange(PAGES) < count)


def test_every_byte_and_page_is_counted(wire: Wire, block: RamBlock) -> None:
    rows_of(block)[3:700:7] = 0
    send(wire, block)
    wire.sender.write(b"12345")
    figures = wire.figures
    assert figures.transferred == wire.total
    assert figures.normal + figures.duplicate == PAGES
    assert (figures.duplicate, figures.remaining) == (100, 0)


def test_what_remains_goes_down_while_a_pass_goes_on(wire: Wire, block: RamBlock) -> None:
    wire.limit = MIB
    seen = []
    rest = wire.rest
    wire.sender._rest = lambda seconds: seen.append(wire.figures.remaining) or rest(seconds)  # type: ignore[func-returns-value]
    send(wire, block)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 20


@pytest.mark.parametrize("limit", [20_000, MIB, 8 * MIB])
def test_a_limit_is_kept_evenly(wire: Wire, block: RamBlock, limit: int) -> None:
    wire.limit, most = limit, max(limit * SLICE_SECONDS, RECORD) + 100
    wire.now += 1000  # what was not used of it is not saved up
    begun = wire.now
    send(wire, block, min(PAGES, 8 * limit // PAGE_SIZE))
    assert max(count for _, count in wire.sent) <= most
    sent = 0
    for now, count in wire.sent:
        sent += count
        assert sent <= limit * (now - begun + PAUSE_SECONDS) + most
    assert wire.total == pytest.approx(limit * (wire.now - begun + PAUSE_SECONDS), abs=2)


@pytest.mark.parametrize("limit", [0, 64 * MIB])
def test_a_new_limit_is_felt_at_once(wire: Wire, block: RamBlock, limit: int) -> None:
    wire.limit = 1
    begun = wire.now
    rest = wire.rest

    def change(seconds: float) -> bool:
        wire.limit = limit
        return rest(seconds)

    wire.sender._rest = change
    send(wire, block, 2)
    assert wire.now - begun < 1


def test_without_a_limit_there_is_no_rest(wire: Wire, block: RamBlock) -> None:
    send(wire, block)
    wire.limit, wire.sender.unlimited = 1, True
    send(wire, block)
    assert {now for now, _ in wire.sent} == {100.0}
    assert len(wire.sent) == 2 * -(-PAGES // ramsend.CHUNK_PAGES)
