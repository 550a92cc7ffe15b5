"""All sections of a stream but RAM: the registry's owners to bytes, and bytes to fresh states.

Sections may come in any order. Each that the machine has must come, and only once; there may be no other. Sections of
one owner are loaded into one fresh state.
"""

from __future__ import annotations

from typing import Any

from emulator.migration.errors import StreamError, SubsectionError, UnknownSectionError
from emulator.migration.format import Heading, Mark, put_footer, put_heading
from emulator.migration.registry import Entry, Owner, Registry
from emulator.migration.vmdesc import save_section
from emulator.migration.wire import Reader, Writer


def put_devices(registry: Registry, writer: Writer) -> list[dict[str, Any]]:
    """Append every section but RAM, and return their descriptions; raises StateError."""
    described = []
    for entry in registry:
        state = entry.owner.state
        if not entry.description.is_needed(state):
            continue
        put_heading(writer, _heading(entry))
        section = save_section(
            entry.description,
            state,
            writer,
            name=entry.name,
            instance_id=entry.instance_id,
            version_id=entry.version_id,
        )
        described.append(section)
        put_footer(writer, entry.section_id)
    return described


def _heading(entry: Entry) -> Heading:
    return Heading(Mark.FULL, entry.section_id, entry.name, entry.instance_id, entry.version_id)


class DeviceLoader:
    """Reads the sections of one stream; nobody's state changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._fresh = {id(owner): owner.fresh() for owner in registry.owners}
        self._seen: set[Entry] = set()
        self._begins: dict[int, int] = {}
        """Where the payload of each owner's first section begins."""

    def load(self, reader: Reader, heading: Heading) -> None:
        """Read one section's payload; raises StreamError."""
        entry = self._registry.find(heading.name, heading.instance_id)
        if entry is None or heading.mark != Mark.FULL:
            expected = "a section of this machine (leave out the device or CPU that has it where this comes from)"
            raise UnknownSectionError(expected, str(heading), offset=reader.offset)
        if entry in self._seen:
            raise UnknownSectionError("each section once", f"{heading} again", offset=reader.offset)
        self._seen.add(entry)
        self._begins.setdefault(id(entry.owner), reader.offset)
        state = self._fresh[id(entry.owner)]
        try:
            entry.description.load(reader, heading.version_id, state)
        except SubsectionError as error:
            if not error.path:
                self._check(entry.owner)  # what it has besides may follow from what it is: that is the better reason
            raise

    def check_complete(self, end: int) -> None:
        """Raise UnknownSectionError if a section has not come before the end of the sections, at byte `end`."""
        for entry in self._registry:
            must_come = entry.name not in self._registry.optional and entry not in self._seen
            if must_come and entry.description.is_needed(self._fresh[id(entry.owner)]):
                raise UnknownSectionError(f"section {entry}", "the end of the stream", offset=end)

    def states(self) -> list[tuple[Owner, Any]]:
        """Each owner and what it may adopt, in the order for that; raises the StreamError of one that may not."""
        checked = []
        for owner in self._registry.owners:
            self._check(owner)
            checked.append((owner, self._fresh[id(owner)]))
        return checked

    def _check(self, owner: Owner) -> None:
        try:
            owner.check(self._fresh[id(owner)])
        except StreamError as error:
            error.section = error.section or next(iter(owner.vmstate))
            if error.offset is None:
                error.offset = self._begins.get(id(owner))
            raise
