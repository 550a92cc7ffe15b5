"""A small machine to a stream and back: all or nothing, whatever is wrong and wherever it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration import savevm
from emulator.migration.errors import FieldMismatchError, FieldRangeError, StreamError
from emulator.migration.fields import UInt32
from emulator.migration.registry import Registry
from emulator.migration.savevm import Subject
from emulator.migration.vmstate import VMStateDescription

PAGE = b"p" * PAGE_SIZE


@dataclass(slots=True)
class Counters:
    first: int = 0
    second: int = 0


class Chip:
    """An owner of one or two sections, which takes no number above a limit."""

    def __init__(self, journal: list[str], name: str, *fields: str, limit: int = 1000) -> None:
        self.journal, self.name, self.limit = journal, name, limit
        self.vmstate: Mapping[str, VMStateDescription] = {
            f"{name}-{field}": VMStateDescription(
                f"{name}-{field}", Counters, version_id=2, minimum_version_id=1, fields=(UInt32(field),)
            )
            for field in fields
        }
        self.state = Counters(1, 2)

    def fresh(self) -> Counters:
        return Counters()

    def check(self, state: Counters) -> None:
        if state.first > self.limit:
            raise FieldRangeError("first", state.first, self.limit)

    def adopt(self, state: Counters) -> None:
        self.journal.append(self.name)
        self.state = state


class Board:
    """Two RAM blocks, a chip with one section, one with two, and one that is the same kind as the first."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.chips = [
            Chip(self.journal, "timer", "first"),
            Chip(self.journal, "uart", "first", "second"),
            Chip(self.journal, "timer", "first"),
        ]
        registry = Registry()
        for chip in self.chips:
            registry.register(chip)
        self.blocks = [RamBlock("rom", PAGE_SIZE), RamBlock("ram", 4 * PAGE_SIZE)]
        self.subject = Subject("test", registry, self.blocks)

    def save(self) -> bytes:
        stream = bytearray()
        savevm.save(self.subject, stream.extend)
        return bytes(stream)

    def load(self, stream: bytes) -> None:
        with savevm.load(self.subject, memoryview(stream), -1) as loaded:
            loaded.adopt(self.subject)

    def refusal(self, stream: bytes) -> StreamError:
        """The error with which a stream is refused; nothing may have changed."""
        before = self.save()
        with pytest.raises(StreamError) as caught:
            self.load(stream)
        assert self.save() == before
        assert not self.journal
        assert str(caught.value).isprintable()
        assert caught.value.offset is not None
        return caught.value


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    for block in board.blocks:
        block.close()


@pytest.fixture
def stream(board: Board) -> bytes:
    """What the board is to become."""
    board.chips[0].state.first = 7
    board.chips[1].state = Counters(8, 9)
    board.blocks[1].view[PAGE_SIZE : 2 * PAGE_SIZE] = PAGE
    stream = board.save()
    board.chips[0].state = Counters(1)
    board.chips[1].state = Counters(1, 2)
    board.blocks[1].view[:] = bytes(3 * PAGE_SIZE) + PAGE
    return stream


def section(name: str, number: int, value: int, *, instance: int = 0, version: int = 2, mark: int = 4) -> bytes:
    """04, u32 id, u8 length and name, u32 instance, u32 version; u32 value; 7e, u32 id."""
    head = bytes((mark,)) + number.to_bytes(4, "big") + bytes((len(name),)) + name.encode()
    footer = b"\x7e" + number.to_bytes(4, "big")
    return head + instance.to_bytes(4, "big") + version.to_bytes(4, "big") + value.to_bytes(4, "big") + footer


def parts_of(board: Board, stream: bytes) -> tuple[bytes, list[bytes], bytes]:
    """A stream up to its devices, their sections, and what is behind them."""
    ids = [entry.section_id for entry in board.subject.registry]
    sections = [
        section("timer-first", ids[0], 7),
        section("uart-first", ids[1], 8),
        section("uart-second", ids[2], 9),
        section("timer-first", ids[3], 1, instance=1),
    ]
    head, middle, tail = stream.partition(b"".join(sections))
    assert middle
    return head, sections, tail


