"""`mini-qemu demo`: piped, as a script would see it, on a terminal, and cut short."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from emulator import demo

COMMAND = [sys.executable, "-m", "emulator", "demo"]
SECONDS = 60


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the demo has its files: nothing may stay there. Its path is short, as a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="demo") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield
        assert list(Path(directory).iterdir()) == []


def on_terminal(rows: int, columns: int) -> pexpect.spawn[bytes]:
    """The demo on a terminal of this size; not of the size that a line editor in this process has put in its place."""
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": str(rows)}
    return pexpect.spawn(COMMAND[0], COMMAND[1:], env=environment, dimensions=(rows, columns), timeout=SECONDS)


def children_of(process: int) -> list[int]:
    """Processes that a process has started."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def runs(process: int) -> bool:
    return Path(f"/proc/{process}/cmdline").exists() and Path(f"/proc/{process}/cmdline").read_bytes() != b""


def test_the_count_goes_on_in_the_second_process_and_back_to_the_snapshot() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout
    here, there = (
        [int(n) for n in re.findall(rf"^{name}\| count (\d+)$", shown, re.MULTILINE)] for name in ("here", "there")
    )
    back = shown.index("# loadvm")
    moved = [int(n) for n in re.findall(r"^there\| count (\d+)$", shown[:back], re.MULTILINE)]
    assert here + moved == list(range(1, len(here + moved) + 1))
    assert len(moved) >= 3
    assert there[len(moved) :] == [3, 4]
    assert "no number is missing, none came twice" in shown
    assert "there| dirty: all pages checked, 0 errors" in shown
    assert "\x1b" not in shown
    assert "\r" not in shown


def test_consoles_stand_side_by_side_on_a_terminal() -> None:
    child = on_terminal(30, 100)
    child.expect_exact("─ this process: running ─".encode())
    child.expect(rb"process \d+: inmigrate")
    child.expect(rb"this process: postmigrate")
    child.expect(rb"process \d+: running")
    child.expect_exact("Exit status 0")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_narrow_terminal_gets_one_line_after_the_other() -> None:
    child = on_terminal(24, 60)
    child.expect_exact("here| count 1")
    child.expect_exact("there| count 4")
    child.expect_exact("Exit status 0")
    child.expect(pexpect.EOF)
    child.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("line", ["here| count 1", "there| count 4"])
def test_signal_ends_both_processes_and_leaves_nothing(number: signal.Signals, line: str) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        while line not in (said := child.stdout.readline()):
            assert said
        started = children_of(child.pid)
        assert len(started) == 1
        child.send_signal(number)
        assert child.wait(timeout=SECONDS) == 128 + number
    assert not any(runs(process) for process in started)


def test_reader_that_leaves_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    with subprocess.Popen(COMMAND, stdout=writer, stderr=subprocess.PIPE, text=True) as child:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        assert child.wait(timeout=SECONDS) == 1
        assert child.stderr is not None
        assert child.stderr.read().count("\n") <= 1


def test_a_guest_that_stays_silent_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PROMPT", "no such prompt")
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.2)
    assert demo.run_demo() == 1
    assert "mini-qemu: the guest did not boot in 0.2 s" in capsys.readouterr().out


def test_the_guest_is_the_prebuilt_one() -> None:
    assert demo.TOY.resolve().parts[-3:] == ("firmware", "prebuilt", "toy.elf")
