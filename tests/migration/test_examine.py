"""Streams taken apart without a machine: QEMU's own, ours, cut, damaged and hostile ones."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.core.memory import PAGE_SIZE
from emulator.migration.blocklist import RamFlag
from emulator.migration.difference import MISSING, Difference, differences, ram_differences
from emulator.migration.errors import FramingError, RamError, StreamError, TruncatedError, VmdescError
from emulator.migration.examine import SECTION_LIMIT, Contents, Section, examine, printable
from emulator.migration.format import (
    DESCRIPTION_LIMIT,
    Configuration,
    Heading,
    Mark,
    find_description,
    put_end,
    put_footer,
    put_header,
    put_heading,
)
from emulator.migration.pagemap import BlockMap, Kind, merged
from emulator.migration.wire import Writer

STREAMS = Path(__file__).resolve().parents[1] / "data" / "streams"
RAM = Heading(Mark.START, 2, "ram", 0, 4)
PAGE = bytes(range(256)) * 16

U64_PAGE, U64_ZERO = RamFlag.PAGE, RamFlag.ZERO
AGAIN = RamFlag.CONTINUE


def sample(name: str) -> bytes:
    return lzma.decompress((STREAMS / f"{name}.stream.xz").read_bytes())


@pytest.fixture(scope="module")
def qemu_7_2() -> bytes:
    return sample("virt-7.2")


@pytest.fixture(scope="module")
def qemu_10_0() -> bytes:
    return sample("virt-10.0")


@pytest.fixture(scope="module")
def qemu_10_0_mapped() -> bytes:
    return sample("virt-10.0-mapped")


def look(data: bytes) -> Contents:
    return examine(memoryview(data))


def fields_of(contents: Contents, name: str) -> dict[str, Any]:
    section = next(section for section in contents.sections if str(section) == name)
    assert section.values is not None
    return section.values


# Streams made here, byte by byte


def ram(*records: bytes, sizes: dict[str, int] | None = None) -> bytes:
    """Section ram with these blocks and, in one part, these records."""
    sizes = {"a": 4 * PAGE_SIZE} if sizes is None else sizes
    writer = Writer()
    put_heading(writer, RAM)
    writer.u64(sum(sizes.values()) | RamFlag.MEM_SIZE)
    for name, size in sizes.items():
        writer.write(bytes((len(name),)) + name.encode("latin-1"))
        writer.u64(size)
    writer.u64(RamFlag.EOS)
    put_footer(writer, RAM.section_id)
    put_heading(writer, RAM._replace(mark=Mark.END))
    writer.write(b"".join(records))
    writer.u64(RamFlag.EOS)
    put_footer(writer, RAM.section_id)
    return bytes(writer.data)


def record(page: int, flags: int, content: bytes, block: str = "a") -> bytes:
    name = b"" if flags & AGAIN else bytes((len(block),)) + block.encode()
    return (page * PAGE_SIZE | flags).to_bytes(8, "big") + name + content


def device(name: str, payload: bytes, *, section_id: int = 7, instance_id: int = 0) -> bytes:
    writer = Writer()
    put_heading(writer, Heading(Mark.FULL, section_id, name, instance_id, 1))
    writer.write(payload)
    put_footer(writer, section_id)
    return bytes(writer.data)


def described(name: str, *fields: dict[str, Any], instance_id: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "instance_id": instance_id, "vmsd_name": name, "version": 1, "fields": list(fields), **more}


def stream(*sections: bytes, devices: list[dict[str, Any]] | None = None, **keys: Any) -> bytes:
    writer = Writer()
    put_header(writer, Configuration.of("virt"))
    for section in sections:
        writer.write(section)
    put_end(writer, json.dumps({"page_size": PAGE_SIZE, "devices": devices or [], **keys}).encode())
    return bytes(writer.data)


BYTE = {"name": "x", "type": "uint8", "size": 1}


# QEMU's


def test_qemu_7_2s_stream_is_read_to_its_end(qemu_7_2: bytes) -> None:
    contents = look(qemu_7_2)
    assert contents.error is None
    assert contents.configuration is not None
    assert contents.configuration.machine == "virt"
    assert [str(section) for section in contents.sections] == [
        *("ram", "timer", "cpu_common", "cpu", "riscv_mtimer", "riscv_sifive_plic", "0000:00:00.0/gpex_root"),
        *("PCIHost", "PCIBUS", "serial", "goldfish_rtc", "pflash_cfi01", "pflash_cfi01[1]", "fw_cfg", "globalstate"),
    ]
    assert [section.version_id for section in contents.sections] == [4, 2, 1, 5, 1, 1, 1, 1, 1, 3, 3, 1, 1, 2, 1]
    cpu = fields_of(contents, "cpu")
    assert cpu["env.pc"] == 0x80000054
    assert len(cpu["env.gpr"]) == 32
    assert cpu["env.pmu_ctrs"][31]["started"] is False
    assert len(cpu["cpu/pmp"]["env.pmp_state.pmp"]) == 16
    assert fields_of(contents, "riscv_mtimer") == {"timecmp": 0x992B20}
    assert fields_of(contents, "globalstate")["runstate"].rstrip(b"\0") == b"running"
    assert fields_of(contents, "fw_cfg")["fw_cfg/dma"] == {"dma_addr": 0}


def test_qemu_10_0s_stream_is_read_to_its_end(qemu_10_0: bytes) -> None:
    contents = look(qemu_10_0)
    assert contents.error is None
    assert contents.notes == {}
    assert {str(section): section.version_id for section in contents.sections}["cpu"] == 10
    assert "fw_cfg/acpi_mr" in fields_of(contents, "fw_cfg")


def test_all_values_are_as_many_bytes_as_the_sections_have(qemu_7_2: bytes, qemu_10_0: bytes) -> None:
    for data in (qemu_7_2, qemu_10_0):
        contents = look(data)
        begin = contents.sections[0].offset
        for section in contents.sections:
            # 10.0 sends a command of five bytes before the last part of RAM.
            assert section.offset - begin in (0, 5)
            begin = section.offset + section.size
        assert data[begin : begin + 2] == bytes((Mark.EOF, Mark.VMDESCRIPTION))


def test_qemu_streams_have_all_pages(qemu_7_2: bytes) -> None:
    block = look(qemu_7_2).blocks["riscv_virt_board.ram"]
    assert (block.size, block.pages) == (16 << 20, 4096)
    assert {kind: block.count(kind) for kind in Kind} == {Kind.DATA: 3, Kind.ZERO: 4093, Kind.ABSENT: 0}
    assert list(block.ranges(Kind.DATA)) == [(0, 1), (3584, 3586)]
    assert b"hello from riscv virt" in block.page(0)
    assert block.page(1) == bytes(PAGE_SIZE)


def test_mapped_pages_are_where_the_bitmap_says(qemu_10_0_mapped: bytes, qemu_10_0: bytes) -> None:
    contents = look(qemu_10_0_mapped)
    assert contents.error is None
    assert contents.configuration is not None
    assert contents.configuration.capabilities == ["mapped-ram"]
    block = contents.blocks["riscv_virt_board.ram"]
    assert {kind: block.count(kind) for kind in Kind} == {Kind.DATA: 3, Kind.ZERO: 0, Kind.ABSENT: 4093}
    assert list(block.ranges(Kind.DATA)) == [(0, 1), (3584, 3586)]
    assert block.page(0) == look(qemu_10_0).blocks["riscv_virt_board.ram"].page(0)


# RAM


def test_the_last_copy_of_a_page_counts() -> None:
    other = bytes(reversed(PAGE))
    contents = look(
        stream(
            ram(
                record(0, U64_PAGE, PAGE),
                record(1, U64_PAGE | AGAIN, PAGE),
                record(2, U64_ZERO | AGAIN, b"\0"),
                record(1, U64_PAGE | AGAIN, other),
                record(0, U64_ZERO | AGAIN, b"\0"),
                record(3, U64_ZERO | AGAIN, b"\x5a"),
            )
        )
    )
    assert contents.error is None
    block = contents.blocks["a"]
    assert [block.page(number) for number in range(4)] == [bytes(4096), other, bytes(4096), b"\x5a" * 4096]
    assert block.sent == {Kind.DATA: 4, Kind.ZERO: 2}
    assert [block.count(kind) for kind in Kind] == [2, 2, 0]
    assert block.stream_bytes == 3 * (8 + 4096) + 3 * 9 + 2


def test_pages_that_never_came_are_absent() -> None:
    block = look(stream(ram(record(2, U64_PAGE, PAGE)))).blocks["a"]
    assert [list(block.ranges(kind)) for kind in Kind] == [[(2, 3)], [], [(0, 2), (3, 4)]]


def test_shared_blocks_have_an_address_behind_their_size() -> None:
    writer = Writer()
    put_header(writer, Configuration.of("virt", "x-ignore-shared"))
    put_heading(writer, RAM)
    writer.u64(PAGE_SIZE | RamFlag.MEM_SIZE)
    writer.write(b"\x01a")
    writer.u64(PAGE_SIZE)
    writer.u64(0x80000000)  # its address
    writer.u64(RamFlag.EOS)
    put_footer(writer, RAM.section_id)
    put_end(writer, b'{"devices": []}')
    contents = look(bytes(writer.data))
    assert contents.error is None
    assert contents.blocks["a"].count(Kind.ABSENT) == 1


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (ram(record(4, U64_PAGE, PAGE)), RamError, "ram a at byte 0x46: expected an address below 0x4000, got 0x4000"),
        (ram(record(0, U64_PAGE, PAGE, "b")), RamError, "ram at byte 0x46: expected one of a, got a block b"),
        (ram(record(0, RamFlag.COMPRESSED, PAGE)), RamError, "ram at byte 0x46: expected a page, what has changed"),
        (ram(sizes={"a": 1 << 50}), RamError, "ram at byte 0x22: expected RAM of at most 17"),
        (ram(sizes={"a\x1b\n": PAGE_SIZE}) + ram(), StreamError, "expected each section id once, got 2 for ram again"),
    ],
    ids=["address", "block", "record", "size", "twice"],
)
def test_hostile_ram_is_refused(data: bytes, kind: type[StreamError], message: str) -> None:
    error = look(stream(data)).error
    assert isinstance(error, kind)
    assert message in str(error)


def test_touching_ranges_become_one() -> None:
    assert list(merged(iter([(0, 1), (1, 3), (5, 6), (6, 7)]))) == [(0, 3), (5, 7)]
    assert list(merged(iter([]))) == []


# Streams that say little


def test_without_a_description_sections_are_found_by_their_footers(qemu_7_2: bytes) -> None:
    mark, _ = find_description(memoryview(qemu_7_2))
    whole, bare = look(qemu_7_2), look(qemu_7_2[:mark])
    assert bare.error is None
    assert bare.description_size == 0

    def places(contents: Contents) -> list[tuple[Any, ...]]:
        return [(str(section), section.version_id, section.offset, section.size) for section in contents.sections]

    assert places(bare) == places(whole)
    assert all(section.values is None for section in bare.sections)
    assert list(bare.blocks) == list(whole.blocks)


def test_a_section_that_is_not_described_is_passed_over() -> None:
    contents = look(
        stream(device("a", b"\x7e\0\0\0\x07abc"), device("b", b"\5", section_id=8), devices=[described("b", BYTE)])
    )
    assert contents.error is None
    assert contents.sections[0].opaque == b"\x7e\0\0\0\x07abc"
    assert fields_of(contents, "b") == {"x": 5}


def test_notes_are_kept() -> None:
    note = {"taken": 1.5, "blocks": {"ram": "00"}}
    contents = look(stream(devices=[], configuration={}, **{"mini-qemu": note}))
    assert contents.notes == {"mini-qemu": note}


def test_names_for_people_have_no_control_characters() -> None:
    assert printable("cpu/pmp") == "cpu/pmp"
    assert printable("\x1b[2J\n\ud800") == r"\x1b[2J\n\ud800"


# Damage


@pytest.fixture(scope="module")
def short(qemu_7_2: bytes) -> bytes:
    """QEMU 7.2's devices behind little RAM, so that each way of damaging them takes little time."""
    devices = look(qemu_7_2).sections[1].offset
    writer = Writer()
    put_header(writer, Configuration.of("virt"))
    pages = ram(record(0, U64_PAGE, PAGE), record(1, U64_ZERO | AGAIN, b"\0"))
    return bytes(writer.data) + pages + qemu_7_2[devices:]


