"""What goes wrong is told by whoever it went wrong for: the guest's kernel on its console, or one line of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import linuxguest
import pytest
from linuxguest import APPEND, INITRD, KERNEL

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300)]

QUIT = "\x01x"


def images(append: str, *, initrd: Path | None = INITRD, ram: str = linuxguest.RAM) -> list[str]:
    """Options of `mini-qemu run`."""
    disk = [] if initrd is None else ["-initrd", str(initrd)]
    return ["-m", ram, "-kernel", str(KERNEL), *disk, "-append", append]


def refusal(options: list[str]) -> str:
    """The one line with which mini-qemu ends."""
    command = [sys.executable, "-m", "emulator", "run", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("mini-qemu: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (images(f"{APPEND} rdinit=/bin/sh -- -c exit"), "Attempted to kill init!"),
        (images(f"{APPEND} root=/dev/vda1", initrd=None), "Unable to mount root fs"),
        (images(f"{APPEND} earlycon", ram="64M"), "Kernel panic - not syncing"),
        (images(f"{APPEND} earlycon " + "x " * 100), "Too many boot init vars"),
    ],
    ids=["init that exits", "wrong root", "too little memory", "too many arguments"],
)
def test_a_panic_is_the_guests_and_the_user_quits(run: Callable[..., Any], options: list[str], message: str) -> None:
    terminal = run(*options)
    terminal.expect_exact(message)
    terminal.expect_exact("---[ end Kernel panic")
    terminal.send(QUIT)
    assert terminal.wait_for_exit() == 0


def test_a_kernel_that_is_made_to_crash_panics(shell: Any) -> None:
    shell.send("echo c > /proc/sysrq-trigger\r")
    shell.expect_exact("Kernel panic - not syncing: sysrq triggered crash")
    shell.send(QUIT)
    assert shell.wait_for_exit() == 0


def test_a_panic_that_reboots_ends_the_process_with_no_reboot(run: Callable[..., Any]) -> None:
    terminal = run(*images(f"{APPEND} root=/dev/vda1 panic=-1", initrd=None), "-no-reboot")
    terminal.expect_exact("Unable to mount root fs")
    assert terminal.wait_for_exit() == 0


def test_too_little_memory_for_the_kernel_is_told() -> None:
    assert "vmlinuz does not fit" in refusal(images(APPEND, ram="32M"))


def test_an_initrd_that_does_not_fit_is_told(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256 << 20)
    assert "large does not fit" in refusal(images(APPEND, initrd=large))


def test_a_missing_initrd_is_told(tmp_path: Path) -> None:
    assert "No such file" in refusal(images(APPEND, initrd=tmp_path / "missing"))


def test_a_command_line_that_is_too_long_is_told() -> None:
    assert "-append has 3023 characters" in refusal(images(APPEND + "x" * 3000))
