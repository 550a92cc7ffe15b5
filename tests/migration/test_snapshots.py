"""Named snapshots in a directory: saved, listed, loaded, deleted."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from emulator import Machine
from emulator.core.errors import ConfigError, FileError, SnapshotError
from emulator.core.memory import PAGE_SIZE
from emulator.migration.errors import StreamError
from emulator.migration.files import SUFFIX
from emulator.migration.snapshots import NAME_LIMIT, TAG_LIMIT, SnapshotDirectory, default_directory

RAM = 0x8000_0000


def new_machine(directory: Path, ram: str = "16M", icount: int | None = None) -> Machine:
    return Machine("virt", ram=ram, icount=icount, snapshots=directory)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def machine(directory: Path) -> Iterator[Machine]:
    with new_machine(directory) as machine:
        machine.write(RAM, b"hello")
        machine.write(RAM + 40 * PAGE_SIZE, b"world")
        machine.cpu["x5"] = 5
        yield machine


def fingerprint(machine: Machine) -> str:
    ram = hashlib.sha256(machine.read(RAM, machine.config.ram_size)).hexdigest()
    return f"{machine.cpu.registers()} {machine.virtual_time} {ram}"


# Saving, and going back


def test_machine_is_again_what_it_was(machine: Machine) -> None:
    before = fingerprint(machine)
    machine.savevm("a")
    machine.write(RAM, b"other")
    machine.cpu["x5"] = 6
    machine.loadvm("a")
    assert fingerprint(machine) == before


def test_any_machine_of_the_kind_becomes_it(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    with new_machine(directory) as other:
        other.loadvm("a")
        assert fingerprint(other) == fingerprint(machine)


def test_newer_snapshot_takes_the_tag(machine: Machine) -> None:
    machine.savevm("a")
    machine.write(RAM, b"other")
    machine.savevm("a")
    machine.write(RAM, b"third")
    machine.loadvm("a")
    assert machine.read(RAM, 5) == b"other"
    assert machine.snapshots.tags() == ["a"]


@pytest.mark.parametrize("then", ["replaced", "deleted"])
def test_machine_keeps_the_memory_of_a_snapshot_that_is_gone(machine: Machine, directory: Path, then: str) -> None:
    block = machine.board.ram_blocks[0]
    for page in range(machine.config.ram_size // PAGE_SIZE):
        machine.board.bus.write_ram(RAM + page * PAGE_SIZE, page.to_bytes(4, "little") * (PAGE_SIZE // 4))
    machine.savevm("a")
    before = fingerprint(machine)
    with new_machine(directory) as other:
        other.loadvm("a")  # and its pages are still in the file
        if then == "deleted":
            other.snapshots.delete("a")
        else:
            machine.write(RAM, bytes(block.size and machine.config.ram_size))
            machine.savevm("a")
        assert fingerprint(other) == before
        other.savevm("b")
        other.write(RAM, b"other")
        other.loadvm("b")
        assert fingerprint(other) == before


def test_snapshot_can_be_saved_over_the_one_that_is_in_use(machine: Machine) -> None:
    before = fingerprint(machine)
    for _ in range(3):
        machine.savevm("a")
        machine.loadvm("a")
        machine.snapshots.verify("a")
    assert fingerprint(machine) == before


def test_loading_another_machines_snapshot_changes_nothing(machine: Machine, directory: Path) -> None:
    for tag, options in (("large", {"ram": "32M"}), ("counted", {"icount": 3})):
        with new_machine(directory, **options) as other:  # type: ignore[arg-type]
            other.savevm(tag)
    before = fingerprint(machine)
    with pytest.raises(StreamError, match=r"\.ram at byte .*\(is -m the same as where this comes from, 32M\?\)"):
        machine.loadvm("large")
    with pytest.raises(StreamError, match="a machine with -icount shift=3"):
        machine.loadvm("counted")
    assert fingerprint(machine) == before


def test_snapshot_that_is_not_there_is_told_with_the_one_that_may_be_meant(machine: Machine, directory: Path) -> None:
    with pytest.raises(SnapshotError, match=rf"^there is no snapshot 'a' in '{directory}'$"):
        machine.loadvm("a")
    machine.savevm("booted")
    for act in (machine.loadvm, machine.snapshots.delete, machine.snapshots.verify):
        with pytest.raises(SnapshotError, match=r"no snapshot 'boted' in .* \(did you mean 'booted'\?\)$"):
            act("boted")


def test_deleted_snapshot_is_gone(machine: Machine) -> None:
    machine.savevm("a")
    machine.savevm("b")
    machine.snapshots.delete("a")
    assert machine.snapshots.tags() == ["b"]


# Tags


@pytest.mark.parametrize(
    "tag",
    [
        *(".", "..", ".hidden", "a b", " a ", "../up", "/etc/passwd", "50%", "%41", "a\\b", '"quoted"', "'", "*?[a]"),
        *(
            "-rf",
            "~",
            "a.snapshot",
            ".snapshot",
            "\N{LATIN SMALL LETTER E WITH ACUTE}t\xe9",
            "\U0001f98a",
            "CON",
            "a:b",
        ),
        "x" * TAG_LIMIT,
    ],
)
def test_any_printable_name_is_a_tag(machine: Machine, directory: Path, tag: str) -> None:
    machine.savevm(tag)
    assert machine.snapshots.tags() == [tag]
    assert [snapshot.tag for snapshot in machine.snapshots] == [tag]
    machine.loadvm(tag)
    assert [path.parent for path in directory.rglob("*")] == [directory]
    machine.snapshots.delete(tag)
    assert machine.snapshots.tags() == []


@pytest.mark.parametrize("tag", ["", "x" * (TAG_LIMIT + 1), "a\nb", "\x1b[31m", "\0", "\udcff", "a\u202eb"])
def test_name_that_cannot_be_shown_is_refused(machine: Machine, directory: Path, tag: str) -> None:
    with pytest.raises(SnapshotError, match="1 to 128 printable characters"):
        machine.savevm(tag)
    with pytest.raises(SnapshotError):
        machine.loadvm(tag)
    assert not directory.exists()


def test_name_too_long_for_a_file_is_refused(machine: Machine, directory: Path) -> None:
    with pytest.raises(SnapshotError, match="too long for a file"):
        machine.savevm("/" * (NAME_LIMIT // 3))
    assert not directory.exists()


def test_snapshot_without_a_name_is_called_after_the_time_and_replaces_none(machine: Machine) -> None:
    tags = [machine.savevm() for _ in range(5)]
    assert len(set(tags)) == 5
    assert sorted(machine.snapshots.tags()) == sorted(tags)
    assert all(re.fullmatch(r"vm-20\d{12}(-\d)?", tag) for tag in tags)


# Listing


def test_listing_says_when_and_what_it_was(machine: Machine, directory: Path) -> None:
    began = time.time()
    machine.savevm("a")
    (snapshot,) = machine.snapshots
    assert (snapshot.tag, snapshot.path, snapshot.machine) == ("a", directory / "a.snapshot", "virt")
    assert began <= snapshot.taken <= time.time()
    assert (snapshot.virtual_clock, snapshot.icount) == (machine.virtual_time, None)
    assert snapshot.ram_size == 16 << 20
    assert 0 < snapshot.disk_size < 1 << 20  # what is zero takes no room
    assert snapshot.path.stat().st_size > snapshot.ram_size


def test_listing_counts_instructions_where_they_are_counted(directory: Path) -> None:
    with new_machine(directory, icount=3) as machine:
        machine.savevm("a")
        assert [snapshot.icount for snapshot in machine.snapshots] == [0]


def test_oldest_comes_first(machine: Machine) -> None:
    for tag in "cab":
        machine.savevm(tag)
    assert [snapshot.tag for snapshot in machine.snapshots] == ["c", "a", "b"]
    assert machine.snapshots.tags() == ["a", "b", "c"]


def test_copied_and_renamed_file_is_a_snapshot_under_its_new_name(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    (directory / "b.snapshot").write_bytes((directory / "a.snapshot").read_bytes())
    (directory / "a.snapshot").rename(directory / "c d.snapshot")
    assert machine.snapshots.tags() == ["b", "c d"]
    machine.snapshots.verify("b")
    machine.loadvm("c d")


def test_other_files_are_no_snapshots(machine: Machine, directory: Path) -> None:
    machine.savevm("a")
    for name in ("notes.txt", ".hidden.snapshot", f".b.1{SUFFIX}", "%1b[31m.snapshot", "%61.snapshot", ".snapshot"):
        (directory / name).write_bytes(b"?")
    (directory / "directory.snapshot").mkdir()
    os.mkfifo(directory / "pipe.snapshot")
    (directory / "nowhere.snapshot").symlink_to("missing")
    assert machine.snapshots.tags() == ["a"]
    assert machine.snapshots.examine()[1] == {}


def test_no_directory_holds_no_snapshots(tmp_path: Path) -> None:
    snapshots = SnapshotDirectory(tmp_path / "nowhere")
    assert (list(snapshots), snapshots.tags()) == ([], [])


def test_what_is_no_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, why in (("file", "Not a directory"), ("file/below", "Not a directory"), ("loop", "Too many levels")):
        snapshots = SnapshotDirectory(tmp_path / name)
        for look in (snapshots.tags, snapshots.__iter__, partial(snapshots.delete, "a")):
            with pytest.raises(FileError, match=rf"^cannot read '.*': {why}"):
                look()


def test_default_directory_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_directory("virt") == tmp_path / "mini-qemu/snapshots/virt"
    with Machine("virt", ram="16M") as machine:
        machine.savevm("a")
        assert (tmp_path / "mini-qemu/snapshots/virt/a.snapshot").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    for useless in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", useless)
        assert default_directory("virt") == tmp_path / ".local/state/mini-qemu/snapshots/virt"


def test_user_without_a_home_is_asked_for_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, object]().__getitem__)  # as for a user that no file knows
    with pytest.raises(ConfigError, match="choose a directory"):
        default_directory("virt")


# What cannot be written


def test_directory_that_cannot_be_made_is_one_line_and_the_machine_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        with new_machine(tmp_path / name) as machine:
            before = fingerprint(machine)
            with pytest.raises(FileError, match=r"^cannot create '.*': (File exists|Not a directory)$"):
                machine.savevm("a")
            assert fingerprint(machine) == before


def test_directory_in_the_snapshots_place_is_one_line(machine: Machine, directory: Path) -> None:
    (directory / "a.snapshot").mkdir(parents=True)
    with pytest.raises(FileError, match="Is a directory"):
        machine.savevm("a")