def check_said(contents: Contents, size: int) -> None:
    """An error, if there is one, is one printable line, and says where unless the JSON is what is wrong."""
    if (error := contents.error) is not None:
        assert str(error).isprintable()
        if not isinstance(error, VmdescError):
            assert error.offset is not None
            assert 0 <= error.offset <= size


def test_every_truncation_is_told_and_the_rest_is_shown(short: bytes) -> None:
    assert look(short).error is None
    mark, text = find_description(memoryview(short))
    seen = -1
    for length in [*range(mark), *range(mark + 1, len(short), 61)]:
        contents = look(short[:length])
        assert isinstance(contents.error, TruncatedError | FramingError), length
        check_said(contents, length)
        assert len(contents.sections) >= seen
        seen = len(contents.sections)
    assert seen == 15
    assert len(text) > 61


def test_a_flipped_bit_anywhere_is_told_or_shown(short: bytes) -> None:
    ram_ends = look(short).sections[1].offset
    mark, _ = find_description(memoryview(short))
    for offset in [*range(100), *range(ram_ends - 100, mark + 6), *range(mark + 6, len(short), 29)]:
        damaged = bytearray(short)
        damaged[offset] ^= 1 << offset % 8
        check_said(look(bytes(damaged)), len(short))


def test_what_a_section_held_before_the_error_is_kept() -> None:
    fields = [BYTE, {"name": "y", "type": "uint64", "size": 8}]
    contents = look(stream(device("a", b"\5\0\0"), devices=[described("a", *fields)])[:40])
    assert contents.error is not None
    contents = look(
        stream(device("a", b"\5" + bytes(8)), devices=[described("a", BYTE, fields[1] | {"size": 1 << 40})])
    )
    assert str(contents.error) == "a y at byte 0x21: expected 1099511627776 bytes, got only 227"
    assert fields_of(contents, "a") == {"x": 5}


