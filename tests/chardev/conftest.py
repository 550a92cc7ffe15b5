"""A guest that reads and writes a port, a loop that is closed, and reads with a deadline."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.chardev.loop import IoLoop
from emulator.core.charport import CharPort

SECONDS = 20.0
"""How long anything here may take before the test fails; nothing waits that long when all is well."""

ROOT = Path(__file__).parents[2]


class Guest:
    """A device that reads its port when it is told to."""

    def __init__(self, name: str = "serial0") -> None:
        self.port = CharPort(name)
        self._fed = threading.Event()
        self.port.on_input = self._fed.set

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes of input, or fewer when time is up."""
        data = b""
        deadline = time.monotonic() + SECONDS
        while len(data) < size:
            self._fed.clear()
            piece = self.port.receive(size - len(data))
            if not piece and not self._fed.wait(deadline - time.monotonic()):
                break
            data += piece
        return data


@pytest.fixture
def loop() -> Iterator[IoLoop]:
    loop = IoLoop()
    yield loop
    loop.close()


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.fixture
def make_guest() -> Callable[[str], Guest]:
    return Guest


class Reads:
    """Reads from a descriptor or socket, with a deadline."""

    @staticmethod
    def chunk(source: int | socket.socket, seconds: float = SECONDS) -> bytes:
        """Some bytes; none at the end of the stream. Fails when nothing comes."""
        fd = source if isinstance(source, int) else source.fileno()
        ready, _, _ = select.select([fd], [], [], seconds)
        assert ready, "nothing to read"
        try:
            return os.read(fd, 1 << 16)
        except OSError:
            return b""

    def until(self, source: int | socket.socket, expected: bytes) -> bytes:
        data = b""
        while expected not in data:
            piece = self.chunk(source)
            assert piece, f"stream ended after {data!r}"
            data += piece
        return data

    def to_end(self, source: int | socket.socket) -> bytes:
        data = b""
        while piece := self.chunk(source):
            data += piece
        return data


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def settle() -> Callable[[IoLoop, Callable[[], bool]], None]:
    """Let the loop go round until a condition holds, failing at the deadline."""

    def settle(loop: IoLoop, condition: Callable[[], bool]) -> None:
        held = threading.Event()

        def look() -> None:
            if condition():
                held.set()
            else:
                loop.call_later(0.001, look)

        loop.call(look)
        assert held.wait(SECONDS)

    return settle


@pytest.fixture
def open_files() -> Callable[[], list[str]]:
    """The numbers of this process's open descriptors."""
    return lambda: sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


PROLOGUE = """
import os, signal, sys, threading
from emulator.chardev import IoLoop, Mux, open_chardev
from emulator.core.charport import CharPort
loop, port = IoLoop(), CharPort()
"""


@pytest.fixture
def prologue() -> str:
    """What `spawn` puts before a program."""
    return PROLOGUE


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a Python program in which `loop` and `port` exist; it is killed at the end if it still runs."""
    children: list[subprocess.Popen[bytes]] = []

    def spawn(program: str, **options: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", PROLOGUE + program], cwd=ROOT, **options)  # type: ignore[call-overload]
        children.append(child)
        return child  # type: ignore[no-any-return]

    yield spawn
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pty: master and slave."""
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)
