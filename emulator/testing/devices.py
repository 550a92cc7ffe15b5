"""What every device promises, tried through its registers: that its state is all there is to it."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.testing.descriptions import Checker, blaming

AnyDevice = TypeVar("AnyDevice", bound=Device)

STEPS = 150
"""The most steps before a state is looked at; as many follow in the comparison of twins."""
STEPS_ON_ACCEPTED = 25
"""How long a device runs on a state that a falsified payload holds."""
WINDOW = 0x1000
"""How much of a region is accessed if nobody says where its registers are."""
WAITS = (0, 1, 1_000, 1_000_000, 10**9)
"""Ns for which a step lets the clock run."""


class Bench:
    """What a device is wired to in a test: lines that note their edges, and a clock that the bench moves."""

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self.clock = VirtualClock(lambda: self.now)
        self.edges: list[tuple[str, bool]] = []
        self._lines: list[IrqLine] = []

    def line(self, name: str = "irq") -> IrqLine:
        """A new interrupt line for the device to drive."""
        line = IrqLine(name)
        line.connect(lambda level: self.edges.append((name, level)))
        self._lines.append(line)
        return line

    def levels(self) -> dict[str, bool]:
        """The present levels of all lines."""
        return {line.name: line.level for line in self._lines}

    def wait(self, ns: int) -> None:
        """Let the clock run on, and fire what is due."""
        self.now += ns
        self.clock.run_expired()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to a device: an access, an event of the author's, or time that passes."""

    kind: str
    region: int = 0
    offset: int = 0
    size: int = 0
    value: int = 0

    def __str__(self) -> str:
        where = f"{self.size} bytes at 0x{self.offset:x} of region {self.region}"
        return {
            "load": f"a load of {where}",
            "store": f"a store of 0x{self.value:x}, {where}",
            "event": f"event {self.value}",
            "wait": f"a wait of {self.value} ns",
        }[self.kind]


class Driver:
    """Takes devices of one kind through random steps."""

    def __init__(self, dice: random.Random, offsets: Sequence[int], events: Sequence[Callable[[Any], object]]) -> None:
        self._dice = dice
        self._offsets = offsets
        self._events = events

    def steps(self, device: Device, count: int) -> list[Step]:
        """Random steps for a device like this one."""
        return [self._step(device) for _ in range(count)]

    def take(self, device: Device, bench: Bench, steps: list[Step], after: str) -> list[object]:
        """Take the steps and return what the loads returned; an exception becomes an AssertionError."""
        seen: list[object] = []
        for step in steps:
            with blaming(f"{step}{after}", "a guest may do anything, and no state that is loaded may break the chip"):
                seen.append(self._take(device, bench, step))
        return seen

    def _step(self, device: Device) -> Step:
        dice = self._dice
        choice = dice.random()
        if choice < 0.1 or not device.regions:
            return Step("wait", value=dice.choice(WAITS))
        if self._events and choice < 0.25:
            return Step("event", value=dice.randrange(len(self._events)))
        index = dice.randrange(len(device.regions))
        region = device.regions[index]
        for _ in range(100):
            size = dice.choice((1, 2, 4, 8))
            at_random = dice.randrange(min(region.size, WINDOW)) & -size
            offset = dice.choice(self._offsets) if self._offsets and index == 0 and dice.random() < 0.9 else at_random
            if offset + size <= region.size and region.accepts(offset, size):
                break
        else:
            return Step("wait")
        value = dice.choice((0, 1, dice.getrandbits(4), dice.getrandbits(8), dice.getrandbits(64), 2**64 - 1))
        kind = "load" if dice.random() < 0.4 else "store"
        return Step(kind, index, offset, size, value & (1 << 8 * size) - 1 if kind == "store" else 0)

    def _take(self, device: Device, bench: Bench, step: Step) -> object:
        if step.kind == "wait":
            bench.wait(step.value)
        elif step.kind == "event":
            return self._events[step.value](device)
        elif step.kind == "store":
            device.regions[step.region].write(step.offset, step.size, step.value)
        else:
            return device.regions[step.region].read(step.offset, step.size)
        return None


