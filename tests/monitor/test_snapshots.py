"""The monitor's commands for snapshots, on a real machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Machine, Serial
from emulator.monitor.commands import lookup
from emulator.monitor.context import Context
from emulator.monitor.hmp import Hmp
from emulator.monitor.views import show_clock, show_snapshots

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
HEADER = "ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT"


class SomethingBrokenError(Exception):
    """A defect of ours."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def machine(directory: Path) -> Iterator[Machine]:
    with Machine("virt", ram="16M", kernel=TOY, snapshots=directory) as machine:
        yield machine


@pytest.fixture
def hmp(machine: Machine) -> Hmp:
    return Hmp(Context(machine, machine.quit))


# The messages that QEMU 7.2 gives for the same lines.
@pytest.mark.parametrize(
    ("line", "message", "topic"),
    [
        ("loadvm", "loadvm: string expected", "loadvm"),
        ("delvm ", "delvm: string expected", "delvm"),
        ("loadvm a b", "loadvm: extraneous characters at the end of line", "loadvm"),
        ("savevm a b", "savevm: extraneous characters at the end of line", "savevm"),
        ('savevm "a', "unterminated string\nsavevm: string expected", "savevm"),
        (r'savevm "a\z"', "unsupported escape code: '\\z'\nsavevm: string expected", "savevm"),
        ('savevm "a\\', "unsupported escape code: '\\'\nsavevm: string expected", "savevm"),
        ("info snapshots x", "snapshots: extraneous characters at the end of line", "info snapshots"),
    ],
)
def test_misuse_points_to_the_help(hmp: Hmp, directory: Path, line: str, message: str, topic: str) -> None:
    assert hmp.execute(line) == f'{message}\nTry "help {topic}" for more information'
    assert not directory.exists()


def test_help_names_the_tag(hmp: Hmp) -> None:
    assert hmp.execute("help loadvm") == "loadvm tag -- restore a VM snapshot from its tag"
    assert hmp.execute("help delvm") == "delvm tag -- delete a VM snapshot from its tag"
    assert hmp.execute("help savevm").startswith("savevm [tag] -- save a VM snapshot")
    assert hmp.execute("help info snapshots") == "info snapshots  -- show the currently saved VM snapshots"


def test_guest_that_is_stopped_stays_stopped_and_one_that_runs_goes_on(hmp: Hmp, machine: Machine) -> None:
    machine.run(until=Serial("toy> "), timeout=60)
    pc = machine.cpu.pc
    assert hmp.execute("savevm a") == ""
    assert hmp.execute("info status") == "VM status: paused"
    hmp.execute("cont")
    machine.serial.write("version\r")
    assert hmp.execute("loadvm a") == ""
    assert hmp.execute("info status") == "VM status: running"
    hmp.execute("stop")
    assert hmp.execute("loadvm a") == ""
    assert hmp.execute("info status") == "VM status: paused"
    assert machine.cpu.pc == pc


def test_machine_that_was_never_started_is_saved_and_loaded_as_such(hmp: Hmp) -> None:
    assert hmp.execute("savevm a") == ""
    assert hmp.execute("loadvm a") == ""
    assert hmp.execute("info status") == "VM status: paused (prelaunch)"


def test_guest_that_has_ended_can_be_saved_and_can_go_back(hmp: Hmp, machine: Machine) -> None:
    machine.run(until=Serial("toy> "), timeout=60)
    hmp.execute("savevm alive")
    machine.serial.write("poweroff 3\r")
    machine.run(timeout=60)
    assert hmp.execute("info status") == "VM status: paused (shutdown)"
    assert hmp.execute("savevm dead") == ""
    assert hmp.execute("info status") == "VM status: paused (shutdown)"
    assert hmp.execute("loadvm alive") == ""
    assert (hmp.execute("info status"), machine.exit_status) == ("VM status: paused", None)
    machine.serial.write("poweroff 4\r")
    machine.run(timeout=60)
    assert machine.exit_status == 4
    assert hmp.execute("loadvm dead") == ""
    assert hmp.execute("info status") == "VM status: paused"


def test_machine_that_has_failed_can_neither_be_saved_nor_go_back(hmp: Hmp, machine: Machine) -> None:
    hmp.execute("savevm a")

    def fail() -> None:
        raise SomethingBrokenError

    machine.post(fail)
    with pytest.raises(SomethingBrokenError):
        machine.wait()
    for line in ("savevm a", "loadvm a"):
        assert hmp.execute(line) == "Error: the machine has failed, and can neither be saved nor go back"
    assert hmp.execute("info status") == "VM status: paused (internal-error)"


