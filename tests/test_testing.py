"""The kit for authors of devices: each mistake that it is for is found, and what is right passes."""

from __future__ import annotations

import doctest
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from emulator.core.bus import MmioRegion
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Array, Buffer, Field, Info, QTailQ, Single, Timer, UInt8, UInt32, WithTmp
from emulator.migration.vmstate import VMStateDescription
from emulator.testing import Bench, check_description, check_device

PAGE = Path(__file__).resolve().parents[1] / "docs" / "writing-a-device.md"


# The guide


def test_the_guides_device_can_be_pasted_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    (device,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "bank.py").write_text(device)
    monkeypatch.syspath_prepend(str(tmp_path))
    sessions = "\n".join(re.findall(r"```pycon\n(.*?)```", page, re.DOTALL))
    said: list[str] = []
    session = doctest.DocTestParser().get_doctest(sessions, {"__name__": "page"}, PAGE.name, None, None)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, out=said.append)
    assert result.attempted > 20
    assert result.failed == 0, "".join(said)


# A device, and what can be wrong with it


@dataclass(slots=True)
class State:
    """A countdown: it starts when LOAD is written, and raises its line at the end until ACK."""

    reload: int = 0
    deadline: int | None = None
    expired: int = 0
    history: bytearray = field(default_factory=lambda: bytearray(4))
    last: int = 0


FIELDS: dict[str, Field] = {
    "reload": UInt32("reload"),
    "deadline": Timer("deadline"),
    "expired": UInt8("expired", limit=2),
    "history": Buffer("history", 4),
    "last": UInt8("last", limit=4),
}


def describe(**changes: Field | None) -> VMStateDescription:
    """The countdown's description with some fields changed or left out."""
    fields = {**FIELDS, **changes}
    return VMStateDescription("countdown", State, fields=tuple(each for each in fields.values() if each is not None))


