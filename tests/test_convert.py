"""`mini-qemu convert`: streams of one QEMU for another."""

from __future__ import annotations

import lzma
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulator import Machine, Serial
from emulator.boards.machinetypes import MACHINE_TYPES, MachineType
from emulator.cli import cli
from emulator.convert import convert
from emulator.core.errors import FileError
from emulator.migration.examine import Contents, examine
from emulator.migration.files import SUFFIX
from emulator.migration.snapshots import SnapshotDirectory

STREAMS = Path(__file__).parent / "data" / "streams"
V7_2, V10_0 = MACHINE_TYPES["virt-7.2"], MACHINE_TYPES["virt-10.0"]
TOY = Path(__file__).parents[1] / "firmware/prebuilt/toy.elf"


@pytest.fixture
def stream(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A sample of a real QEMU's."""
    path = tmp_path / "in"
    path.write_bytes(lzma.decompress((STREAMS / f"{request.param}.stream.xz").read_bytes()))
    return path


def payloads(path: Path) -> list[tuple[str, bytes]]:
    """All sections but RAM, without their headings."""
    data = path.read_bytes()
    contents = examine(memoryview(data))
    assert contents.error is None
    sections = (each for each in contents.sections if each.name != "ram")
    return [(str(each), data[each.offset + 5 : each.offset + each.size - 5]) for each in sections]


def contents_of(path: Path) -> Contents:
    contents = examine(memoryview(path.read_bytes()))
    assert contents.error is None
    return contents


@pytest.mark.parametrize(
    ("stream", "to"), [("virt-7.2", V7_2), ("virt-10.0", V10_0), ("virt-10.0-mapped", V10_0)], indirect=["stream"]
)
def test_every_section_of_the_same_version_is_equal_to_the_byte(stream: Path, to: MachineType, tmp_path: Path) -> None:
    said: list[str] = []
    convert(stream, tmp_path / "out", to, cure=False, say=said.append)
    assert payloads(tmp_path / "out") == payloads(stream)
    assert list(contents_of(tmp_path / "out").blocks) == list(contents_of(stream).blocks)
    assert said == []


@pytest.mark.parametrize("stream", ["virt-7.2"], indirect=True)
def test_there_and_back_is_equal_to_the_byte(stream: Path, tmp_path: Path) -> None:
    convert(stream, tmp_path / "out", V10_0, cure=False, layout="mapped")
    assert ("cpu", 10) in [(each.name, each.version_id) for each in contents_of(tmp_path / "out").sections]
    convert(tmp_path / "out", tmp_path / "back", V7_2, cure=False, layout="classic")
    assert payloads(tmp_path / "back") == payloads(stream)


@pytest.mark.parametrize("stream", ["virt-10.0"], indirect=True)
def test_tables_are_left_out_for_who_does_not_know_them_and_that_is_told(stream: Path, tmp_path: Path) -> None:
    said: list[str] = []
    convert(stream, tmp_path / "out", V7_2, say=said.append)
    after = contents_of(tmp_path / "out")
    assert not any(name.startswith("/rom@") for name in after.blocks)
    assert "virt_acpi_build" not in [each.name for each in after.sections]
    assert [line.partition(":")[0] for line in said[:3]] == [
        "/rom@etc/acpi/tables",
        "/rom@etc/table-loader",
        "/rom@etc/acpi/rsdp",
    ]
    for line in (
        "cpu version_id: 0xa, now 0x5 (another layout)",
        "fw_cfg fw_cfg/acpi_mr: present, left out (ACPI tables: the guest's firmware has read them)",
        "virt_acpi_build: version 1, left out (ACPI tables: the guest's firmware has read them)",
        'globalstate runstate: "running" (32 bytes), now "running" (100 bytes) (the same run state)',
    ):
        assert line in said


@pytest.mark.parametrize("stream", ["virt-7.2"], indirect=True)
def test_the_timer_is_cured_unless_that_is_not_wanted(stream: Path, tmp_path: Path) -> None:
    for cure, expected in ((True, 0x80), (False, 0)):
        convert(stream, tmp_path / "out", V7_2, cure=cure)
        (cpu,) = (each for each in contents_of(tmp_path / "out").sections if each.name == "cpu")
        assert cpu.values is not None
        assert cpu.values["env.mip"] == expected


def test_what_the_guest_would_miss_is_refused_unless_forced(tmp_path: Path) -> None:
    """Which floating-point exceptions have happened has no place on QEMU's wire."""
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=60)
        machine.call(lambda: machine.transfer.runner.vcpu.engine.adopt({}, mip=0, fflags=0x1F))
        machine.save(tmp_path / "in")
    out = tmp_path / "out"
    out.write_bytes(b"as it was")
    with pytest.raises(FileError, match=r"the guest would miss cpu cpu/fflags"):
        convert(tmp_path / "in", out, V10_0)
    assert out.read_bytes() == b"as it was"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in", out]
    convert(tmp_path / "in", out, V10_0, force=True)
    assert contents_of(out).error is None