def check_device(
    make_device: Callable[[Bench], AnyDevice],
    *,
    offsets: Sequence[int] = (),
    events: Sequence[Callable[[AnyDevice], object]] = (),
    samples: Callable[[], Iterable[Any]] = lambda: (),
    carry: Callable[[AnyDevice, AnyDevice], None] = lambda _old, _new: None,
    rounds: int = 20,
    seed: int = 0,
) -> None:
    """Try a device and the descriptions in its `vmstate`; `make_device` builds one on a bench, always the same.

    Each round takes a device through random register accesses and looks at the state that it is in then: all that
    `check_description` does, and in addition a twin, made anew, that adopts the loaded state. Adopting may make no
    edge; afterwards both must do the same, load by load and edge by edge. States that a falsified payload holds are
    adopted too, and the device must live with them.

    `offsets` says where the first region's registers are, for one that is large and mostly empty. `events` are what
    else happens to the device, such as input. `samples` makes states that no guest leads to, such as a peer's. `carry`
    moves what is neither state nor made by `make_device`, such as memory. Raises AssertionError.
    """
    dice = random.Random(seed)
    driver = Driver(dice, offsets, events)
    device = make_device(Bench())
    checker = Checker(device.vmstate, device.fresh, device.check)
    checker.check_complete()
    states = [device.fresh()]
    for number in range(rounds):
        bench = Bench()
        device = make_device(bench)
        driver.take(device, bench, driver.steps(device, number and dice.randrange(STEPS)), "")
        states.append(copy.deepcopy(device.state))
        checker.check_round_trip(device.state)
        _compare_twins(make_device, checker, driver, device, bench, carry)
    for sample in samples():
        bench = Bench()
        device = make_device(bench)
        _adopt(device, bench, copy.deepcopy(sample))
        states.append(sample)
        _compare_twins(make_device, checker, driver, device, bench, carry)
    for state in states:
        checker.check_round_trip(state)
        bench = Bench()
        victim = make_device(bench)

        def accepted(loaded: Any, what: str, victim: AnyDevice = victim, bench: Bench = bench) -> None:
            after = f" after {what}"
            _adopt(victim, bench, loaded, after)
            driver.take(victim, bench, driver.steps(victim, STEPS_ON_ACCEPTED), after)
            checker.must_save(victim.state, after)

        checker.check_refusals(state, dice, accepted)
    checker.check_nothing_forgotten(states)


def _adopt(device: Device, bench: Bench, state: Any, after: str = "") -> None:
    before = len(bench.edges)
    with blaming(f"adopting a state{after}", "check it on load: adopt must not fail"):
        device.adopt(state)
    edges = bench.edges[before:]
    assert not edges, f"adopting a state makes an edge on {edges[0][0]}: use restore_level, not set"


def _compare_twins(
    make_device: Callable[[Bench], AnyDevice],
    checker: Checker,
    driver: Driver,
    device: AnyDevice,
    bench: Bench,
    carry: Callable[[AnyDevice, AnyDevice], None],
) -> None:
    """Let a copy of the device go the same way: whatever it does otherwise was not in the state."""
    twin_bench = Bench(bench.now)
    twin = make_device(twin_bench)
    payloads = checker.must_save(device.state)
    carry(device, twin)
    _adopt(twin, twin_bench, checker.load(payloads))
    assert checker.must_save(twin.state) == payloads, "adopt changes the state that it is given"
    levels = bench.levels(), twin_bench.levels()
    assert levels[0] == levels[1], f"lines are {levels[0]} before saving and {levels[1]} after adopting: derive them"
    bench.edges.clear()
    remedy = "something that it depends on is not in the state"
    for step in driver.steps(device, STEPS):
        ours, theirs = (driver.take(each, at, [step], "") for each, at in ((device, bench), (twin, twin_bench)))
        assert ours == theirs, f"{step} returns {ours[0]}, but {theirs[0]} after saving and loading: {remedy}"
        edges = bench.edges, twin_bench.edges
        assert edges[0] == edges[1], f"{step} makes edges {edges[0]}, but {edges[1]} after saving and loading: {remedy}"
        same = checker.must_save(device.state) == checker.must_save(twin.state)
        assert same, f"{step} leads to another state after saving and loading: {remedy}"
