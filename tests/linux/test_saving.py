"""A Linux at work goes back to a snapshot, again and again: nothing is lost, repeated or wrong, and it is quick."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import linuxguest
import pytest

from emulator import Machine, Serial
from emulator.conditions import Elapsed
from emulator.core.clock import NS_PER_SECOND

pytestmark = [pytest.mark.linux, pytest.mark.timeout(900)]

ROUNDS = 100
FRESH_ROUNDS = 10
SPELL = Elapsed(0.2)
LIMIT_SECONDS = 60


@pytest.fixture
def make(machine: Callable[..., Machine], tmp_path: Path) -> Callable[[], Machine]:
    """Machines that share their snapshots."""
    return lambda: machine(snapshots=tmp_path)


class Worker:
    """A Linux at work in one machine or another, and what it has said; what a restore undoes, it has not said."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._log = bytearray()
        self._saved_at = 0
        machine.run(until=Serial(linuxguest.PROMPT), timeout=LIMIT_SECONDS)
        self._begun = time.monotonic()
        for line in linuxguest.WORK:
            machine.serial.write(line + "\r")
        machine.run(until=Serial("<100 "), timeout=LIMIT_SECONDS)
        self._heard = 0

    @property
    def log(self) -> bytes:
        return bytes(self._log + self.machine.serial.output[self._heard :])

    @property
    def seconds(self) -> float:
        """Of the host, since the work began."""
        return time.monotonic() - self._begun

    def save(self) -> None:
        self.machine.savevm("there")
        self._saved_at = self.machine.virtual_time
        self._log[:] = self.log
        self._heard = len(self.machine.serial.output)

    def restore_in(self, machine: Machine) -> None:
        self.machine = machine
        machine.loadvm("there")
        assert machine.virtual_time == self._saved_at
        self._heard = len(machine.serial.output)

    @property
    def clock_error(self) -> float:
        """How far the guest's uptime is from the machine's clock, in seconds; what it takes to tell is part of it."""
        said = self.ask("read up idle < /proc/uptime; echo up''=$up", rb"up=(\d+\.\d+)")
        return self.machine.virtual_time / NS_PER_SECOND - float(said[1])

    def ask(self, line: str, answer: bytes) -> re.Match[bytes]:
        start = len(self.log)
        self.machine.serial.write(line + "\r")
        until = time.monotonic() + LIMIT_SECONDS
        while not (found := re.compile(answer).search(self.log, start)):
            assert time.monotonic() < until, self.log[-500:]
            self.machine.run(until=Elapsed(0.1), timeout=LIMIT_SECONDS)
        return found


def test_a_guest_at_work_is_restored_100_times(make: Callable[[], Machine]) -> None:
    to_next_line = []
    with make() as machine:
        worker = Worker(machine)
        clock_error = worker.clock_error
        for _ in range(ROUNDS):
            machine.run(until=SPELL, timeout=LIMIT_SECONDS)
            worker.save()
            machine.run(until=SPELL, timeout=LIMIT_SECONDS)
            begun = time.perf_counter()
            worker.restore_in(machine)
            machine.run(until=Serial("\n"), timeout=LIMIT_SECONDS)
            to_next_line.append(time.perf_counter() - begun)
        for number in range(FRESH_ROUNDS):
            worker.save()
            with make() as fresh:
                worker.restore_in(fresh)
                worker.ask(f"echo fr''esh {number}", b"fresh %d\r" % number)
                worker.save()
            worker.restore_in(machine)
        assert abs(worker.clock_error - clock_error) < 1
        linuxguest.check_answer(worker.ask(linuxguest.QUESTION, linuxguest.ANSWER))
        numbers = linuxguest.check_work(worker.log, worker.seconds)
    median = statistics.median(to_next_line)
    print(f"{ROUNDS + FRESH_ROUNDS} restores, {numbers} numbers, {median * 1000:.1f} ms from loadvm to the next line")
    assert median < 0.05