@pytest.mark.parametrize("data", [b"", b"Q", b"QEVM", b"\x7fELF" + bytes(60), b"QEVM\0\0\0\2\x07"])
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    contents = look(data)
    assert contents.configuration is None
    assert contents.error is not None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_raise(noise: bytes) -> None:
    for data in (noise, b"QEVM\0\0\0\3\x07\0\0\0\4virt" + noise):
        check_said(look(data), len(data))


SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 1 << 70) | st.sampled_from(["x", "uint8", "struct", "tmp", "\x1b"])
)
ENTRIES = st.recursive(
    st.dictionaries(st.sampled_from(["name", "type", "size", "array_len", "index"]), SCALARS | st.integers(0, 4)),
    lambda inner: st.fixed_dictionaries(
        {"name": st.sampled_from("xyz"), "type": st.sampled_from(["struct", "vstruct"]), "size": st.integers(0, 9)},
        optional={
            "struct": st.fixed_dictionaries({"fields": st.lists(inner, max_size=3)}),
            "fields": st.lists(inner, max_size=3),
            "array_len": st.integers(0, 3),
            "index": st.integers(0, 1),
        },
    ),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {"name": st.sampled_from("xyz"), "type": st.sampled_from(["uint8", "bool", "buffer", "timer", "CPU_Double_U"])},
    optional={"size": st.integers(0, 9), "array_len": st.integers(0, 3), "index": st.integers(0, 1)},
)


