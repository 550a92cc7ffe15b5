"""What programs ask of a machine about moving, when something fails at the worst moment: it can be asked again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from emulator import Machine
from emulator.core.errors import ConfigError, EmulatorError, FileError
from emulator.migration import report
from emulator.migration.errors import MigrationError
from emulator.migration.status import Status
from emulator.monitor.context import Context
from emulator.monitor.hmp import Hmp
from emulator.runstate import RunState
from emulator.transfer import Transfer

TOY = Path(__file__).parents[1] / "firmware/prebuilt/toy.elf"
LIMIT = 60


@pytest.fixture
def source(running_toy: Machine) -> Machine:
    return running_toy


@pytest.fixture
def target(empty_machine: Machine) -> Machine:
    return empty_machine


def info_migrate(machine: Machine) -> str:
    return Hmp(Context(machine, quit=machine.quit)).execute("info migrate")


def test_machine_that_cannot_be_built_is_not_left_migrating(tmp_path: Path) -> None:
    with Machine("virt", ram="16M", kernel=tmp_path / "missing") as machine:
        for _ in range(2):
            with pytest.raises(EmulatorError, match="missing"):
                machine.migration.migrate("exec:cat >/dev/null")
        assert machine.migration.progress.status is Status.NONE


def test_machine_that_cannot_be_built_does_not_go_on_listening(tmp_path: Path) -> None:
    with Machine("virt", ram="16M", kernel=tmp_path / "missing") as machine:
        for _ in range(2):
            with pytest.raises(EmulatorError, match=r"missing': No such file"):
                machine.migration.listen(f"unix:{tmp_path / 'socket'}")
        assert not (tmp_path / "socket").exists()


def test_guest_out_of_a_command_that_fails_in_the_end_is_refused(
    source: Machine, target: Machine, tmp_path: Path
) -> None:
    """A part of it may be missing, as when `zstd` finds a wrong checksum behind everything."""
    source.save(tmp_path / "stream")
    target.migration.listen(f"exec:cat {tmp_path / 'stream'}; exit 3")
    with pytest.raises(MigrationError, match="failed: exit status 3"):
        target.migration.wait_for_guest(LIMIT)
    assert target.status is RunState.INMIGRATE
    target.migration.listen(f"exec:cat {tmp_path / 'stream'}")
    target.migration.wait_for_guest(LIMIT)
    assert target.status is RunState.RUNNING


def test_guest_that_has_come_out_of_a_file_is_shown(source: Machine, target: Machine, tmp_path: Path) -> None:
    source.save(tmp_path / "stream")
    target.migration.listen(f"file:{tmp_path / 'stream'}")
    target.migration.wait_for_guest(LIMIT)
    assert "Migration status: completed" in info_migrate(target)


def test_source_is_told_why_a_loaded_guest_could_not_be_adopted(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("cannot exchange the machine's memory: no more mappings")

    monkeypatch.setattr(Transfer, "take_over", fail)
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    assert source.migration.wait(LIMIT) is Status.FAILED
    assert source.migration.progress.error == (
        "the destination refused: cannot exchange the machine's memory: no more mappings"
    )
    assert source.status is RunState.RUNNING


def test_file_is_on_the_disk_but_for_the_last_pages_before_the_guest_is_stopped(
    source: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, sync = [], os.fsync

    def note(fd: int) -> None:
        states.append(source.status)
        sync(fd)

    monkeypatch.setattr(os, "fsync", note)
    source.migration.migrate(f"file:{tmp_path / 'stream'}")
    assert source.migration.wait(LIMIT) is Status.COMPLETED
    assert states == [RunState.RUNNING, RunState.FINISH_MIGRATE]


def test_nothing_is_left_of_a_file_that_was_not_finished(source: Machine, tmp_path: Path) -> None:
    stream = tmp_path / "stream"
    stream.write_bytes(b"heading")
    source.migration.settings.set({"max-bandwidth": 100_000})
    source.migration.migrate(f"file:{stream},offset=7")
    deadline = time.monotonic() + LIMIT
    while stream.stat().st_size < 50_000:
        assert time.monotonic() < deadline
    source.migration.cancel()
    assert source.migration.wait(LIMIT) is Status.CANCELLED
    assert stream.read_bytes() == b"heading"


def test_command_does_not_take_what_was_not_finished_for_whole(
    source: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConfigError("the machine has failed")

    monkeypatch.setattr(source.transfer, "freeze", fail)
    source.migration.migrate(f"exec:cat >/dev/null && touch {tmp_path / 'whole'}")
    assert source.migration.wait(LIMIT) is Status.FAILED
    assert not (tmp_path / "whole").exists()


def test_report_is_of_its_own_migration_also_if_another_follows_at_once(source: Machine, tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.json"
        source.migration.migrate(f"exec:exit {1 + number}", report=path)
        assert source.migration.progress.wait_to_end(LIMIT)
    source.migration.migrate("exec:exit 99")
    for number in range(20):
        data = json.loads((tmp_path / f"{number}.json").read_text())
        assert data["status"] == "failed"
        assert f"exit status {1 + number}" in data["error"]


def test_report_that_could_not_be_written_is_shown_until_it_has_been_told(
    source: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise FileError(f"cannot write '{path}': No space left on device")

    monkeypatch.setattr(report, "replacing", full)
    source.migration.migrate("exec:exit 3", report=tmp_path / "report.json")
    deadline = time.monotonic() + LIMIT
    while "report: cannot write" not in info_migrate(source):
        assert time.monotonic() < deadline
    with pytest.raises(FileError):
        source.migration.wait(LIMIT)
    assert "report:" not in info_migrate(source)


def test_report_that_has_no_directory_is_refused_at_once(source: Machine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report '.*': '.*nowhere' is no directory"):
        source.migration.migrate("exec:cat >/dev/null", report=tmp_path / "nowhere" / "report.html")
    assert source.status is RunState.RUNNING
