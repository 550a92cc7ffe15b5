"""Who has state in a stream: sections by name and instance, in the order in which they are sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from emulator.migration.vmstate import VMStateDescription

FIRST_SECTION_ID = 2
"""Ids of a stream's sections are its own affair; 1 is RAM's, which is not in this registry."""


class Owner(Protocol):
    """A part of the machine with state that a description covers: a device, the vCPU, the clock."""

    @property
    def vmstate(self) -> Mapping[str, VMStateDescription]:
        """Its sections: a description of the state, or of a part of it, by the section's name."""

    @property
    def state(self) -> Any:
        """The present state, complete."""

    def fresh(self) -> Any:
        """A state to load into, sized as this owner's wiring demands."""

    def check(self, state: Any) -> None:
        """Refuse, by a StreamError, a loaded state that this owner cannot have; nothing has changed yet."""

    def adopt(self, state: Any) -> None:
        """Take over a loaded and checked state; must not fail."""


class Sent:
    """A part of the machine in a state of its own, to be sent only."""

    def __init__(self, part: Owner, state: Any) -> None:
        self._part = part
        self.vmstate: Mapping[str, VMStateDescription] = part.vmstate
        self.state = state

    def fresh(self) -> Any:
        """See Owner."""
        return self._part.fresh()

    def check(self, state: Any) -> None:
        """See Owner."""
        self._part.check(state)

    def adopt(self, state: Any) -> None:
        """See Owner."""
        self._part.adopt(state)


class Entry(NamedTuple):
    """One section that a machine sends and expects."""

    name: str
    instance_id: int
    section_id: int
    version_id: int
    """The version that is sent; all that the description has can be loaded."""
    description: VMStateDescription
    owner: Owner

    def __str__(self) -> str:
        return self.name if not self.instance_id else f"{self.name}[{self.instance_id}]"


class Registry:
    """The sections of one machine; iterating gives them in sending order: by priority, then as registered.

    `versions` are those that a machine type sends other sections in than their descriptions' newest, by name. A stream
    need not have those sections that are `optional`.
    """

    def __init__(self, versions: Mapping[str, int] | None = None, *, optional: Collection[str] = ()) -> None:
        self._versions = versions or {}
        self.optional = optional
        self._entries: list[Entry] = []
        self._instances: Counter[str] = Counter()
        self.owners: list[Owner] = []
        """Everybody with state, in the order of registration, which is also that of adopting."""

    def register(self, owner: Owner) -> None:
        """Add an owner, if it has any section; a name that is there already gets the next instance id."""
        if owner.vmstate:
            self.owners.append(owner)
        for name, description in owner.vmstate.items():
            instance = self._instances[name]
            self._instances[name] += 1
            version = self._versions.get(name, description.version_id)
            section_id = FIRST_SECTION_ID + len(self._entries)
            self._entries.append(Entry(name, instance, section_id, version, description, owner))

    def renewed(self) -> Registry:
        """The same sections, with all owners in a fresh state."""
        renewed = Registry(self._versions, optional=self.optional)
        for owner in self.owners:
            renewed.register(Sent(owner, owner.fresh()))
        return renewed

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries, key=lambda entry: -entry.description.priority))

    def find(self, name: str, instance_id: int) -> Entry | None:
        """The section of that name and instance, if this machine has it."""
        for entry in self._entries:
            if (entry.name, entry.instance_id) == (name, instance_id):
                return entry
        return None
