"""Snapshot files that are not as they were written: what verify, list and loadvm say of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Machine
from emulator.core.errors import EmulatorError, ForeignError
from emulator.core.memory import PAGE_SIZE
from emulator.migration import mappedram
from emulator.migration.errors import ChecksumError, FieldRangeError
from emulator.migration.snapshots import areas_of

RAM = 0x8000_0000
MAIN = "riscv_virt_board.ram"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def machine(directory: Path) -> Iterator[Machine]:
    with Machine("virt", ram="16M", snapshots=directory) as machine:
        machine.write(RAM, b"hello")
        machine.write(RAM + 40 * PAGE_SIZE, b"world")
        yield machine


def fingerprint(machine: Machine) -> str:
    ram = hashlib.sha256(machine.read(RAM, machine.config.ram_size)).hexdigest()
    return f"{machine.cpu.registers()} {machine.virtual_time} {ram}"


def area_of(path: Path, name: str) -> mappedram.Area:
    return next(area for area in areas_of(memoryview(path.read_bytes())) if area.name == name)


def places_outside_of_pages(path: Path) -> list[int]:
    """Offsets of the bytes of a file that are neither pages nor the gap before them."""
    data = memoryview(path.read_bytes())
    areas = areas_of(data)
    begins = [0, *(area.pages_end for area in areas)]
    parts = mappedram.outside_of_pages(data, areas)
    return [begin + n for begin, part in zip(begins, parts, strict=True) for n in range(len(part))]


def alter(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ 1,)))


def test_altered_page_is_found_by_verify_which_names_the_block(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    machine.snapshots.verify("a")
    path = directory / "a.snapshot"
    alter(path, area_of(path, MAIN).pages_offset + 40 * PAGE_SIZE + 3)
    with pytest.raises(ChecksumError, match=rf"^{MAIN}: expected pages of {MAIN} with checksum [0-9a-f]{{32}}, got"):
        machine.snapshots.verify("a")


@pytest.mark.parametrize("page", [1, 39, 41, 4095])
def test_data_where_there_was_no_page_is_found_too(machine: Machine, directory: Path, page: int) -> None:
    machine.savevm("a")
    path = directory / "a.snapshot"
    place = area_of(path, MAIN).pages_offset + page * PAGE_SIZE
    alter(path, place + PAGE_SIZE - 1)
    with pytest.raises(ChecksumError, match=rf"^{MAIN} at byte 0x{place:x}: expected page {page} to be zero, got data"):
        machine.snapshots.verify("a")


def test_altered_state_is_refused_when_it_is_loaded(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    path = directory / "a.snapshot"
    before, good = fingerprint(machine), path.stat()
    places = places_outside_of_pages(path)
    for place in places[:: len(places) // 150]:
        alter(path, place)
        with pytest.raises(EmulatorError) as loaded:
            machine.loadvm("a")
        with pytest.raises(EmulatorError) as verified:
            machine.snapshots.verify("a")
        assert "\n" not in f"{loaded.value}{verified.value}"
        alter(path, place)
    assert fingerprint(machine) == before
    machine.loadvm("a")
    assert path.stat().st_size == good.st_size


def test_altered_device_state_is_refused_for_its_checksum(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    path = directory / "a.snapshot"
    alter(path, path.read_bytes().rindex(b"serial\0") + 30)
    with pytest.raises(ChecksumError, match="expected a file as it was written, got one with another checksum"):
        machine.loadvm("a")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999999])
def test_file_cut_short_is_listed_as_damaged_and_can_be_deleted(machine: Machine, directory: Path, part: float) -> None:
    machine.savevm("good")
    machine.savevm("a")
    path = directory / "a.snapshot"
    os.truncate(path, int(path.stat().st_size * part))
    snapshots, damaged = machine.snapshots.examine()
    assert [snapshot.tag for snapshot in snapshots] == ["good"]
    assert list(damaged) == ["a"]
    assert machine.snapshots.tags() == ["a", "good"]
    for act in (machine.loadvm, machine.snapshots.verify):
        with pytest.raises(EmulatorError):
            act("a")
    machine.snapshots.delete("a")
    assert machine.snapshots.tags() == ["good"]


def test_stream_file_is_no_snapshot(machine: Machine, directory: Path) -> None:
    directory.mkdir()
    machine.save(directory / "a.snapshot")
    with pytest.raises(ForeignError, match="not a snapshot: its RAM is not in the mapped layout"):
        raise machine.snapshots.examine()[1]["a"]
    for act in (machine.loadvm, machine.snapshots.verify):
        with pytest.raises(ForeignError, match="not a snapshot: its RAM is not in the mapped layout"):
            act("a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("taken", value) for value in (None, "now", 5, True, -1.0, 1e400, 1e300, float("nan"))),
        *(("virtual_clock", value) for value in (None, 1.5, -1, 1 << 63, 10**400)),
        *(("ram_size", value) for value in (None, "16M", -1, 10**400)),
        *(("icount", value) for value in ("0", 1.0, True, -1, 10**400)),
        *(("machine", value) for value in ("\x1b[31mvirt", "a\nb")),
    ],
)
def test_note_that_makes_no_sense_is_damage(machine: Machine, directory: Path, name: str, value: object) -> None:
    machine.savevm("a")
    path = directory / "a.snapshot"
    data = path.read_bytes()
    begin = data.rindex(b"\0") + 1
    begin = data.index(b"{", begin)
    description = json.loads(data[begin:])
    description["mini-qemu"][name] = value
    text = json.dumps(description).encode()
    path.write_bytes(data[: begin - 4] + len(text).to_bytes(4, "big") + text)
    assert list(machine.snapshots) == []
    error = machine.snapshots.examine()[1]["a"]
    assert isinstance(error, FieldRangeError)
    assert error.path == f"mini-qemu.{name}"
    for act in (machine.loadvm, machine.snapshots.verify):
        with pytest.raises(FieldRangeError, match=f"^{re.escape(str(error))}$"):
            act("a")