@settings(max_examples=500, deadline=None)
@given(st.lists(FIELDS | ENTRIES, max_size=5), st.lists(ENTRIES, max_size=2), st.binary(max_size=40))
def test_hostile_descriptions_never_raise(fields: list[Any], subsections: list[Any], payload: bytes) -> None:
    data = stream(device("a", payload), devices=[described("a", *fields, subsections=subsections)])
    check_said(look(data), len(data))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"devices": 1}, "stream: expected a list of objects under devices, got 1"),
        ({"page_size": 65536}, "stream: expected pages of 4096 bytes, got 65536"),
        ({"page_size": []}, "stream: expected pages of 4096 bytes, got []"),
        ({"mini-qemu": float("nan")}, "stream: expected finite numbers, got nan"),
        ({"mini-qemu": [[[[[[[[[[]]]]]]]]]]}, "stream: expected notes at most 8 deep, got more"),
        ({"mini-qemu": 1 << 70}, "stream: expected numbers of at most 64 bits, got more"),
    ],
)
def test_json_that_cannot_be_used_is_told_after_all_that_can(keys: dict[str, Any], message: str) -> None:
    devices = {} if "devices" in keys else {"devices": [described("a", BYTE)]}
    contents = look(stream(ram(), device("a", b"\1"), **{**devices, **keys}))
    assert isinstance(contents.error, VmdescError)
    assert str(contents.error).startswith(message)
    assert [str(section) for section in contents.sections] == ["ram", "a"]
    assert contents.sections[1].opaque == b"\1"