def test_no_snapshot_is_told_as_qemu_tells_it(hmp: Hmp) -> None:
    assert hmp.execute("info snapshots") == "There is no snapshot available."


def test_list_has_qemus_columns(hmp: Hmp, directory: Path) -> None:
    hmp.execute("savevm a")
    hmp.execute('savevm "with a blank"')
    hmp.execute("savevm")
    title, header, *rows = hmp.execute("info snapshots").splitlines()
    assert (title, header) == (f"List of snapshots present in '{directory}':", HEADER)
    assert [row[10:27].rstrip() for row in rows][:2] == ["a", "with a blank"]
    assert rows[2][10:].startswith("vm-20")
    assert all(row.startswith("--  ") and row.endswith(" 00:00:00.000") and " KiB 20" in row for row in rows)
    assert [len(row) for row in rows[:2]] == [len(HEADER) - 11] * 2


def test_list_shows_what_is_counted_and_what_is_damaged() -> None:
    snapshot = {"tag": "a", "taken": 0.0, "virtual_clock": 90_061_001_999_999, "icount": 12345, "disk_size": 469_000}
    text = show_snapshots({"directory": "d", "snapshots": [snapshot], "damaged": {"b": "cut short"}})
    _title, _header, row, *rest = text.splitlines()
    assert row[:36] == "--        a                 458 KiB "
    assert row.endswith(" 25:01:01.001      12345")
    assert rest == ["", "List of snapshots that cannot be loaded:", "b: cut short"]
    text = show_snapshots({"directory": "d", "snapshots": [], "damaged": {"b": "cut short"}})
    assert text == "List of snapshots that cannot be loaded:\nb: cut short"


def test_clock_is_hours_minutes_seconds() -> None:
    assert [show_clock(ns) for ns in (0, 999_999, 1_000_000, 3_600 * 10**9, 360_000 * 10**9)] == [
        *("00:00:00.000", "00:00:00.000", "00:00:00.001", "01:00:00.000", "100:00:00.000")
    ]


def test_errors_are_qemus_kind_of_line(hmp: Hmp, directory: Path) -> None:
    hmp.execute("savevm booted")
    assert hmp.execute("loadvm boted") == (
        f"Error: there is no snapshot 'boted' in '{directory}' (did you mean 'booted'?)"
    )
    assert hmp.execute("delvm boted").startswith("Error: there is no snapshot 'boted'")
    (directory / "bad.snapshot").write_bytes(b"?" * 100)
    assert hmp.execute("loadvm bad").startswith("Error: stream at byte 0x64: expected a description")
    assert hmp.execute('savevm ""') == "Error: a snapshot's name has 1 to 128 printable characters"
    assert "bad: stream at byte 0x64: expected a description" in hmp.execute("info snapshots")


def test_delvm_deletes(hmp: Hmp, machine: Machine) -> None:
    hmp.execute(r'savevm "a \"b\" \\ c"')
    assert machine.snapshots.tags() == [r'a "b" \ c']
    assert hmp.execute(r'delvm "a \"b\" \\ c"') == ""
    assert machine.snapshots.tags() == []


def test_tags_are_completed_where_one_belongs(hmp: Hmp, directory: Path) -> None:
    assert hmp.complete("loadvm ") == []
    for tag in ("boot", "booted", '"a b"', "other"):
        hmp.execute(f"savevm {tag}")
    (directory / "bold.snapshot").touch()  # damaged, and to be deleted
    assert hmp.complete("loadvm bo") == hmp.complete("delvm bo") == ["bold", "boot", "booted"]
    assert hmp.complete("loadvm ") == ["bold", "boot", "booted", "other"]
    assert hmp.complete("loadvm boot ") == hmp.complete("savevm bo") == hmp.complete("zz bo") == []
    (directory / "bold.snapshot").unlink()


def test_completion_survives_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Machine("virt", ram="16M", snapshots=tmp_path / "file") as machine:
        hmp = Hmp(Context(machine, machine.quit))
        assert hmp.complete("loadvm ") == []
        assert hmp.execute("info snapshots").startswith("Error: cannot read ")


def test_other_front_ends_get_plain_data(machine: Machine, directory: Path) -> None:
    context = Context(machine, machine.quit)
    assert lookup("savevm").run(context, {"tag": "a"}) is None
    lookup("savevm").run(context, {"tag": None})
    found = lookup("info snapshots").run(context, {})
    assert found["directory"] == str(directory)
    assert [snapshot["icount"] for snapshot in found["snapshots"]] == [None, None]
    assert found["snapshots"][0]["tag"] == "a"
    assert found["damaged"] == {}
