"""RAM blocks and what can take their content's place."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core import memory
from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory, close_later

SIZE = 16 * PAGE_SIZE


@pytest.fixture
def block() -> Iterator[RamBlock]:
    block = RamBlock("ram", SIZE)
    yield block
    block.close()


def words(block: RamBlock) -> list[int]:
    """Which pages have been touched."""
    touched = block.touched()
    assert touched is not None
    entries = memoryview(touched).cast("Q")
    return [page for page, entry in enumerate(entries) if entry >> 62]


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, 1, PAGE_SIZE + 1])
def test_a_block_has_whole_pages(size: int) -> None:
    with pytest.raises(ConfigError, match="not a positive multiple of 4096"):
        RamBlock("ram", size)


def test_a_new_block_is_zero_and_untouched(block: RamBlock) -> None:
    assert words(block) == []
    assert bytes(block.view) == bytes(SIZE)


def test_pages_that_were_written_are_known(block: RamBlock) -> None:
    block.view[3 * PAGE_SIZE] = 1
    block.view[9 * PAGE_SIZE + 5] = 1
    assert words(block) == [3, 9]


def test_an_exchange_swaps_contents_and_keeps_the_address(block: RamBlock) -> None:
    block.view[:4] = b"old!"
    address, staged = block.address, StagedMemory(SIZE)
    staged.view[:4] = b"new!"
    block.exchange(staged)
    assert (bytes(block.view[:4]), bytes(staged.view[:4]), block.address) == (b"new!", b"old!", address)
    block.exchange(staged)
    assert bytes(block.view[:4]) == b"old!"
    staged.close()


def test_an_exchange_needs_the_same_size(block: RamBlock) -> None:
    staged = StagedMemory(PAGE_SIZE)
    with pytest.raises(ValueError, match="has 65536 bytes, not 4096"):
        block.exchange(staged)
    staged.close()


def test_an_exchange_works_where_pages_cannot_be_moved(block: RamBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_move_away", lambda _address, _size: None)
    block.view[:4] = b"old!"
    staged = StagedMemory(SIZE)
    staged.view[:4] = b"new!"
    block.exchange(staged)
    assert (bytes(block.view[:4]), bytes(staged.view[:4])) == (b"new!", b"old!")
    staged.close()


def test_a_failed_exchange_changes_nothing(block: RamBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    block.view[:4] = b"old!"
    staged = StagedMemory(SIZE)
    move, moves = memory._move, []

    def fail_once(address: int, size: int, to: int) -> None:
        moves.append(to)
        if len(moves) == 1:
            raise MemoryError("no more mappings")
        move(address, size, to)

    monkeypatch.setattr(memory, "_move", fail_once)
    with pytest.raises(MemoryError, match="no more mappings"):
        block.exchange(staged)
    assert bytes(block.view[:4]) == b"old!"
    staged.close()


def test_no_other_thread_gets_a_blocks_address_during_an_exchange(block: RamBlock) -> None:
    """Memory of the block's size is asked for as fast as possible, which would fit into any gap."""
    over, lost = threading.Event(), []

    def allocate() -> None:
        while not over.is_set():
            other = mmap.mmap(-1, SIZE)
            other[:4] = b"mine"
            if other[:4] != b"mine":
                lost.append(other[:4])
            other.close()

    thread = threading.Thread(target=allocate)
    thread.start()
    for _ in range(2000):
        staged = StagedMemory(SIZE)
        staged.view[:4] = b"ours"
        block.exchange(staged)
        staged.close()
        assert bytes(block.view[:4]) == b"ours"
    over.set()
    thread.join()
    assert not lost


def test_memory_from_a_file_is_private_and_knows_its_pages(block: RamBlock, tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(bytes(PAGE_SIZE) + b"a" * PAGE_SIZE + bytes(SIZE - PAGE_SIZE))
    descriptor = os.open(path, os.O_RDONLY)
    staged = StagedMemory(SIZE, descriptor, PAGE_SIZE, present=b"\1\0")
    os.close(descriptor)
    block.exchange(staged)
    assert block.present == b"\1\0"
    assert bytes(block.view[:PAGE_SIZE]) == b"a" * PAGE_SIZE
    block.view[0] = 0
    assert path.read_bytes()[PAGE_SIZE : PAGE_SIZE + 1] == b"a"
    block.exchange(staged)
    assert block.present is None
    staged.close()
    staged.close()


def test_memory_is_freed_in_the_background(block: RamBlock) -> None:
    staged = StagedMemory(SIZE)
    block.exchange(staged)
    close_later([staged])
    for thread in threading.enumerate():
        if thread.name == "old memory":
            thread.join()
    assert bytes(block.view) == bytes(SIZE)


def test_memory_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="cannot map"):
        StagedMemory(1 << 60)