@pytest.mark.parametrize("text", [b"{" * 50_000, b'{"devices": ' + b"[" * 50_000 + b"]}", b"{\xff}"])
def test_json_that_is_none_is_told(text: bytes) -> None:
    writer = Writer()
    put_header(writer, Configuration.of("virt"))
    put_end(writer, text)
    assert isinstance(look(bytes(writer.data)).error, VmdescError)


def test_json_without_end_is_refused() -> None:
    error = look(stream(device("a", b"\1"), devices=[described("a", BYTE)], note="x" * DESCRIPTION_LIMIT)).error
    assert "expected a description of at most" in str(error)


def test_values_and_sections_are_bounded() -> None:
    nothing = {"name": "x", "type": "buffer", "size": 0, "array_len": 200_000}
    twice = [device("a", b"", section_id=7), device("b", b"", section_id=8)]
    error = look(stream(*twice, devices=[described("a", nothing), described("b", nothing)])).error
    assert isinstance(error, VmdescError)
    many = b"".join(device("a", b"", section_id=number, instance_id=number) for number in range(SECTION_LIMIT + 1))
    contents = look(stream(many))
    assert len(contents.sections) == SECTION_LIMIT
    assert f"expected at most {SECTION_LIMIT} sections, each once" in str(contents.error)
    assert "a again" in str(look(stream(device("a", b""), device("a", b"", section_id=8))).error)


MEASURE = """
import sys
from pathlib import Path
from emulator.migration.examine import examine
from emulator.migration.pagemap import Kind
data = Path(sys.argv[1]).read_bytes()
before = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
contents = examine(memoryview(data))
for block in contents.blocks.values():
    [block.count(kind) for kind in Kind]
after = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(after - before, len(data) // 1024)
"""


def scattered() -> bytes:
    records = [record(0, U64_ZERO, b"\0"), *(record(page, U64_ZERO | AGAIN, b"\0") for page in range(0, 4 << 20, 512))]
    return stream(ram(*records, sizes={"a": 16 << 30}))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, as Linux has it")