def test_a_stream_is_loaded_as_it_was_saved(board: Board, stream: bytes) -> None:
    board.load(stream)
    assert [chip.state for chip in board.chips] == [Counters(7), Counters(8, 9), Counters(1)]
    assert bytes(board.blocks[1].view) == bytes(PAGE_SIZE) + PAGE + bytes(2 * PAGE_SIZE)
    assert board.save() == stream


def test_parts_adopt_in_the_order_of_registration_whatever_the_streams(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    board.load(head + b"".join(reversed(sections)) + tail)
    assert board.journal == ["timer", "uart", "timer"]
    assert board.save() == stream


def test_ram_may_come_behind_the_devices(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    board.load(head[:17] + b"".join(sections) + head[17:] + tail)
    assert board.save() == stream


def test_nothing_changes_before_a_loaded_stream_is_adopted(board: Board, stream: bytes) -> None:
    before = board.save()
    with savevm.load(board.subject, memoryview(stream), -1):
        assert board.save() == before
    assert board.save() == before
    assert not board.journal


def test_a_section_may_be_older_than_ours(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    number = next(iter(board.subject.registry)).section_id
    board.load(head + section("timer-first", number, 5, version=1) + b"".join(sections[1:]) + tail)
    assert board.chips[0].state.first == 5


@pytest.mark.parametrize("index", range(4))
def test_each_section_must_come_once(board: Board, stream: bytes, index: int) -> None:
    head, sections, tail = parts_of(board, stream)
    missing = board.refusal(head + b"".join(sections[:index] + sections[index + 1 :]) + tail)
    assert ": expected section " in str(missing)
    again = sections[index][:1] + b"\0\0\0\x63" + sections[index][5:-4] + b"\0\0\0\x63"
    assert "each section once" in str(board.refusal(head + b"".join([*sections, again]) + tail))
    assert "each section id once" in str(board.refusal(head + b"".join([*sections, sections[index]]) + tail))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (section("disk", 99, 1), "where this comes from), got disk"),
        (section("timer-first", 99, 1, instance=2), "where this comes from), got timer-first[2]"),
        (section("timer-first", 99, 1, mark=1), "where this comes from), got timer-first"),
        (section("di\nsk", 99, 1), r"got 'di\nsk'"),
        (b"\x02\0\0\0\x63", "expected the id of a section that was started, got 99"),
    ],
)
def test_a_section_that_the_machine_does_not_have_is_refused(
    board: Board, stream: bytes, extra: bytes, message: str
) -> None:
    head, sections, tail = parts_of(board, stream)
    for at in range(len(sections) + 1):
        error = board.refusal(head + b"".join([*sections[:at], extra, *sections[at:]]) + tail)
        assert message in str(error)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda number: section("uart-second", number, 9, version=3), "expected version 1 to 2, got 3"),
        (lambda number: section("uart-second", number, 9)[:-1] + b"\x63", "the footer of section"),
        (
            lambda number: section("uart-second", number, 9)[:-5] + b"\0" * 5,
            "the section's footer, 0x7e, got byte 0x00",
        ),
    ],
)
def test_a_wrong_section_is_refused_behind_good_ones(board: Board, stream: bytes, changed: Any, message: str) -> None:
    head, sections, tail = parts_of(board, stream)
    number = int.from_bytes(sections[2][1:5], "big")
    assert message in str(board.refusal(head + b"".join([*sections[:2], changed(number), sections[3]]) + tail))


def test_what_one_part_refuses_no_part_adopts(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    number = int.from_bytes(sections[3][1:5], "big")
    error = board.refusal(head + b"".join(sections[:3]) + section("timer-first", number, 1001, instance=1) + tail)
    assert (error.section, error.path) == ("timer-first", "first")
    assert stream[error.offset : error.offset + 4] == b"\0\0\0\1"  # where the section's payload begins


def test_a_stream_cut_anywhere_is_refused(board: Board, stream: bytes) -> None:
    whole = stream.rindex(b"\0\x06") + 1  # the description is nobody's concern
    for length in [*range(400), *range(400, whole, 97), *range(whole - 200, whole), whole + 1, len(stream) - 1]:
        board.refusal(stream[:length])
    board.load(stream[:whole])
    assert board.save() == stream


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"test", b"pest", "configuration name at byte 0xd: expected machine type test (see -M), got pest"),
        (
            b"\x03ram\0\0\0\0\0\0\0\4",
            b"\x03ram\0\0\0\0\0\0\0\5",
            "ram at byte 0x22: expected version 4, in parts, got 5",
        ),
        (b"\x03rom", b"\x03ron", "ram at byte 0x22: expected one of rom, ram, got a block ron"),
    ],
)
def test_another_machine_is_refused(board: Board, stream: bytes, old: bytes, new: bytes, message: str) -> None:
    assert message in str(board.refusal(stream.replace(old, new, 1)))


