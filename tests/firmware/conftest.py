from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pexpect import EOF
from pexpect.popen_spawn import PopenSpawn

DEADLINE = 30
FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"


class Guest(PopenSpawn):
    """A prebuilt guest under real QEMU, its serial port on two pipes."""

    def __init__(self, name: str, ram: str) -> None:
        board = ["-M", "virt", "-cpu", "sifive-u54", "-m", ram, "-bios", "none"]
        ports = ["-display", "none", "-serial", "stdio", "-monitor", "none", "-nodefaults"]
        image = ["-kernel", str(FIRMWARE / "prebuilt" / f"{name}.elf")]
        super().__init__(["qemu-system-riscv64", *board, *ports, *image], timeout=DEADLINE)

    def exit_status(self) -> int:
        """The emulator's exit status, which the guest chose; waits for it."""
        self.expect(EOF)
        return int(self.proc.wait(timeout=DEADLINE))

    def close(self) -> None:
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait(timeout=DEADLINE)
        self._read_thread.join(timeout=DEADLINE)
        self.proc.stdin.close()
        self.proc.stdout.close()


@pytest.fixture
def firmware() -> Path:
    return FIRMWARE


@pytest.fixture
def start() -> Iterator[Callable[..., Guest]]:
    if shutil.which("qemu-system-riscv64") is None:
        pytest.skip("qemu-system-riscv64 is missing: install qemu-system-misc")
    guests: list[Guest] = []

    def start_guest(name: str, ram: str = "16M") -> Guest:
        guests.append(Guest(name, ram))
        return guests[-1]

    yield start_guest
    for guest in guests:
        guest.close()
