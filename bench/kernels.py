"""How long each kernel of firmware/prebuilt/bench.elf takes, by the guest's own clock."""

from __future__ import annotations

import re
import statistics
import subprocess

from subjects import PREBUILT, Subject

COMPUTE = ("sieve", "fib", "matrix", "crc", "memcpy")
"""Kernels that need nothing but the CPU and RAM."""

TICKS_PER_MS = 10_000
LIMIT_SECONDS = 120

Times = dict[str, float]
"""Kernel -> milliseconds."""


def compare(subjects: list[Subject], rounds: int) -> dict[str, Times]:
    """Median times by subject. The subjects take turns, so that a busy spell of the host meets all of them."""
    runs: dict[str, list[Times]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            runs[subject.name].append(_run(subject))
    return {
        name: {kernel: statistics.median(run[kernel] for run in all_runs) for kernel in all_runs[0]}
        for name, all_runs in runs.items()
    }


def ratio(times: dict[str, Times], kernels: tuple[str, ...], ours: str, theirs: str) -> float:
    """Geometric mean over `kernels` of our time by theirs: 1 is as fast, 2 takes twice as long."""
    return statistics.geometric_mean(times[ours][kernel] / times[theirs][kernel] for kernel in kernels)


def _run(subject: Subject) -> Times:
    command = subject.options(PREBUILT / "bench.elf")
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_SECONDS, check=True)
    found = re.findall(rb"bench (\S+) (\d+) [0-9a-f]{16}\r\n", result.stdout)
    return {kernel.decode(): int(ticks) / TICKS_PER_MS for kernel, ticks in found}
