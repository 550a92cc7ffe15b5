"""From the birth of the process to the guest's first instructions, which send one byte to the serial port."""

from __future__ import annotations

import statistics
import struct
import tempfile
import time
from pathlib import Path

from subjects import Subject, started

RAM_BASE = 0x80000000
CODE = struct.pack(
    "<4I",
    0x100002B7,  # lui t0, 0x10000    the UART
    0x02100313,  # li t1, '!'
    0x00628023,  # sb t1, 0(t0)
    0x0000006F,  # j .
)


def compare(subjects: list[Subject], runs: int) -> dict[str, float]:
    """Median milliseconds from the spawn of each subject until the byte is here."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "hello.elf"
        kernel.write_bytes(program(CODE))
        for subject in subjects:
            _milliseconds(subject, kernel)  # everything is in the host's caches from here on
        times: dict[str, list[float]] = {subject.name: [] for subject in subjects}
        for _ in range(runs):
            for subject in subjects:
                times[subject.name].append(_milliseconds(subject, kernel))
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(subject: Subject, kernel: Path) -> float:
    begin = time.perf_counter()
    with started(subject, kernel) as process:
        assert process.stdout is not None
        byte = process.stdout.read(1)
        elapsed = time.perf_counter() - begin
    if byte != b"!":
        raise RuntimeError(f"{subject.name} did not run the guest")
    return elapsed * 1000


def program(code: bytes) -> bytes:
    """A RISC-V ELF file with one segment: `code` at the start of RAM, which is also its entry."""
    header_size, segment_size = 64, 56
    offset = header_size + segment_size
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<HHIQQQIHHHHHH", 2, 243, 1, RAM_BASE, header_size, 0, 0, header_size, segment_size, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, offset, RAM_BASE, RAM_BASE, len(code), len(code), 4)
    return ident + header + segment + code
