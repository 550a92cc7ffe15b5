"""What a guest costs that has nothing to do: the toy guest at its prompt, asleep in `wfi`."""

from __future__ import annotations

import time

from subjects import PREBUILT, Subject, started

PROMPT = b"toy> "


def compare(subjects: list[Subject], seconds: float) -> dict[str, float]:
    """Per cent of one host CPU that each subject uses over `seconds`, user and system time together."""
    return {subject.name: _percent(subject, seconds) for subject in subjects}


def _percent(subject: Subject, seconds: float) -> float:
    with started(subject, PREBUILT / "toy.elf") as process:
        assert process.stdout is not None
        said = b""
        while not said.endswith(PROMPT):
            piece = process.stdout.read(1)
            if not piece:
                raise RuntimeError(f"{subject.name} ended before the prompt")
            said += piece
        time.sleep(0.2)  # what comes after the prompt is start-up still
        clock = cpu_clock(process.pid)
        begin, used = time.perf_counter(), time.clock_gettime(clock)
        time.sleep(seconds)
        used = time.clock_gettime(clock) - used
        return 100 * used / (time.perf_counter() - begin)


def cpu_clock(pid: int) -> int:
    """The CPU-time clock of another process, all its threads together: what clock_getcpuclockid(3) returns on Linux."""
    return (~pid << 3) | 2
