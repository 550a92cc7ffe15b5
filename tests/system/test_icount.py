"""With counted instructions a run is the same every time, down to the last byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from emulator import Elapsed, Icount, Instructions, Machine, Serial
from emulator.core.errors import ConfigError

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
GOAL = 5_000_000
TYPED = "version\rcrc\rcount\rdirty 5 1\r"

# What one run ends with: typed in, so that every machine and every Python must agree.
EXPECTED = "eae0ef83a2144cd70a5ba0cc7718642882c9fcea1393f09acc0ceac409949d8b"


def toy() -> Machine:
    machine = Machine("virt", ram="16M", kernel=TOY, icount=Icount(3, sleep=False))
    machine.serial.write(TYPED)
    return machine


def fingerprint(machine: Machine) -> str:
    digest = hashlib.sha256()
    digest.update(repr((machine.instructions, machine.virtual_time, machine.cpu.registers())).encode())
    digest.update(machine.read(0x8000_0000, 16 << 20))
    digest.update(machine.serial.output)
    return digest.hexdigest()


def test_twenty_runs_are_identical_to_the_last_byte() -> None:
    seen = set()
    for _ in range(20):
        with toy() as machine:
            machine.run(until=Instructions(GOAL), timeout=60)
            assert machine.instructions == GOAL
            seen.add(fingerprint(machine))
    assert seen == {EXPECTED}


def test_stopping_on_the_way_changes_nothing() -> None:
    with toy() as machine:
        for step in (1, 2, 3, 1009, 65_537, 999_983):
            machine.run(until=Instructions(step), timeout=60)
        machine.run(until=Instructions(GOAL - machine.instructions), timeout=60)
        assert fingerprint(machine) == EXPECTED


def test_the_clock_is_the_instructions_shifted_while_the_guest_does_not_sleep() -> None:
    with Machine("virt", ram="16M", kernel=TOY.with_name("bench.elf"), icount=Icount(4)) as machine:
        machine.run(until=Instructions(10_000), timeout=60)
        assert machine.virtual_time == 10_000 << 4


def test_a_sleeping_guest_jumps_to_its_next_deadline() -> None:
    with Machine("virt", ram="16M", kernel=TOY, icount=Icount(0, sleep=False)) as machine:
        machine.serial.write("count\r")
        machine.run(until=Serial("count 3600"), timeout=60)
        assert 3600 <= machine.virtual_time / 1e9 < 3601


def test_virtual_time_can_be_waited_for() -> None:
    with Machine("virt", ram="16M", kernel=TOY, icount=Icount(0, sleep=False)) as machine:
        machine.run(until=Elapsed(2.5), timeout=60)
        assert 2_500_000_000 <= machine.virtual_time < 2_500_100_000


def test_counting_needs_icount() -> None:
    with Machine("virt", ram="16M", kernel=TOY) as machine, pytest.raises(ConfigError, match="only with icount"):
        machine.run(until=Instructions(1), timeout=60)