class Countdown(Device):
    """LOAD 0x0, ACK 0x4, LAST 0x8: the index of the newest of four history bytes at 0xc."""

    kind = "countdown"
    vmstate: ClassVar[dict[str, VMStateDescription]] = {"countdown": describe()}

    def __init__(self, bench: Bench) -> None:
        self.irq = bench.line("done")
        self.clock: VirtualClock = bench.clock
        self.timer = bench.clock.timer("countdown", self.expire)
        self.regions = (MmioRegion("countdown", 0x10, self.read, self.write, min_size=4, max_size=4),)
        self.state = State()

    def adopt(self, state: State) -> None:
        self.state = state
        self.timer.set(state.deadline)
        self.irq.restore_level(bool(state.expired))

    def expire(self) -> None:
        self.state.deadline = None
        self.state.expired = 1
        self.irq.set(True)

    def read(self, offset: int, _size: int) -> int:
        s = self.state
        return (s.reload, s.expired, s.last, int(s.history[s.last]))[offset // 4]

    def write(self, offset: int, _size: int, value: int) -> None:
        s = self.state
        if offset == 0:
            s.reload = value
            s.last = (s.last + 1) % 4
            s.history[s.last] = value & 0xFF
            s.deadline = self.clock.now() + value
            self.timer.set(s.deadline)
        elif offset == 4:
            s.expired = 0
            self.irq.set(False)


def test_a_sound_device_passes() -> None:
    check_device(Countdown)


def test_the_same_seed_takes_the_same_way() -> None:
    ways: list[list[int]] = []

    class Watched(Countdown):
        def write(self, offset: int, size: int, value: int) -> None:
            ways[-1].append(value)
            super().write(offset, size, value)

    for seed in (1, 1, 2):
        ways.append([])
        check_device(Watched, rounds=2, seed=seed)
    assert ways[0] == ways[1] != ways[2]


class Edgy(Countdown):
    def adopt(self, state: State) -> None:
        super().adopt(state)
        self.irq.restore_level(False)
        self.irq.set(bool(state.expired))


class Deaf(Countdown):
    def adopt(self, state: State) -> None:
        super().adopt(state)
        self.irq.restore_level(False)


class Sleepy(Countdown):
    def adopt(self, state: State) -> None:
        self.state = state
        self.irq.restore_level(bool(state.expired))


class Meddling(Countdown):
    def adopt(self, state: State) -> None:
        super().adopt(state)
        state.reload = 0


class Secretive(Countdown):
    writes = 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes += 1
        super().write(offset, size, value)

    def read(self, offset: int, size: int) -> int:
        return self.writes if offset == 4 else super().read(offset, size)


class Fragile(Countdown):
    def adopt(self, state: State) -> None:
        super().adopt(state)
        if state.deadline == 2**63 - 1:
            raise RuntimeError("too late")


def with_fields(**changes: Field | None) -> type[Countdown]:
    """The countdown with another description."""

    class Changed(Countdown):
        vmstate: ClassVar[dict[str, VMStateDescription]] = {"countdown": describe(**changes)}

    return Changed


class Stubborn(Info):
    """A byte that raises something of its own."""

    type_name = "uint8"

    def put(self, writer: Any, value: Any, _entry: Any = None) -> None:
        writer.u8(value)

    def get(self, reader: Any, _current: Any) -> Any:
        return {value: value for value in range(4)}[reader.u8()]


class Greedy(Stubborn):
    """A byte that takes what it can get."""

    def get(self, reader: Any, _current: Any) -> Any:
        return reader.u8() if reader.remaining else 0


MISTAKES: dict[str, tuple[Callable[[Bench], Device], str]] = {
    "edge": (Edgy, "adopting a state makes an edge on done: use restore_level, not set"),
    "level": (Deaf, "lines are {'done': True} before saving and {'done': False} after adopting: derive them"),
    "timer": (Sleepy, "after saving and loading: something that it depends on is not in the state"),
    "adopt": (Meddling, "adopt changes the state that it is given"),
    "hidden": (Secretive, r"a load of 4 bytes at 0x4 of region 0 returns \d+, but \d+ after saving and loading"),
    "fragile": (Fragile, "adopting a state after deadline = 0x7fffffffffffffff raised RuntimeError: too late; check"),
    "forgotten": (with_fields(reload=None), "reload: no field describes it; add one, or name it in `derived`"),
    "unbounded": (with_fields(last=UInt8("last")), "after last = 0x.. raised IndexError: bytearray index out of range"),
    "narrow": (with_fields(reload=UInt8("reload")), "saving a state raised StateError: cannot save reload: expected"),
    "bound": (with_fields(last=UInt8("last", limit=2)), "saving a state raised StateError: .* expected 0 to 1, got 2"),
    "crash": (with_fields(last=Single("last", Stubborn())), "loading last = 0x.. raised KeyError: .*give the field a"),
    "greedy": (with_fields(last=Single("last", Greedy())), "countdown cut to 17 of 18 bytes should be a TruncatedErr"),
}


@pytest.mark.parametrize(("device", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found_and_the_author_is_told(device: Callable[[Bench], Device], says: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_device(device)
    said = str(caught.value)
    assert says in said or re.search(says, said), said


def test_check_has_its_say() -> None:
    class Checked(with_fields(last=UInt8("last"))):  # type: ignore[misc]
        def check(self, state: State) -> None:
            if state.last >= 4:
                raise FieldRangeError("last", state.last, 4)

    check_device(Checked)


# Events, samples, what is carried


class Inbox(Countdown):
    """A countdown beside a byte that comes from outside, and a memory that is not state."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.memory = [0]

    def read(self, offset: int, size: int) -> int:
        return self.memory[0] if offset == 8 else super().read(offset, size)

    def deliver(self) -> None:
        self.memory[0] += 1


def test_what_is_no_state_is_carried() -> None:
    def carry(old: Inbox, new: Inbox) -> None:
        new.memory[:] = old.memory

    check_device(Inbox, events=[Inbox.deliver], carry=carry)
    with pytest.raises(AssertionError, match="something that it depends on is not in the state"):
        check_device(Inbox, events=[Inbox.deliver])


def test_an_attribute_that_no_access_changes_needs_a_sample() -> None:
    class Listing(Countdown):
        vmstate: ClassVar[dict[str, VMStateDescription]] = {"listing": LISTING}

        def __init__(self, bench: Bench) -> None:
            super().__init__(bench)
            self.state: Any = ListingState()

        def adopt(self, state: Any) -> None:
            self.state = state

        def read(self, _offset: int, _size: int) -> int:
            return len(self.state.entries)

        def write(self, _offset: int, _size: int, _value: int) -> None:
            pass

    check_device(Listing, samples=lambda: [ListingState([EntryState(1)])])
    with pytest.raises(AssertionError, match="entries is never changed by these states: add one in which it can be"):
        check_device(Listing)


@dataclass(slots=True)
class EntryState:
    value: int = 0


@dataclass(slots=True)
class ListingState:
    entries: list[EntryState] = field(default_factory=list)


ENTRY = VMStateDescription("entry", EntryState, fields=(UInt8("value"),))
LISTING = VMStateDescription("listing", ListingState, fields=(QTailQ("entries", ENTRY, maximum=2),))


# Descriptions on their own


@dataclass(slots=True)
class Table:
    rows: list[int] = field(default_factory=lambda: [0, 0, 0])
    chosen: int = 0
    names: set[str] = field(default_factory=set)


@dataclass(slots=True)
class NamesTmp:
    parent: Table
    flags: int = 0

    def pre_save(self) -> None:
        self.flags = sum(1 << "abc".index(name) for name in self.parent.names)

    def post_load(self, _version_id: int) -> None:
        self.parent.names = {name for bit, name in enumerate("abc") if self.flags >> bit & 1}


NAMES = WithTmp(VMStateDescription("table/names", NamesTmp, fields=(UInt8("flags", bits=7),)), covers=("names",))


def table(dice: random.Random) -> Table:
    return Table([dice.randrange(9) for _ in range(3)], dice.randrange(3), set(dice.sample("abc", 2)))


def test_a_sound_description_passes() -> None:
    fields = (Array("rows", UInt8.below(9), 3), UInt8("chosen", limit=3), NAMES)
    check_description(VMStateDescription("table", Table, fields=fields), table)


def test_a_fresh_state_can_be_made_by_the_caller() -> None:
    description = VMStateDescription("table", Table, fields=(Array("rows", UInt8, 5), UInt8("chosen"), NAMES))
    check_description(
        description, lambda dice: Table([dice.randrange(9)] * 5, names={"a"}), fresh=lambda: Table([0] * 5)
    )


@dataclass(slots=True)
class CarelessTmp(NamesTmp):
    def post_load(self, _version_id: int) -> None:
        """Forget it."""


@dataclass(slots=True)
class EmptyTmp:
    parent: Table


CARELESS = VMStateDescription("table/names", CarelessTmp, fields=(UInt8("flags"),))
EMPTY = VMStateDescription("table/empty", EmptyTmp)


def test_what_a_temporary_claims_to_cover_is_tried() -> None:
    fields: tuple[Field, ...] = (Array("rows", UInt8, 3), UInt8("chosen"), WithTmp(CARELESS, covers=("names",)))
    with pytest.raises(AssertionError, match=r"saved and loaded, names was \{'.', '.'\} and is set\(\)"):
        check_description(VMStateDescription("table", Table, fields=fields), table)
    fields = (Array("rows", UInt8, 3), NAMES, WithTmp(EMPTY, covers=("chosen",)))
    with pytest.raises(AssertionError, match=r"chosen was set to 1, saved and loaded, and is 0: describe it"):
        check_description(VMStateDescription("table", Table, fields=fields), lambda _dice: Table(names={"a"}))
