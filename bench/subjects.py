"""The two emulators under comparison: the same options after two different commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PREBUILT = Path(__file__).resolve().parents[1] / "firmware" / "prebuilt"

MACHINE = "-M virt -cpu sifive-u54 -m 64M -nodefaults -display none -serial stdio -bios none".split()


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""As for an installed program: Python keeps what it has compiled."""


class Subject(NamedTuple):
    """One emulator: its name in tables and the command that the options follow."""

    name: str
    command: list[str]

    def options(self, kernel: Path) -> list[str]:
        """The whole command line that boots `kernel` in machine mode, its serial port on standard input and output."""
        return [*self.command, *MACHINE, "-kernel", str(kernel)]


OURS = Subject("mini-qemu", [sys.executable, "-m", "emulator", "run"])
QEMU = Subject("qemu", ["qemu-system-riscv64"])


def newer() -> list[Subject]:
    """QEMU 10, if MINI_QEMU_QEMU10 names the directory that its Debian packages are unpacked in."""
    root = os.environ.get("MINI_QEMU_QEMU10")
    if root is None:
        return []
    binary = [f"{root}/usr/bin/qemu-system-riscv64", "-L", f"{root}/usr/share/qemu"]
    return [Subject("qemu 10", ["env", "QEMU_MODULE_DIR=/nonexistent", *binary])]


def subjects() -> list[Subject]:
    """Both, or ours alone where QEMU is not installed."""
    return [OURS, QEMU] if shutil.which(QEMU.command[0]) else [OURS]


@contextmanager
def started(subject: Subject, kernel: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running guest, killed at the end."""
    process = subprocess.Popen(
        subject.options(kernel), env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
