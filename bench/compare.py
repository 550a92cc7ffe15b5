"""mini-qemu beside qemu-system-riscv64: the same guests with the same options, on this machine, in turn.

python bench/compare.py [--rounds N] [--starts N] [--idle SECONDS] [--snapshots N] [--migrations N] [--json]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import idle
import kernels
import migration
import snapshots
import startup
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from subjects import OURS, QEMU, Subject, newer, subjects


def measure(taking_part: list[Subject], options: argparse.Namespace) -> dict[str, Any]:
    """All figures, ready for JSON."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        step = progress.add_task("kernels", total=5)
        times = kernels.compare(taking_part, options.rounds)
        progress.update(step, advance=1, description="start-up")
        starts = startup.compare(taking_part, options.starts)
        progress.update(step, advance=1, description="idle")
        idling = idle.compare(taking_part, options.idle)
        progress.update(step, advance=1, description="snapshots")
        saving = snapshots.compare(taking_part, options.snapshots, options.ram)
        progress.update(step, advance=1, description="migrations")
        moving = migration.compare([*taking_part, *newer()], options.migrations, options.ram)
        progress.advance(step)
    figures: dict[str, Any] = {
        "versions": {subject.name: _version(subject) for subject in [*taking_part, *newer()]},
        "host": {"python": platform.python_version(), "machine": platform.machine()},
        "kernels_ms": times,
        "start_ms": starts,
        "idle_cpu_percent": idling,
        "snapshots_ms": saving,
        "device_state_ms": snapshots.device_state(),
        "migrations": moving,
    }
    if QEMU in taking_part:
        figures["compute_ratio"] = kernels.ratio(times, kernels.COMPUTE, OURS.name, QEMU.name)
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures as one table, with the ratio of ours to QEMU's where there are both."""
    names = list(figures["versions"])
    table = Table("", *(Column(name, justify="right") for name in names))
    if QEMU.name in names:
        table.add_column("ratio", justify="right")

    def row(title: str, values: Mapping[str, float | None], *, digits: int = 1) -> None:
        ours, theirs = values[OURS.name], values.get(QEMU.name)
        ratio = f"{ours / theirs:.2f}" if ours and theirs else ""
        cells = ("" if (value := values.get(name)) is None else f"{value:.{digits}f}" for name in names)
        table.add_row(title, *cells, ratio)

    def rows(subjects: Mapping[str, Mapping[str, float]], unit: str = "") -> None:
        for what in subjects.get(OURS.name, ()):
            row(what + unit, {name: found.get(what) for name, found in subjects.items()})

    rows(figures["kernels_ms"], ", ms")
    table.add_section()
    if "compute_ratio" in figures:
        table.add_row(f"mean of {' '.join(kernels.COMPUTE)}", *[""] * len(names), f"{figures['compute_ratio']:.2f}")
    row("start to first instruction, ms", figures["start_ms"])
    row("idle, % of a CPU", figures["idle_cpu_percent"], digits=2)
    table.add_section()
    rows(figures["snapshots_ms"], ", ms")
    for what, milliseconds in figures["device_state_ms"].items():
        row(f"{what}, ms", {OURS.name: milliseconds}, digits=2)
    table.add_section()
    rows(figures["migrations"])
    console.print(table)
    console.print(*figures["versions"].values(), sep="\n", highlight=False)


def _version(subject: Subject) -> str:
    command = [*subject.command, "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare mini-qemu with qemu-system-riscv64 on this machine.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of the benchmark guest [5]")
    parser.add_argument("--starts", type=int, default=10, metavar="N", help="starts of each emulator [10]")
    parser.add_argument("--idle", type=float, default=3.0, metavar="SECONDS", help="how long to watch idle guests [3]")
    parser.add_argument("--snapshots", type=int, default=3, metavar="N", help="rounds of savevm and loadvm [3]")
    parser.add_argument("--migrations", type=int, default=3, metavar="N", help="rounds of live migrations [3]")
    parser.add_argument("--ram", type=int, nargs="*", default=[128, 1024, 4096], metavar="MIB", help="sizes for those")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    options = parser.parse_args()
    taking_part = subjects()
    if QEMU not in taking_part:
        print(
            "qemu-system-riscv64 is not installed (apt install qemu-system-misc): nothing to compare with",
            file=sys.stderr,
        )
    figures = measure(taking_part, options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
