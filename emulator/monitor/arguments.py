"""What arguments a command takes: one list for both monitors, which end up with the same mapping of names to values.

A kind says what its values are in QMP, and checks them with the words that QEMU has for what is wrong. How the human
monitor reads each kind from a line is in `hmp.py`; it knows those that its commands use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.core.errors import MonitorError

Arguments = Mapping[str, Any]
"""Values by name; an optional one that was not given is None."""


class Kind(Protocol):
    """A kind of value."""

    def accept(self, value: Any, name: str) -> Any:
        """A value from JSON as the command gets it; raises MonitorError, which calls it `name`."""


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A single value; `json` is the type by QEMU's name."""

    json: str
    types: tuple[type, ...]
    minimum: int | None = None
    maximum: int | None = None

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        fits = type(value) in self.types  # isinstance would take true for a number
        if fits and self.minimum is not None and self.maximum is not None:
            fits = self.minimum <= value <= self.maximum
        if not fits:
            raise wrong_type(name, self.json)
        return value


STRING = Scalar("string", (str,))
TAG = Scalar("string", (str,))
"""The name of a snapshot, which the human monitor can complete."""
WORDS = Scalar("string", (str,))
"""In the human monitor all that is left of the line."""
INTEGER = Scalar("integer", (int,), -(1 << 63), (1 << 63) - 1)
"""In the human monitor an expression."""
SIZE = Scalar("uint64", (int,), 0, (1 << 64) - 1)
NUMBER = Scalar("number", (int, float))
BOOLEAN = Scalar("boolean", (bool,))
FORMAT = Scalar("string", ())
"""`/FMT`, in the human monitor only."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean; in the human monitor a letter behind a dash, which is given or not."""

    letter: str

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        return BOOLEAN.accept(value, name)


@dataclass(frozen=True, slots=True)
class Option:
    """A string; in the human monitor a word behind `--word`, which is given or not."""

    word: str

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        return STRING.accept(value, name)


@dataclass(frozen=True, slots=True)
class OrNull:
    """A string, or null in the place of an empty one: QAPI's `StrOrNull`."""

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        return "" if value is None else STRING.accept(value, name)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several strings: QAPI's `enum`."""

    values: tuple[str, ...]

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        if STRING.accept(value, name) not in self.values:
            raise MonitorError(f"Parameter '{name}' does not accept value '{value}'")
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """Any number of values of one kind."""

    kind: Kind

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        if not isinstance(value, list):
            raise wrong_type(name, "array")
        return [self.kind.accept(element, f"{name}[{index}]") for index, element in enumerate(value)]


@dataclass(frozen=True, slots=True)
class Struct:
    """Named values: QAPI's `struct`."""

    members: tuple[Argument, ...]

    def accept(self, value: Any, name: str) -> Any:
        """See `Kind`."""
        if not isinstance(value, dict):
            raise wrong_type(name, "object")
        return accept_all(self.members, value, f"{name}.")


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command."""

    name: str
    kind: Kind
    optional: bool = False

    def __str__(self) -> str:
        """As the human monitor's help shows it."""
        if self.kind is FORMAT:
            return "/" + self.name
        if isinstance(self.kind, Flag):
            return f"[-{self.kind.letter}]"
        if isinstance(self.kind, Option):
            return f"[--{self.kind.word} {self.name}]"
        return f"[{self.name}]" if self.optional else self.name


def accept_all(arguments: tuple[Argument, ...], given: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The values for `arguments` among members of a JSON object; MonitorError if they are not what is wanted.

    `within` is what stands before the names in messages, for an object that is inside another.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        if argument.name in given:
            values[argument.name] = argument.kind.accept(given[argument.name], within + argument.name)
        elif argument.optional:
            values[argument.name] = None
        else:
            raise MonitorError(f"Parameter '{within}{argument.name}' is missing")
    unexpected = next((name for name in given if name not in values), None)
    if unexpected is not None:
        raise MonitorError(f"Parameter '{within}{unexpected}' is unexpected")
    return values


def wrong_type(name: str, expected: str) -> MonitorError:
    """What is said of a value of another type."""
    return MonitorError(f"Invalid parameter type for '{name}', expected: {expected}")
