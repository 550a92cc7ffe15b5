"""All sections of a stream but RAM: the registry's owners to bytes, and bytes to fresh states.

Sections may come in any order. Each that the machine has must come, and only once; there may be no other. Sections of
one owner are loaded into one fresh state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from emulator.core.memory import PAGE_SIZE
from emulator.migration.errors import MigrationError, StreamError, SubsectionError, UnknownSectionError
from emulator.migration.format import (
    Heading,
    Mark,
    SectionReader,
    get_footer,
    naming,
    put_footer,
    put_heading,
)
from emulator.migration.registry import Entry, Owner, Registry
from emulator.migration.vmdesc import save_section, to_json
from emulator.migration.wire import Reader, Writer


def put_devices(registry: Registry, writer: Writer) -> bytes:
    """Append every section but RAM, and return the stream's description of itself.

    Raises StateError, and MigrationError if there is one that is not to be saved.
    """
    described = []
    for entry, state in _needed(registry):
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
    return to_json(described, page_size=PAGE_SIZE)


def device_sections(registry: Registry) -> Iterator[bytearray]:
    """The same sections one after the other, in half the time as nothing is described; raises the same."""
    for entry, state in _needed(registry):
        writer = Writer()
        put_heading(writer, _heading(entry))
        entry.description.save(state, writer, version_id=entry.version_id)
        put_footer(writer, entry.section_id)
        yield writer.data


def _needed(registry: Registry) -> Iterator[tuple[Entry, Any]]:
    for entry in registry:
        if entry.description.unmigratable:
            raise MigrationError(f"State blocked by non-migratable device '{entry}'")
        state = entry.owner.state
        if entry.description.is_needed(state):
            yield entry, state


def _heading(entry: Entry) -> Heading:
    return Heading(Mark.FULL, entry.section_id, entry.name, entry.instance_id, entry.version_id)


def rehearse_saving(registry: Registry) -> None:
    """Save every part as if it were new, for nothing; the machine may run.

    What Python does for the first time takes it twice as long, and in earnest the guest stands still meanwhile.
    """
    new = registry.renewed()
    for _ in device_sections(new):
        pass
    put_devices(new, Writer())


def rehearse_loading(registry: Registry) -> None:
    """Load what the machine, which must be stopped, would save, for nothing."""
    sections, devices = SectionReader(), DeviceLoader(registry)
    for section in device_sections(registry):
        reader = Reader(section)
        if heading := sections.next(reader):
            devices.read(reader, heading)
    devices.states()


class DeviceLoader:
    """Reads the sections of one stream; nobody's state changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._fresh = {id(owner): owner.fresh() for owner in registry.owners}
        self._seen: set[int] = set()
        """Their ids in the registry."""
        self._begins: dict[int, int] = {}
        """Where the payload of each owner's first section begins."""

    def read(self, reader: Reader, heading: Heading) -> None:
        """Read one section behind its heading; raises StreamError.

        Where that only means that more has to arrive, the section may be read again from the same place.
        """
        with naming(heading):
            entry = self._load(reader, heading)
        get_footer(reader, heading)
        self._seen.add(entry.section_id)

    def _load(self, reader: Reader, heading: Heading) -> Entry:
        entry = self._registry.find(heading.name, heading.instance_id)
        if entry is None or heading.mark != Mark.FULL:
            expected = "a section of this machine (leave out the device or CPU that has it where this comes from)"
            raise UnknownSectionError(expected, str(heading), offset=reader.offset)
        if entry.section_id in self._seen:
            raise UnknownSectionError("each section once", f"{heading} again", offset=reader.offset)
        self._begins.setdefault(id(entry.owner), reader.offset)
        state = self._fresh[id(entry.owner)]
        try:
            entry.description.load(reader, heading.version_id, state)
        except SubsectionError as error:
            if not error.path:
                self._check(entry.owner)  # what it has besides may follow from what it is: that is the better reason
            raise
        return entry

    def check_complete(self, end: int) -> None:
        """Raise UnknownSectionError if a section has not come before the end of the sections, at byte `end`."""
        for entry in self._registry:
            must_come = entry.name not in self._registry.optional and entry.section_id not in self._seen
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
