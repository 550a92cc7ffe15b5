"""The real board as an oracle: QEMU, stopped, with its physical memory under the test's control."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

QEMU = "qemu-system-riscv64"


class RealBoard:
    """QEMU's virt board over the qtest protocol (`start_real_board` makes one); the vCPU never runs."""

    def __init__(self, stack: ExitStack, arguments: tuple[str, ...]) -> None:
        pairs = [socket.socketpair() for _ in range(2)]
        theirs = [pair[1].fileno() for pair in pairs]
        command = [QEMU, "-M", "virt", "-m", "16M", "-S", "-nodefaults", "-nographic", "-bios", "none"]
        command += ["-chardev", f"socket,id=q,fd={theirs[0]}", "-object", "qtest,id=qtest,chardev=q,log=none"]
        command += ["-chardev", f"socket,id=m,fd={theirs[1]}", "-mon", "chardev=m,mode=control"]
        process = subprocess.Popen([*command, *arguments], pass_fds=theirs, stdin=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        for ours, their in pairs:
            their.close()
            ours.settimeout(30)
            stack.enter_context(ours)
        self._qtest, self._qmp = (stack.enter_context(ours.makefile("rw")) for ours, _ in pairs)
        self._execute("qmp_capabilities", until="return")

    def _ask(self, command: str) -> str:
        self._qtest.write(command + "\n")
        self._qtest.flush()
        status, _, answer = self._qtest.readline().partition(" ")
        assert status.strip() == "OK", command
        return answer.strip()

    def _execute(self, command: str, *, until: str, **arguments: str) -> dict[str, Any]:
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._qmp.flush()
        while True:
            answer: dict[str, Any] = json.loads(self._qmp.readline())
            if until in (answer.get("event"), *answer):
                return answer

    def load(self, address: int, size: int) -> int:
        return int(self._ask(f"read{'_bw_l___q'[size]} 0x{address:x}"), 16)

    def store(self, address: int, size: int, value: int) -> None:
        self._ask(f"write{'_bw_l___q'[size]} 0x{address:x} 0x{value:x}")

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self._ask(f"read 0x{address:x} 0x{length:x}")[2:])

    def write(self, address: int, data: bytes) -> None:
        self._ask(f"write 0x{address:x} 0x{len(data):x} 0x{data.hex()}")

    def reset(self) -> None:
        self._execute("system_reset", until="RESET")

    def save(self, path: Path) -> bytes:
        """The machine's migration stream, which goes through a file at `path`."""
        self._execute("migrate", until="return", uri=f"exec:cat > {path}")
        while (status := self._execute("query-migrate", until="return")["return"]["status"]) != "completed":
            assert status in ("setup", "active", "device"), status
        return path.read_bytes()


@pytest.fixture
def start_real_board() -> Iterator[Callable[..., RealBoard]]:
    """Start QEMU's virt board (16 MiB of RAM) with more arguments; it ends with the test."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed: apt install qemu-system-misc")
    with ExitStack() as stack:
        yield lambda *arguments: RealBoard(stack, arguments)


@pytest.fixture
def dice() -> random.Random:
    """The same random numbers in every run."""
    return random.Random(0x5EED)