def test_a_stream_without_ram_is_refused(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    assert "expected section ram" in str(board.refusal(head[:17] + b"".join(sections) + tail))


def test_ram_that_is_not_ended_is_refused(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    end = head.rindex(b"\x03", 0, len(head) - 13)
    assert "expected section ram" in str(board.refusal(head[:end] + b"".join(sections) + tail))


def test_ram_that_goes_on_behind_its_end_is_refused(board: Board, stream: bytes) -> None:
    head, sections, tail = parts_of(board, stream)
    end = head[head.rindex(b"\x03", 0, len(head) - 13) :]
    assert "started, continued and ended once" in str(board.refusal(head + end + b"".join(sections) + tail))


def test_memory_that_cannot_be_exchanged_leaves_everything_as_it_was(
    board: Board, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, exchange = board.save(), RamBlock.exchange
    failures = iter([MemoryError("no more mappings")])

    def fail_once(block: RamBlock, staged: Any) -> None:
        if block.name == "ram" and (failure := next(failures, None)):
            raise failure
        exchange(block, staged)

    monkeypatch.setattr(RamBlock, "exchange", fail_once)
    with pytest.raises(ConfigError, match="cannot exchange the machine's memory: no more mappings"):
        board.load(stream)
    assert board.save() == before
    assert not board.journal


def test_memory_that_is_not_to_be_had_for_a_block_of_ours_alone_leaves_everything_as_it_was(
    board: Board, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream has none of that block, as one of an older machine has no tables for firmware."""

    def fail(_size: int) -> None:
        raise ConfigError("cannot map 4096 bytes of memory")

    with savevm.load(board.subject, memoryview(stream), -1) as loaded:
        board.blocks.append(RamBlock("ours", PAGE_SIZE))
        before = board.save()
        monkeypatch.setattr(savevm, "StagedMemory", fail)
        with pytest.raises(ConfigError, match="cannot map"):
            loaded.adopt(board.subject)
    assert board.save() == before
    assert not board.journal


# The mapped layout


@pytest.fixture
def mapped(stream: bytes) -> Iterator[int]:
    """The same in the mapped layout: a file's descriptor."""
    other = Board()
    other.load(stream)
    with tempfile.TemporaryFile() as file:
        savevm.save_mapped(other.subject, file.fileno(), {"taken": 1.0})
        yield file.fileno()
    for block in other.blocks:
        block.close()


def load_mapped(board: Board, file: int, length: int | None = None) -> None:
    data = os.pread(file, os.fstat(file).st_size, 0)[:length]
    with savevm.load(board.subject, memoryview(data), file) as loaded:
        loaded.adopt(board.subject)


def test_both_layouts_hold_the_same(board: Board, stream: bytes, mapped: int) -> None:
    load_mapped(board, mapped)
    assert board.save() == stream


def test_the_guests_stores_do_not_reach_the_file(board: Board, mapped: int) -> None:
    before = os.pread(mapped, os.fstat(mapped).st_size, 0)
    load_mapped(board, mapped)
    board.blocks[1].view[:] = b"w" * (4 * PAGE_SIZE)
    assert os.pread(mapped, len(before), 0) == before


def test_a_mapped_file_is_sealed(board: Board, mapped: int) -> None:
    before = board.save()
    data = os.pread(mapped, os.fstat(mapped).st_size, 0)
    position = data.index(b"uart-second") + 19
    os.pwrite(mapped, bytes((data[position] ^ 1,)), position)
    with pytest.raises(StreamError, match="expected a file as it was written"):
        load_mapped(board, mapped)
    assert board.save() == before


def test_a_capability_that_is_unknown_is_refused(board: Board, mapped: int) -> None:
    position = os.pread(mapped, 100, 0).index(b"mapped-ram")
    os.pwrite(mapped, b"Mapped-ram", position)
    with pytest.raises(FieldMismatchError, match="configuration capabilities at byte 0x40: expected no capability but"):
        load_mapped(board, mapped)
