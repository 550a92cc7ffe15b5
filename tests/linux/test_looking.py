"""A Linux as the monitor shows it, and its traps in a log."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import linuxguest
import pytest
from processes import MINI_QEMU, QEMU, Emulator

from emulator import Machine, Serial

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300)]

MACHINE = "virt-7.2"
"""The type whose streams the installed QEMU reads."""
TEXT = 0xFFFF_FFFF_8000_0000
"""Where Linux maps itself."""


@pytest.fixture
def look(
    tmp_path: Path, machine: Callable[..., Machine], mini_qemu: Callable[..., Emulator]
) -> Callable[..., list[str]]:
    """What the monitor of an emulator says in which a Linux that has been booted has arrived, standing still."""
    started: dict[Sequence[str], Emulator] = {}
    with machine(MACHINE) as linux:
        linux.run(until=Serial(linuxguest.PROMPT), timeout=90)
        linux.save(tmp_path / "stream")

    def ask(command: str, program: Sequence[str] = MINI_QEMU) -> list[str]:
        if program not in started:
            kind = ["-M", MACHINE if program is MINI_QEMU else "virt"]
            options = [*linuxguest.options(), *kind, "-S", "-incoming", f"exec:cat {tmp_path / 'stream'}"]
            started[program] = mini_qemu(*options, program=program)
            started[program].wait_for_status("completed")
        said: str = started[program].execute("human-monitor-command", command_line=command)
        return said.splitlines()

    return ask


def test_the_kernel_can_be_read_through_its_page_tables(look: Callable[..., list[str]]) -> None:
    ranges = [line.split() for line in look("info mem")[2:]]
    assert any(int(virtual, 16) >= TEXT and flags.startswith("r-x-") for virtual, _physical, _size, flags in ranges)
    assert len(look("x/20i $pc")) == 20
    assert "Cannot access" not in "".join(look("x/20i $pc"))
    assert look("x/1i 0x1000") == ["0x0000000000001000:  Cannot access memory"]


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
def test_it_looks_as_in_qemu(look: Callable[..., list[str]], command: str) -> None:
    assert look(command) == look(command, QEMU)
