"""Debian's Linux in mini-qemu and in qemu-system-riscv64, in turn: booting, computing, idling, memory.

python bench/linux.py [--rounds N] [--idle SECONDS] [--ram SIZE] [--json]

Needs the kernel and the initial RAM disk that `make linux` leaves in build/linux, or in the directory that the
environment variable MINI_QEMU_LINUX names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
from idle import cpu_clock
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from subjects import ENVIRONMENT, Subject, subjects

LINUX = Path(os.environ.get("MINI_QEMU_LINUX", Path(__file__).resolve().parents[1] / "build/linux"))
PROMPT = b"~ # "
PATIENCE_SECONDS = 120
WORK = {
    "shell loop, 20,000 rounds": "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
    "dd and sha256sum of 32 MiB": "dd if=/dev/zero bs=1M count=32 2> /dev/null | sha256sum > /dev/null",
    "200 processes": "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done",
}
IDLE, MEMORY = "idle, % of a CPU", "memory beside guest RAM, MiB"


class Guest:
    """A Linux that boots, and a stop watch at it."""

    def __init__(self, subject: Subject, ram: str) -> None:
        images = ["-kernel", str(LINUX / "vmlinuz"), "-initrd", str(LINUX / "initrd")]
        options = ["-M", "virt", "-cpu", "sifive-u54", "-m", ram, "-nographic", *images, "-append", "console=ttyS0"]
        self._begun = time.perf_counter()
        command, *arguments = [*subject.command, *options]
        self._terminal = pexpect.spawn(command, arguments, env=ENVIRONMENT, timeout=PATIENCE_SECONDS)
        self._terminal.delaybeforesend = None
        self.pid = self._terminal.pid
        self._clock = cpu_clock(self.pid)

    def close(self) -> None:
        """End it."""
        self._terminal.close(force=True)

    def reaches(self, text: bytes) -> tuple[float, float]:
        """Seconds since the process was born until it says this, and of CPU time."""
        self._terminal.expect_exact(text)
        return time.perf_counter() - self._begun, time.clock_gettime(self._clock)

    def takes(self, command: str) -> tuple[float, float]:
        """Seconds that a shell command takes, and of CPU time."""
        self._terminal.send(f"echo be''gin; {command}; echo e''nd\r")
        self._terminal.expect(rb"begin\r+\n")
        begun, used = time.perf_counter(), time.clock_gettime(self._clock)
        self._terminal.expect(rb"end\r+\n")
        taken = time.perf_counter() - begun, time.clock_gettime(self._clock) - used
        self.reaches(PROMPT)
        return taken

    def idles(self, seconds: float) -> float:
        """Per cent of a CPU while nothing is to be done."""
        begun, used = time.perf_counter(), time.clock_gettime(self._clock)
        time.sleep(seconds)
        return 100 * (time.clock_gettime(self._clock) - used) / (time.perf_counter() - begun)


def mebibytes_beside(pid: int, ram: int) -> float:
    """Resident memory of a process without that of the mapping that holds its guest's RAM of `ram` bytes."""
    mappings = re.findall(r"(?m)^Size: +(\d+) kB\n(?:.*\n)*?Rss: +(\d+) kB$", Path(f"/proc/{pid}/smaps").read_text())
    resident = [(int(size) << 10, int(rss) / 1024) for size, rss in mappings]
    guest = max((rss for size, rss in resident if size >= ram), default=0.0)
    return sum(rss for _size, rss in resident) - guest


@contextmanager
def booting(subject: Subject, ram: str) -> Iterator[Guest]:
    """A guest that is ended in the end."""
    guest = Guest(subject, ram)
    try:
        yield guest
    finally:
        guest.close()


def measure(subject: Subject, ram: str, idle_seconds: float) -> dict[str, float]:
    """One boot's figures; those of CPU time beside those on the clock, as other work on the host disturbs them less."""
    figures = {}
    with booting(subject, ram) as guest:
        figures["to Run /init, s"], figures["to Run /init, CPU s"] = guest.reaches(b"Run /init")
        guest.reaches(PROMPT)
        for what, command in WORK.items():
            figures[f"{what}, s"], figures[f"{what}, CPU s"] = guest.takes(command)
        figures[IDLE] = guest.idles(idle_seconds)
        figures[MEMORY] = mebibytes_beside(guest.pid, int(ram.removesuffix("M")) << 20)
    return figures


def show(figures: dict[str, dict[str, float]], console: Console) -> None:
    """The medians as a table, with the ratio of ours to QEMU's where there are both."""
    table = Table("", *(Column(name, justify="right") for name in figures), Column("ratio", justify="right"))
    for what in next(iter(figures.values())):
        values = [each[what] for each in figures.values()]
        ratio = f"{values[0] / values[1]:.2f}" if len(values) == 2 and values[1] else ""
        table.add_row(what, *(f"{value:.2f}" for value in values), ratio)
    console.print(table)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare Linux in mini-qemu and in qemu-system-riscv64.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="boots of each [5]")
    parser.add_argument("--idle", type=float, default=5.0, metavar="SECONDS", help="how long to watch it idle [5]")
    parser.add_argument("--ram", default="256M", metavar="MIB", help="of the guest [256M]")
    parser.add_argument("--json", action="store_true", help="print the medians as JSON")
    options = parser.parse_args()
    if not (LINUX / "initrd").exists():
        print(f"no Linux in {LINUX}: make linux fetches it", file=sys.stderr)
        return 1
    rounds: dict[str, list[dict[str, float]]] = {subject.name: [] for subject in subjects()}
    for _ in track(range(options.rounds), "booting", console=Console(stderr=True), transient=True):
        for subject in subjects():
            rounds[subject.name].append(measure(subject, options.ram, options.idle))
    medians = {
        name: {what: statistics.median(each[what] for each in found) for what in found[0]}
        for name, found in rounds.items()
    }
    if options.json:
        print(json.dumps(medians, indent=2))
    else:
        show(medians, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