def test_converted_snapshot_is_one_of_the_same_moment(tmp_path: Path) -> None:
    with Machine("virt", ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=60)
        machine.savevm("before")
        convert(tmp_path / "before.snapshot", tmp_path / "after.snapshot", V7_2)
        after, before = sorted(machine.snapshots, key=lambda snapshot: snapshot.tag)
        machine.snapshots.verify("after")
        machine.loadvm("after")
    assert replace(after, tag=before.tag, path=before.path, disk_size=before.disk_size) == before
    assert contents_of(after.path).notes["mini-qemu"]["tag"] == "before"


@pytest.mark.parametrize("stream", ["virt-7.2", "virt-10.0", "virt-10.0-mapped"], indirect=True)
def test_snapshot_that_was_a_stream_was_taken_when_that_was_written(stream: Path, tmp_path: Path) -> None:
    os.utime(stream, (0, 123456.5))
    convert(stream, tmp_path / "a.snapshot", V10_0, layout="mapped")
    snapshots = SnapshotDirectory(tmp_path)
    ((snapshot,), others) = snapshots.examine()
    (timer,) = (each.values for each in contents_of(stream).sections if each.name == "timer")
    assert timer is not None
    assert (snapshot.taken, snapshot.virtual_clock) == (123456.5, timer["cpu_clock_offset"])
    assert (snapshot.machine, snapshot.ram_size, snapshot.icount, others) == ("virt", 16 << 20, None, {})
    snapshots.verify("a")


@pytest.mark.parametrize("stream", ["virt-7.2"], indirect=True)
@pytest.mark.parametrize("target", ["in", "here/in", "hard", "soft"])
def test_what_is_read_is_not_written_to(stream: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "hard").hardlink_to(stream)
    (tmp_path / "soft").symlink_to(stream)
    before, files = stream.read_bytes(), sorted(tmp_path.iterdir())
    for force in (False, True):
        with pytest.raises(FileError, match=r"is what is read: write to another file$"):
            convert(stream, tmp_path / target, V10_0, force=force)
    assert stream.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == files
    assert (tmp_path / "soft").is_symlink()


@pytest.mark.parametrize("stream", ["virt-10.0"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "out", "--to", "virt-9.9"], "unsupported machine type 'virt-9.9'"),
        (["/etc/passwd", "out"], "begins with QEVM"),
        (["nowhere", "out"], "nowhere"),
        (["IN", "no/such/directory"], "no/such/directory"),
    ],
)
def test_mistakes_are_told_in_one_line(stream: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    source, target, *options = arguments
    source = str(stream) if source == "IN" else source
    result = CliRunner().invoke(cli, ["convert", source, str(tmp_path / target), *options])
    assert message in f"{result.output}{result.exception}"
    assert result.exit_code != 0


WAITING = """
import sys
from emulator import cli
from emulator.migration import savevm

save = savevm.save

def wait(*args):
    print("saving", flush=True)
    sys.stdin.read()
    save(*args)

savevm.save = wait
sys.exit(cli.main())
"""
"""The command, which stops before it saves until its input ends."""


@pytest.mark.parametrize("stream", ["virt-7.2"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing_unfinished(stream: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", WAITING, "convert", str(stream), str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"saving\n"
        assert [path.suffix for path in tmp_path.glob(".out.*")] == [SUFFIX]
        child.send_signal(number)
        assert [said.strip() for said in child.communicate(timeout=60)] == [b"", b""]
    assert child.returncode == 128 + number
    assert list(tmp_path.iterdir()) == [stream]


@pytest.mark.parametrize("stream", ["virt-10.0"], indirect=True)
def test_what_cannot_be_said_is_not_blamed_on_the_files(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no room"):
        convert(stream, tmp_path / "out", V7_2, say=no_room)


def no_room(_line: str) -> None:
    raise OSError("no room")
