"""Debian's Linux as `make linux` boots it: options to start it, work that it does, and what must come of that."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = Path(os.environ.get("MINI_QEMU_LINUX", ROOT / "build/linux"))
"""Where its kernel and its initial RAM disk are."""
KERNEL, INITRD = DIRECTORY / "vmlinuz", DIRECTORY / "initrd"
RAM = "256M"
APPEND = "console=ttyS0,115200n8r"
"""With flow control, so that a text of any length can be pasted."""
PROMPT = "~ # "

WORK = (
    "dmesg -n 1; dmesg -c > /dev/null",
    'i=0; while :; do i=$((i+1)); read up idle < /proc/uptime; echo "<$i $up>"; done &',
    "while :; do head -c 200000 /dev/urandom > /tmp/data; sha256sum /tmp/data > /tmp/sum; "
    "sha256sum -c /tmp/sum > /dev/null || echo WR''ONG; echo >> /tmp/rounds; done &",
    "top -b -d 1 > /tmp/top &",
)
"""What the guest does at the same time: it counts on the console, writes and reads files, and shows its processes."""
QUESTION = "echo rounds=$(wc -l < /tmp/rounds) top=$(grep -c Mem: /tmp/top) dmesg=$(dmesg | wc -l)"
ANSWER = rb"rounds=(\d+) top=(\d+) dmesg=(\d+)"


def options(*, ram: str = RAM, append: str = APPEND) -> list[str]:
    """Of `mini-qemu run`, for this Linux."""
    return [*("-m", ram), *("-bios", "default"), *("-kernel", str(KERNEL), "-initrd", str(INITRD)), "-append", append]


def check_work(log: bytes, seconds: float) -> int:
    """Assert that all numbers came, once and in order, and no checksum was wrong, and the guest's clock made no jump
    in the host's `seconds` since the work began; how many numbers.
    """
    said = re.findall(rb"<(\d+) (\d+\.\d+)>", log)
    assert [int(number) for number, _up in said] == list(range(1, len(said) + 1))
    times = [float(up) for _number, up in said]
    assert times == sorted(times)
    assert times[-1] - times[0] <= seconds
    assert b"WRONG" not in log
    return len(said)


def check_answer(found: re.Match[bytes]) -> None:
    """Assert that all of the work went on, and the kernel had nothing to say."""
    rounds, tops, messages = (int(number) for number in found.groups())
    assert rounds > 0
    assert tops > 1
    assert messages == 0
