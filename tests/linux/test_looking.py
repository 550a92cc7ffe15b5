"""A Linux as the monitor shows it, and its traps in a log."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import linuxguest
import pytest
from processes import Emulator, Qemu

from emulator import Machine

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300)]

TEXT = 0xFFFF_FFFF_8000_0000
"""Where Linux maps itself."""


@pytest.fixture
def look_at(tmp_path: Path, booted: Path, machine: Callable[..., Machine]) -> Iterator[Callable[..., list[str]]]:
    """What the monitor of an emulator says in which the Linux that has been booted has arrived, standing still."""
    started: dict[type[Emulator], Emulator] = {}
    with machine(snapshots=booted) as linux:
        linux.loadvm("shell")
        linux.save(tmp_path / "stream")

    def ask(kind: type[Emulator], command: str) -> list[str]:
        if kind not in started:
            options = [*linuxguest.options(), "-S", "-incoming", f"exec:cat {tmp_path / 'stream'}"]
            started[kind] = kind(tmp_path / kind.__name__, *options)
            started[kind].wait_for_status("completed")
        said: str = started[kind].execute("human-monitor-command", command_line=command)
        return said.splitlines()

    yield ask
    for emulator in started.values():
        emulator.close()


def test_the_kernel_can_be_read_through_its_page_tables(look_at: Callable[..., list[str]]) -> None:
    ranges = [line.split() for line in look_at(Emulator, "info mem")[2:]]
    assert any(int(virtual, 16) >= TEXT and flags.startswith("r-x-") for virtual, _physical, _size, flags in ranges)
    assert len(look_at(Emulator, "x/20i $pc")) == 20
    assert "Cannot access" not in "".join(look_at(Emulator, "x/20i $pc"))
    assert look_at(Emulator, "x/1i 0x1000") == ["0x0000000000001000:  Cannot access memory"]


def test_traps_and_blocks_show_what_linux_does(run: Callable[..., Any], booted: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["-snapshots", str(booted), "-loadvm", "shell", "-d", "int,exec", "-D", str(log)]
    terminal = run(*linuxguest.options(), *options)
    terminal.send("\r")
    terminal.expect_exact(linuxguest.PROMPT)
    terminal.ask("uname -a | cat")
    terminal.kill(signal.SIGKILL)
    terminal.wait()
    said = log.read_text()
    for trap in ("s_timer", "s_external", "user_ecall", "supervisor_ecall", "load_page_fault", "store_page_fault"):
        assert f"desc={trap}\n" in said
    assert set(re.findall("Trace 0: 0x[0-9a-f]+ (.)\n", said)) == {"U", "S", "M"}


@pytest.mark.qemu("qemu-system-misc")
@pytest.mark.parametrize("command", ["info mem", "info registers", f"x/64xg {TEXT:#x}", "x/4xw 0x1000"])
def test_it_looks_as_in_qemu(look_at: Callable[..., list[str]], command: str) -> None:
    assert look_at(Emulator, command) == look_at(Qemu, command)
