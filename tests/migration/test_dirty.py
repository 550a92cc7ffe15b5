"""Dirty logs: no write is lost, by whomever and whenever, and both kinds say the same."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator import Machine, Serial
from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory
from emulator.migration import userfault
from emulator.migration.dirty import KINDS, DirtyLog, open_dirty_log
from emulator.migration.pages import rows_of

ROOT = Path(__file__).parents[2]
PAGES = 2048
MEMSET = ctypes.CDLL(None).memset
MEMSET.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

Pages = NDArray[np.bool_]


def _works(kind: str) -> bool:
    block = RamBlock("probe", PAGE_SIZE)
    try:
        open_dirty_log([block], kind=kind).close()
    except ConfigError:
        return False
    finally:
        block.close()
    return True


WORKING = [kind for kind in KINDS if _works(kind)]
every_kind = pytest.mark.parametrize("kind", WORKING)


def anonymous() -> RamBlock:
    """RAM of which the first half is in use."""
    block = RamBlock("ram", PAGES * PAGE_SIZE)
    rows_of(block)[: PAGES // 2] = np.random.default_rng(1).integers(1, 1 << 62, (PAGES // 2, 512), np.uint64)
    return block


def loaded(folder: Path) -> RamBlock:
    """RAM as it is after a snapshot was loaded: mapped from a file of which nothing has been read yet."""
    block = RamBlock("ram", PAGES * PAGE_SIZE)
    path = folder / "snapshot"
    content = anonymous()
    path.write_bytes(content.view)
    content.close()
    present = np.packbits(np.arange(PAGES) < PAGES // 2, bitorder="little").tobytes()
    with path.open("rb") as file:
        staged = StagedMemory(block.size, file.fileno(), present=present)
    block.exchange(staged)
    staged.close()
    return block


@pytest.fixture(params=["anonymous", "loaded"])
def block(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RamBlock]:
    block = anonymous() if request.param == "anonymous" else loaded(tmp_path)
    yield block
    block.close()


@pytest.fixture
def log(block: RamBlock) -> Iterator[Callable[[str], DirtyLog]]:
    logs = []

    def start(kind: str) -> DirtyLog:
        logs.append(open_dirty_log([block], kind=kind))
        return logs[-1]

    yield start
    for opened in logs:
        opened.close()


def numbers(pages: Pages) -> list[int]:
    return np.flatnonzero(pages).tolist()


def send(log: DirtyLog, block: RamBlock, pages: Pages, received: NDArray[np.uint64]) -> None:
    """Send pages as a migration does: those with data as they are, the others as zeros."""
    chosen = np.flatnonzero(pages)
    received[chosen] = log.rows(block)[chosen]


def send_all(log: DirtyLog, block: RamBlock) -> NDArray[np.uint64]:
    """What the destination has after a first pass."""
    received = np.zeros((block.size // PAGE_SIZE, 512), np.uint64)
    send(log, block, log.data_pages(block), received)
    return received


# One writer at a time


@every_kind
def test_only_what_is_written_after_opening_is_dirty(
    kind: str, block: RamBlock, log: Callable[[str], DirtyLog]
) -> None:
    opened = log(kind)
    assert opened.name == kind
    assert numbers(opened.collect(block)) == []
    block.view[5 * PAGE_SIZE + 17] ^= 1
    block.view[PAGES * PAGE_SIZE - 1] ^= 1
    assert numbers(opened.collect(block)) == [5, PAGES - 1]
    assert numbers(opened.collect(block)) == []
    block.view[5 * PAGE_SIZE] ^= 1
    assert numbers(opened.collect(block)) == [5]


@every_kind
def test_reading_makes_nothing_dirty(kind: str, block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    used = PAGES // 2
    opened = log(kind)
    assert bytes(block.view[: used * PAGE_SIZE]) == opened.rows(block)[:used].tobytes()
    assert numbers(opened.collect(block)) == []


@pytest.mark.skipif("userfaultfd" not in WORKING, reason="needs Linux 6.7 or newer")
def test_memory_that_was_never_used_stays_so(block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    opened = log("userfaultfd")
    opened.data_pages(block)
    opened.collect(block)
    touched = block.touched()
    assert touched is not None
    assert not any(touched[PAGES // 2 * 8 :])


@every_kind
def test_writes_by_the_system_count_as_well(kind: str, block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    """A device that reads from a file straight into guest memory, a native library."""
    opened = log(kind)
    read, write = os.pipe()
    os.write(write, b"\xa5" * (PAGE_SIZE + 2))
    assert os.readv(read, [block.view[7 * PAGE_SIZE - 1 :]]) == PAGE_SIZE + 2
    os.close(read)
    os.close(write)
    MEMSET(block.address + 1500 * PAGE_SIZE, 0x5A, 3 * PAGE_SIZE)
    assert numbers(opened.collect(block)) == [6, 7, 8, 1500, 1501, 1502]


@every_kind
def test_more_regions_than_one_scan_can_tell(kind: str) -> None:
    """Every other page, twice."""
    block = RamBlock("ram", 5 * userfault.REGIONS * PAGE_SIZE)
    opened = open_dirty_log([block], kind=kind)
    for first in (0, 1):
        rows_of(block)[first::2, 9] = first + 1
        assert numbers(opened.collect(block)) == list(range(first, 5 * userfault.REGIONS, 2))
    rows_of(block)[:, 9] = 3
    assert opened.collect(block).all()
    assert not opened.collect(block).any()
    opened.close()
    block.close()


@every_kind
def test_blocks_are_looked_at_one_by_one(kind: str) -> None:
    blocks = [RamBlock(name, 16 * PAGE_SIZE, readonly=name == "rom") for name in ("ram", "rom", "flash")]
    opened = open_dirty_log(blocks, kind=kind)
    for number, block in enumerate(blocks):
        block.view[number * PAGE_SIZE] = 1
    for number, block in reversed(list(enumerate(blocks))):
        assert numbers(opened.collect(block)) == [number]
    opened.close()
    for block in blocks:
        block.close()


@every_kind
def test_data_pages_are_those_that_are_not_zero(kind: str, block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    rows_of(block)[3] = 0
    rows_of(block)[PAGES - 3, 511] = 1
    opened = log(kind)
    expected = [*range(3), *range(4, PAGES // 2), PAGES - 3]
    assert set(numbers(opened.data_pages(block))) - {3} == set(expected)
    assert (opened.rows(block) == rows_of(block)).all()


def test_all_kinds_say_the_same(block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    """Each write changes something; so what was written is what differs."""
    source = random.Random(3)
    rows_of(block)[:, 0] += 1  # so that no page is used for the first time by who compares
    logs = [log(kind) for kind in WORKING]
    for _round in range(60):
        written = set()
        for _ in range(source.choice((0, 1, 5, 300))):
            first = source.randrange(PAGES)
            end = min(PAGES, first + source.choice((1, 1, 2, 40)))
            rows_of(block)[first:end, source.randrange(512)] += 1
            written |= set(range(first, end))
        for opened in logs:
            assert numbers(opened.collect(block)) == sorted(written)


# Writers at work


@every_kind
def test_nothing_is_lost_while_threads_write(kind: str, block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    """The writers are native code, which runs while pages are collected and copied."""
    stop = threading.Event()
    opened = log(kind)
    received = send_all(opened, block)

    def write(seed: int) -> None:
        source = random.Random(seed)
        while not stop.is_set():
            page, length = source.randrange(PAGES - 64), source.choice((1, 8, PAGE_SIZE, 64 * PAGE_SIZE))
            MEMSET(block.address + page * PAGE_SIZE, source.randrange(256), length)

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for writer in writers:
        writer.start()
    dirtied = looks = 0
    while dirtied < 4 * PAGES or looks < 60:  # a look may take less time than the writers need for a page
        pages = opened.collect(block)
        dirtied, looks = dirtied + int(np.count_nonzero(pages)), looks + 1
        send(opened, block, pages, received)
    stop.set()
    for writer in writers:
        writer.join()
    send(opened, block, opened.collect(block), received)
    assert not opened.collect(block).any()
    assert (received == rows_of(block)).all()


@every_kind
def test_page_that_changes_back_is_not_lost(kind: str, block: RamBlock, log: Callable[[str], DirtyLog]) -> None:
    """Whatever the page held when it was sent, the destination has what it holds in the end."""
    opened = log(kind)
    received = send_all(opened, block)
    block.view[0] = 1
    pages = opened.collect(block)
    block.view[0] = 2  # between the look and the sending
    send(opened, block, pages, received)
    block.view[0] = 1
    send(opened, block, opened.collect(block), received)
    assert (received == rows_of(block)).all()


@every_kind
def test_nothing_is_lost_while_a_guest_writes(kind: str) -> None:
    with Machine("virt", ram="32M", kernel=ROOT / "firmware/prebuilt/toy.elf") as machine:
        machine.run(until=Serial("toy> "), timeout=60)
        machine.serial.write("dirty 400 8\n")
        machine.run(until=Serial("toy> "), timeout=60)
        blocks = machine.board.ram_blocks
        opened = open_dirty_log(blocks, kind=kind)
        received = {block.name: send_all(opened, block) for block in blocks}
        machine.cont()
        dirtied = 0
        while dirtied < 20_000:
            for block in blocks:
                pages = opened.collect(block)
                dirtied += int(np.count_nonzero(pages))
                send(opened, block, pages, received[block.name])
        machine.stop()
        for block in blocks:
            send(opened, block, opened.collect(block), received[block.name])
            assert not opened.collect(block).any()
            assert (received[block.name] == rows_of(block)).all()
        opened.close()
        machine.serial.write("dirty check\n")
        machine.run(until=Serial("all pages checked, 0 errors"), timeout=60)


# Beginning and end


@every_kind
def test_closing_leaves_plain_memory_and_nothing_else(kind: str, block: RamBlock) -> None:
    before = set(Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else set()
    for _ in range(3):
        opened = open_dirty_log([block], kind=kind)
        rows_of(block)[::3, 0] += 1
        opened.close()
        opened.close()
        rows_of(block)[::2, 0] += 1
        with pytest.raises(ValueError, match="dirty log"):
            opened.collect(block)
    if sys.platform == "linux":
        assert set(Path("/proc/self/fd").iterdir()) == before
    staged = StagedMemory(block.size)
    block.exchange(staged)
    staged.close()
    assert not rows_of(block).any()


def test_best_kind_that_works_is_taken(block: RamBlock) -> None:
    opened = open_dirty_log([block])
    assert opened.name == WORKING[0]
    opened.close()


def test_unknown_kind_is_refused(block: RamBlock) -> None:
    with pytest.raises(ConfigError, match="'kvm' is no kind of dirty logging; there are userfaultfd, comparison"):
        open_dirty_log([block], kind="kvm")


@pytest.mark.parametrize("step", ["open", "api", "scan", "machine"])
def test_comparison_where_the_kernel_does_not_help(step: str, block: RamBlock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at all, not in this way, not yet, or nobody knows how to ask it."""
    match step:
        case "open":
            monkeypatch.setattr(userfault, "_USER_MODE_ONLY", 1 << 20)
        case "api":
            monkeypatch.setattr(userfault, "_FEATURES", 1 << 63)
        case "scan":
            monkeypatch.setattr(userfault, "_PAGEMAP_SCAN", 0x6610)
        case "machine":
            monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    opened = open_dirty_log([block])
    assert opened.name == "comparison"
    block.view[0] ^= 1
    assert numbers(opened.collect(block)) == [0]
    opened.close()
    with pytest.raises(ConfigError, match="dirty logging by userfaultfd does not work here: "):
        open_dirty_log([block], kind="userfaultfd")


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="a filter for Linux on x86-64")
def test_comparison_where_a_sandbox_forbids_the_rest() -> None:
    program = """if True:
        import ctypes, struct
        from emulator.core.memory import RamBlock
        from emulator.migration.dirty import open_dirty_log
        # load the number; userfaultfd (323)? return EPERM: allow
        code = struct.pack("<" + "HBBI" * 4, 0x20, 0, 0, 0, 0x15, 0, 1, 323, 6, 0, 0, 0x50001, 6, 0, 0, 0x7fff0000)
        text = ctypes.create_string_buffer(code)
        filter = struct.pack("@HP", 4, ctypes.addressof(text))
        libc = ctypes.CDLL(None)
        assert not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(22, 2, ctypes.c_char_p(filter), 0, 0)
        print(open_dirty_log([RamBlock("ram", 1 << 20)]).name)
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == "comparison\n", result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="what is in memory is asked of /proc")
def test_memory_nobody_has_touched_costs_nothing() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE

    block = RamBlock("ram", 1 << 30)
    block.view[512 << 20] = 1
    before = resident()
    opened = open_dirty_log([block], kind="comparison")
    block.view[100 << 20] = 1
    assert numbers(opened.collect(block)) == [100 << 8]
    assert resident() - before < 32 << 20
    opened.close()
    block.close()
