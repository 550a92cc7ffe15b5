"""Stops are precise: nothing that a guest does is done twice or left out, however often it is stopped.

The guest is firmware/stress, which counts what it does under 1 kHz timer interrupts. Beside it a thread stops and
resumes the machine a thousand times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator import Machine
from emulator.core.charport import CharPort

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STRESS = Path(__file__).parents[2] / "firmware/prebuilt/stress.elf"
BYTES = 1_000_000
SEQUENCE = bytes(33 + k % 89 for k in range(BYTES))


class Line:
    """The far end of the guest's serial line: all that was said, and a way to wait for the next piece."""

    def __init__(self, port: CharPort) -> None:
        self.said = bytearray()
        self._more = threading.Condition()
        port.sink = self._take
        self.say = port.feed

    def _take(self, data: bytes) -> None:
        with self._more:
            self.said += data
            self._more.notify()

    def hear(self, mark: bytes) -> bytes:
        """Everything up to the end of the line that `mark` starts, taken off the line."""

        def end() -> int:
            start = self.said.find(mark)
            return self.said.find(b"\n", start) + 1 if start >= 0 else 0

        with self._more:
            assert self._more.wait_for(end, timeout=250), f"no {mark!r} in {bytes(self.said[-200:])!r}"
            heard = bytes(self.said[: end()])
            del self.said[: end()]
        return heard


@contextmanager
def pestered(machine: Machine) -> Iterator[list[int]]:
    """Stop and resume the machine a thousand times a second meanwhile; yields the growing number of stops."""
    over = threading.Event()
    stops = [0]

    def pester() -> None:
        due = time.monotonic()
        while not over.wait(max(due - time.monotonic(), 0)):
            machine.stop()
            machine.cont()
            stops[0] += 1
            due += 0.001

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        yield stops
    finally:
        over.set()
        thread.join()


@pytest.fixture
def line() -> Iterator[Line]:
    port = CharPort()
    line = Line(port)
    with Machine("virt", ram="16M", kernel=STRESS, port=port) as machine:
        machine.cont()
        line.hear(b"stress ready")
        with pestered(machine) as stops:
            yield line
        print(f"{stops[0]} stops")
        assert stops[0] > 10


def test_every_byte_sent_arrives_once_and_in_order(line: Line) -> None:
    line.say(b"tx %d\n" % BYTES)
    heard = line.hear(b"ok tx")
    assert heard[:BYTES] == SEQUENCE
    assert heard[BYTES:].startswith(b"\r\nok tx n=1000000 errors=0")


def test_every_byte_received_is_read_once(line: Line) -> None:
    line.say(b"rx %d\n" % BYTES)
    line.hear(b"go")
    line.say(SEQUENCE)
    assert line.hear(b" rx ").startswith(b"ok rx n=1000000 errors=0")


@pytest.mark.parametrize(("test", "count"), [("amo", 100_000_000), ("lrsc", 100_000_000)])
def test_atomic_increments_end_at_the_exact_sum(line: Line, test: str, count: int) -> None:
    line.say(f"{test} {count}\n".encode())
    assert line.hear(f" {test} ".encode()).startswith(f"ok {test} n={count} sum={count} ".encode())


def test_floating_point_state_survives_interrupts(line: Line) -> None:
    line.say(b"fp 500\n")
    assert line.hear(b" fp ").startswith(b"ok fp n=500 errors=0")