@pytest.mark.parametrize(
    "make",
    [
        lambda: stream(ram(sizes={"a": 1 << 62})),
        lambda: stream(ram(sizes={"a": 16 << 30})),
        scattered,
        lambda: stream(devices=[{}] * 300_000),
        lambda: stream(**{"mini-qemu": [[]] * 250_000}),
        lambda: stream(**{"mini-qemu": "x" * (15 << 20)}),
        lambda: stream(
            device("a", bytes(4_000_000)),
            devices=[described("a", {"name": "x", "type": "uint16", "size": 16, "array_len": 250_000})],
        ),
        lambda: stream(
            device("a", b""),
            devices=[
                described(
                    "a",
                    {"name": "x", "type": "struct", "size": 0, "array_len": 120_000, "struct": {"fields": []}},
                )
            ],
        ),
    ],
    ids=["huge", "large", "scattered", "objects", "lists", "text", "numbers", "structs"],
)
def test_no_file_costs_more_memory_than_its_size_and_64_mib(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(make())
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    grown, size = map(int, done.stdout.split())
    assert grown <= size + (64 << 10)


# Differences


def field_differences(first: bytes, second: bytes) -> list[Difference]:
    return list(differences(look(first), look(second)))


def test_a_stream_does_not_differ_from_itself(qemu_7_2: bytes) -> None:
    assert field_differences(qemu_7_2, qemu_7_2) == []
    assert list(ram_differences(look(qemu_7_2), look(qemu_7_2))) == []


def test_every_changed_field_is_named() -> None:
    config = {"name": "config[0]", "type": "pci config", "size": 4}
    array = {"name": "r", "type": "uint16", "size": 2, "array_len": 3}
    nested = {"name": "s", "type": "struct", "size": 1, "struct": {"fields": [BYTE]}}
    devices = [described("a", BYTE, array, nested, config)]
    first = stream(device("a", bytes.fromhex("01 0001 0002 0003 04 00000000")), devices=devices)
    second = stream(device("a", bytes.fromhex("01 0001 0007 0003 05 00aabb00")), devices=devices)
    assert field_differences(first, second) == [
        Difference("a", "r[1]", 2, 7),
        Difference("a", "s.x", 4, 5),
        Difference("a", "config[0][0x1..0x2]", b"\0\0", b"\xaa\xbb"),
    ]


def test_what_only_one_has_is_named() -> None:
    subsection = {"vmsd_name": "a/s", "version": 2, "fields": [BYTE]}
    first = stream(device("a", b"\1"), devices=[described("a", BYTE)])
    second = stream(
        device("a", b"\1\5\3a/s\0\0\0\2\7", section_id=1),
        device("b", b"", section_id=9, instance_id=1),
        devices=[described("a", BYTE, subsections=[subsection]), described("b", instance_id=1)],
    )
    assert field_differences(first, second) == [
        Difference("a", "a/s", MISSING, {"x": 7}),
        Difference("b[1]", "", MISSING, "version 1"),
    ]
    assert field_differences(second, first)[1] == Difference("b[1]", "", "version 1", MISSING)


def test_arrays_of_different_lengths_and_versions() -> None:
    def made(length: int, version: int) -> bytes:
        array = {"name": "r", "type": "uint8", "size": 1, "array_len": length}
        data = bytearray(stream(device("a", bytes(length)), devices=[described("a", array)]))
        data[data.index(b"\x01a") + 9] = version
        return bytes(data)

    assert field_differences(made(2, 1), made(3, 4)) == [
        Difference("a", "version_id", 1, 4),
        Difference("a", "r[2]", MISSING, 0),
    ]


def test_undescribed_sections_are_compared_as_they_are() -> None:
    first, second = stream(device("a", b"abc")), stream(device("a", b"abd"))
    assert field_differences(first, second) == [Difference("a", "[0x2]", b"c", b"d")]
    known = stream(device("a", b"\1"), devices=[described("a", BYTE)])
    assert field_differences(first, known) == [Difference("a", "", "not described", "described")]


def test_not_a_number_equals_itself() -> None:
    devices = [described("a", {"name": "f", "type": "CPU_Double_U", "size": 8})]
    data = stream(device("a", b"\x7f\xf8" + bytes(6)), devices=devices)
    assert field_differences(data, data) == []


def test_long_buffers_with_many_changes_are_one_difference() -> None:
    devices = [described("a", {"name": "b", "type": "buffer", "size": 1000})]
    first, second = (stream(device("a", text), devices=devices) for text in (bytes(1000), b"\0\1" * 500))
    assert [(row.path, len(row.first)) for row in field_differences(first, second)] == [("b[0x1..0x3e7]", 999)]


def test_pages_differ_by_content_not_by_how_they_were_sent() -> None:
    first = look(
        stream(
            ram(record(0, U64_PAGE, PAGE), record(1, U64_PAGE | AGAIN, bytes(4096)), record(3, U64_ZERO | AGAIN, b"\1"))
        )
    )
    second = look(
        stream(
            ram(
                record(1, U64_ZERO, b"\0"), record(0, U64_PAGE | AGAIN, PAGE), record(3, U64_PAGE | AGAIN, b"\2" * 4096)
            )
        )
    )
    assert [(row.block, row.pages) for row in ram_differences(first, second)] == [("a", [(3, 4)])]


def test_blocks_that_differ_in_size_or_are_missing() -> None:
    first = look(stream(ram(sizes={"a": 4096, "b": 4096})))
    second = look(stream(ram(sizes={"a": 8192, "c": 4096})))
    assert [(row.block, row.sizes, row.pages) for row in ram_differences(first, second)] == [
        ("a", (4096, 8192), []),
        ("b", (4096, None), []),
        ("c", (None, 4096), []),
    ]


def test_a_stream_and_a_mapped_file_of_one_guest_can_be_compared(qemu_10_0: bytes, qemu_10_0_mapped: bytes) -> None:
    rows = list(differences(look(qemu_10_0), look(qemu_10_0_mapped)))
    assert {row.section for row in rows} == {
        *("timer", "cpu", "riscv_mtimer", "fw_cfg", "goldfish_rtc", "virt_acpi_build"),
    }
    ram_rows = {row.block: row.pages for row in ram_differences(look(qemu_10_0), look(qemu_10_0_mapped)) if row.pages}
    assert ram_rows == {"riscv_virt_board.ram": [(3584, 3585)]}


def test_sections_and_blocks_say_who_they_are() -> None:
    assert str(Section("serial", 2, 3, 9, 0)) == "serial[2]"
    assert BlockMap("a", PAGE_SIZE, memoryview(b"")).pages == 1
