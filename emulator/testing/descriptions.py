"""What every description promises, tried on states: a round trip, bounds, and that nothing is forgotten."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from emulator.migration.checks import unknown_attributes
from emulator.migration.errors import StateError, StreamError, TruncatedError
from emulator.migration.vmdesc import decode, save_section
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer
from emulator.testing.payloads import (
    HEADING,
    NUMBERS,
    Place,
    bounds_of,
    excess_of,
    extremes,
    places_of,
    replaced,
    without_indexes,
)
from emulator.testing.states import Path, change, derived_names, is_within, leaf_at, leaves, name_of, others

CUTS = 1000
"""In how many places a long payload is cut."""
FLIPS = 100
"""How many payloads are tried with random bytes."""

Payloads = dict[str, bytes]
Accepted = Callable[[Any, str], None]


def check_description(
    description: VMStateDescription,
    make_state: Callable[[random.Random], Any],
    *,
    fresh: Callable[[], Any] | None = None,
    rounds: int = 20,
    seed: int = 0,
) -> None:
    """Try a description on `rounds` states from `make_state`, which gets the random numbers to make them from.

    `fresh` makes a state to load into, by default the state class does. A state that is saved and loaded must be the
    same in all that is not derived, and its bytes those that the stream's own description tells; each truncation and
    each number out of bounds must be refused, with the field's path and its place; no other number may cause anything
    but a StreamError; and each attribute, changed for itself, must come back changed. Raises AssertionError.
    """
    dice = random.Random(seed)
    checker = Checker({description.name: description}, fresh or description.state_class)
    states = [make_state(dice) for _ in range(rounds)]
    checker.check_complete()
    for state in states:
        checker.check_round_trip(state)
        checker.check_refusals(state, dice)
    checker.check_nothing_forgotten(states)


@contextmanager
def blaming(what: str, remedy: str) -> Iterator[None]:
    """Turn an exception that nobody expected into an AssertionError that says what it came of."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}; {remedy}") from error


class Checker:
    """The sections of one state; `check` is what the owner has to say about a loaded one."""

    def __init__(
        self,
        sections: Mapping[str, VMStateDescription],
        fresh: Callable[[], Any],
        check: Callable[[Any], None] = lambda _state: None,
    ) -> None:
        self._sections = sections
        self._fresh = fresh
        self._check = check
        self._derived = set[str]().union(*map(derived_names, sections.values()))
        self._bounds = {name: dict(bounds_of(description)) for name, description in sections.items()}

    def save(self, state: Any) -> Payloads:
        """The payload of each section; raises StateError."""
        payloads = {}
        for name, description in self._sections.items():
            writer = Writer()
            description.save(state, writer)
            payloads[name] = bytes(writer.data)
        return payloads

    def must_save(self, state: Any, after: str = "") -> Payloads:
        """The payloads of a state that a device has got into."""
        with blaming(f"saving a state{after}", "the description must hold every state that the device can get into"):
            return self.save(state)

    def describe(self, state: Any) -> tuple[Payloads, dict[str, dict[str, Any]]]:
        """The payload and the stream's description of each section; raises StateError."""
        payloads, described = {}, {}
        for name, description in self._sections.items():
            writer = Writer()
            described[name] = save_section(description, state, writer, name=name, instance_id=0)
            payloads[name] = bytes(writer.data)
        assert payloads == self.save(state), "a state is saved as something else the second time"
        return payloads, described

    def load(self, payloads: Payloads) -> Any:
        """The state that the payloads hold, all of them; raises StreamError."""
        state = self._fresh()
        for name, description in self._sections.items():
            reader = Reader(payloads[name])
            state = description.load(reader, None, state)
            if reader.remaining:
                raise StreamError("the end of the section", f"{reader.remaining} bytes more", offset=reader.offset)
        self._check(state)
        return state

    def check_complete(self) -> None:
        """No attribute may be left out by all sections."""
        missing = set.intersection(*(set(unknown_attributes(each)) for each in self._sections.values()))
        missing = {name for name in missing if not is_within(name, self._derived)}
        assert not missing, f"{', '.join(sorted(missing))}: no field describes it; add one, or name it in `derived`"

    def check_round_trip(self, state: Any) -> None:
        """What is saved must load as the same state, and be described as it is."""
        self.must_save(state)
        payloads, described = self.describe(state)
        for name, section in described.items():
            reader = Reader(payloads[name])
            with blaming(f"reading {name} by the stream's own description", "fields must not depend on each other"):
                decode(section, reader)
            assert not reader.remaining, f"the stream's own description of {name} leaves out {reader.remaining} bytes"
        with blaming("loading what was saved", "a bound or a check is too narrow"):
            loaded = self.load(payloads)
        lost = _differences(state, loaded, self._derived)
        assert not lost, f"saved and loaded, {lost}"
        assert self.save(loaded) == payloads, "a loaded state is saved as something else"

    def check_refusals(self, state: Any, dice: random.Random, accepted: Accepted = lambda _state, _what: None) -> None:
        """Cut and falsify a payload; `accepted` gets what is loaded all the same, and how it came about."""
        payloads, described = self.describe(state)
        for name, payload in payloads.items():
            places = places_of(described[name])
            self._check_truncations(name, payloads, places, dice)
            for place in _few_of_each(places):
                self._check_number(name, payloads, place, accepted)
            for _ in range(FLIPS if payload else 0):
                data = bytearray(payload)
                where = [dice.randrange(len(data)) for _ in range(dice.choice((1, 1, 2, 4)))]
                for at in where:
                    data[at] = dice.choice((dice.randrange(256), data[at] ^ 1 << dice.randrange(8)))
                what = f"{name} with other bytes at {', '.join(map(str, where))}"
                self._try({**payloads, name: bytes(data)}, what, accepted)

    def _check_truncations(self, name: str, payloads: Payloads, places: list[Place], dice: random.Random) -> None:
        payload = payloads[name]
        headings = [place for place in places if place.type_name == HEADING]
        cuts = range(len(payload)) if len(payload) <= CUTS else dice.sample(range(len(payload)), CUTS)
        for length in cuts:
            if any(length == heading.offset for heading in headings):
                continue  # a shorter payload, but a whole one
            within = any(heading.offset < length < heading.offset + heading.size for heading in headings)
            what = f"{name} cut to {length} of {len(payload)} bytes"
            came = self._attempt({**payloads, name: payload[:length]}, what)
            kind = StreamError if within else TruncatedError
            assert isinstance(came, kind), f"{what} should be a {kind.__name__}, and is {came!r}"

    def _check_number(self, name: str, payloads: Payloads, place: Place, accepted: Accepted) -> None:
        for content in extremes(place, payloads[name]):
            what = f"{place.path} = 0x{content.hex()}"
            self._try({**payloads, name: replaced(payloads[name], place, content)}, what, accepted)
        info = self._bounds[name].get(without_indexes(place.path))
        excess = excess_of(info) if info else None
        if excess is None:
            return
        what = f"{place.path} = 0x{excess.hex()}, which is out of its bounds"
        came = self._attempt({**payloads, name: replaced(payloads[name], place, excess)}, what)
        assert isinstance(came, StreamError), f"{what}, is loaded"
        where = f"{came.path} at byte {came.offset}"
        assert where == f"{place.path} at byte {place.offset}", f"{what}, is refused as {where}"

    def _try(self, payloads: Payloads, what: str, accepted: Accepted) -> None:
        """Load what may be wrong: a StreamError that says where, or a state that can be saved again."""
        came = self._attempt(payloads, what)
        if isinstance(came, StreamError):
            assert came.path or came.offset is not None, f"{what} is refused without saying where: {came}"
            return
        with blaming(f"saving a state that was loaded with {what}", "refuse on load what cannot be saved"):
            self.save(came)
        accepted(came, what)

    def _attempt(self, payloads: Payloads, what: str) -> Any:
        """The state that the payloads hold, or the StreamError that they cause."""
        with blaming(f"loading {what}", "give the field a bound, or check it in post_load"):
            try:
                return self.load(payloads)
            except StreamError as error:
                return error

    def check_nothing_forgotten(self, states: list[Any]) -> None:
        """Each attribute, changed for itself in one of the states, must come back changed."""
        survived: set[str] = set()
        lost: dict[str, str] = {}
        for state in states:
            for path in _few_paths(state):
                name = name_of(path)
                if name in survived or is_within(name, self._derived):
                    continue
                lost.setdefault(name, f"{name} is never changed by these states: add one in which it can be")
                for value in others(leaf_at(state, path)):
                    got = self._change(state, path, value)
                    if got is _REFUSED:
                        continue
                    if got == value:
                        survived.add(name)
                        break
                    lost[name] = f"{name} was set to {value!r}, saved and loaded, and is {got!r}: describe it"
        forgotten = [why for name, why in lost.items() if not any(is_within(other, {name}) for other in survived)]
        assert not forgotten, "; ".join(forgotten) + ", or name it in `derived`"

    def _change(self, state: Any, path: Path, value: Any) -> Any:
        """What becomes of a changed attribute, _REFUSED if the state cannot be so."""
        changed = copy.deepcopy(state)
        try:
            change(changed, path, value)
            return leaf_at(self.load(self.save(changed)), path)
        except (StateError, StreamError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return _REFUSED


_REFUSED = object()
_ABSENT = object()


def _few_of_each(places: list[Place]) -> list[Place]:
    """The numbers among the places, but of an array only the first, second and last."""
    by_name: dict[str, list[Place]] = {}
    for place in places:
        if place.type_name in NUMBERS:
            by_name.setdefault(without_indexes(place.path), []).append(place)
    return [place for group in by_name.values() for place in dict.fromkeys((*group[:2], group[-1]))]


def _few_paths(state: Any) -> list[Path]:
    """The paths of a state's leaves, but of an array only the first, second and last."""
    by_name: dict[str, list[Path]] = {}
    for path, _ in leaves(state):
        by_name.setdefault(name_of(path), []).append(path)
    return [path for group in by_name.values() for path in dict.fromkeys((*group[:2], group[-1]))]


def _differences(state: Any, loaded: Any, derived: set[str]) -> str:
    """What a loaded state has otherwise than the saved one, but for what is derived; empty if nothing."""
    before, after = dict(leaves(state)), dict(leaves(loaded))
    found = []
    for path in before.keys() | after.keys():
        was, now = before.get(path, _ABSENT), after.get(path, _ABSENT)
        same = was == now or repr(was) == repr(now)  # not-a-number is not equal to itself
        if not same and not is_within(name_of(path), derived):
            found.append(f"{name_of(path)} was {was!r} and is {now!r}")
    return "; ".join(sorted(found)[:5])
