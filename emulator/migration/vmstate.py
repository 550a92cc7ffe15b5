"""VMStateDescription: what a device's state looks like on the wire, and how it gets there and back.

The layout is QEMU 7.2's: fields in their order, then subsections, each of them byte 05, u8 length and name, u32
version, its fields and its own subsections. Hooks come in QEMU's order: `pre_save`, fields, subsections, `post_save`;
`pre_load`, fields, subsections, `post_load`. A hook that is not given is the state class's method of that name, if it
has one; subsections, which share their parent's state, call only what is given to them.

Loading fills a fresh state and never touches any other; the caller adopts it when the whole stream has proven good.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any

from emulator.migration.checks import check_description
from emulator.migration.errors import (
    StateError,
    StreamError,
    SubsectionError,
    ValidationError,
    VersionError,
)
from emulator.migration.fields.base import Entry, Field, Info
from emulator.migration.runs import Run, compile_fields
from emulator.migration.wire import Reader, Writer

SUBSECTION = 0x05
"""The byte that announces a subsection."""

SaveHook = Callable[[Any], None]
PostLoadHook = Callable[[Any, int], None]
Needed = Callable[[Any], bool]


class MigrationPriority(enum.IntEnum):
    """Which sections go first: higher before lower, equal in the order in which they were registered."""

    DEFAULT = 0
    IOMMU = 1
    PCI_BUS = 2
    VIRTIO_MEM = 3
    GICV3_ITS = 4
    GICV3 = 5


class VMStateDescription(Info):
    """The state of a device, of a struct in it, or of a subsection.

    `name` is the section's, struct's or (with its parent's name and by custom a slash in front) the subsection's.
    `state_class` is the dataclass described; subsections describe their parent's. Versions from `minimum_version_id` to
    `version_id` can be loaded; `version_id` is saved. A subsection is saved if `needed` says so, or has no `needed`.
    `derived` names the attributes that no field describes because they follow from others or from the wiring.
    `priority` says whose section comes first in a stream; a machine with one that is `unmigratable` cannot be saved.

    Raises DescriptionError if it contradicts itself or the state class.
    """

    type_name = "struct"

    def __init__(
        self,
        name: str,
        state_class: type[Any],
        *,
        version_id: int = 0,
        minimum_version_id: int = 0,
        priority: MigrationPriority = MigrationPriority.DEFAULT,
        unmigratable: bool = False,
        needed: Needed | None = None,
        pre_load: SaveHook | None = None,
        post_load: PostLoadHook | None = None,
        pre_save: SaveHook | None = None,
        post_save: SaveHook | None = None,
        fields: tuple[Field, ...] = (),
        subsections: tuple[VMStateDescription, ...] = (),
        derived: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.state_class = state_class
        self.version_id = version_id
        self.minimum_version_id = minimum_version_id
        self.priority = priority
        self.unmigratable = unmigratable
        self.needed = needed
        self._given_hooks = (pre_load, post_load, pre_save, post_save)
        self.pre_load = pre_load or getattr(state_class, "pre_load", None)
        self.post_load = post_load or getattr(state_class, "post_load", None)
        self.pre_save = pre_save or getattr(state_class, "pre_save", None)
        self.post_save = post_save or getattr(state_class, "post_save", None)
        self.fields = fields
        self.subsections = subsections
        self.derived = derived
        check_description(self)
        for subsection in subsections:
            subsection._leave_methods_to_parent()
        self.compresses = not subsections and all(field.compresses for field in fields)
        self._subsections = {subsection.name: subsection for subsection in subsections}
        self._steps: dict[int, list[Field | Run]] = {}

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """Itself."""
        return (self,)

    def __repr__(self) -> str:
        return f"<VMStateDescription {self.name}>"

    def is_needed(self, state: Any) -> bool:
        """Whether the section or subsection is to be saved at all."""
        return self.needed is None or self.needed(state)

    def save(
        self, state: Any, writer: Writer, *, version_id: int | None = None, vmdesc: dict[str, Any] | None = None
    ) -> None:
        """Append `state` in the form of `version_id`, by default the newest; add its description to `vmdesc`.

        Raises StateError if the state does not fit the description.
        """
        if version_id is None:
            version_id = self.version_id
        if self.pre_save:
            self.pre_save(state)
        try:
            if vmdesc is None:
                self._save_fields(state, writer, version_id)
            else:
                self._save_described(state, writer, version_id, vmdesc)
            self._save_subsections(state, writer, vmdesc)
        finally:
            if self.post_save:
                self.post_save(state)

    def load(self, reader: Reader, version_id: int | None = None, state: Any = None) -> Any:
        """Read a section's payload in the form of `version_id`, by default the newest, and return the state.

        It is loaded into `state`, which must be fresh: what the receiving machine knows already (values that must be
        equal, lengths of arrays, which pointers are null) is taken from there. By default that is `state_class()`.
        Raises StreamError; the fresh state is then worthless.
        """
        try:
            state = self.load_struct(reader, state, self.version_id if version_id is None else version_id)
            if reader.peek() == SUBSECTION:
                begin = reader.offset
                reader.skip(1)
                name = reader.read(reader.u8()).decode("latin-1")
                raise SubsectionError("the end of the section", f"subsection {name}", offset=begin)
        except StreamError as error:
            error.section = error.section or self.name
            raise
        return state

    def load_struct(self, reader: Reader, state: Any, version_id: int) -> Any:
        """Read fields and subsections into `state` (None: a new one), and return it; raises StreamError."""
        if not self.minimum_version_id <= version_id <= self.version_id:
            expected = f"version {self.minimum_version_id} to {self.version_id}"
            raise VersionError(expected, version_id, offset=reader.offset)
        if state is None:
            state = self.state_class()
        try:
            if self.pre_load:
                self.pre_load(state)
            self._load_fields(state, reader, version_id)
            self._load_subsections(state, reader)
            if self.post_load:
                self.post_load(state, version_id)
        except StreamError as error:
            if error.offset is None:
                error.offset = reader.offset
            raise
        return state

    def put(self, writer: Writer, value: Any, entry: Entry | None = None) -> None:
        """Append `value`, a struct inside another state; raises StateError."""
        if value is None:
            raise StateError(f"a {self.name}", None)
        vmdesc = None
        if entry is not None:
            vmdesc = entry["struct"] = {}
        self.save(value, writer, vmdesc=vmdesc)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read a struct inside another state into `current` (None: a new one); raises StreamError."""
        return self.load_struct(reader, current, self.version_id)

    def put_many(self, writer: Writer, values: Sequence[Any]) -> None:
        """Append an array's structs, with one call if that is possible."""
        if not (self._repeated and self._repeated.save_all(values, writer)):
            super().put_many(writer, values)

    def get_many(self, reader: Reader, current: Sequence[Any]) -> Sequence[Any]:
        """Read an array's structs into those of the fresh state (None: new ones), with one call if that is possible."""
        if self._repeated:
            states = [self.state_class() if state is None else state for state in current]
            if self._repeated.load_all(states, reader):
                return states
        return super().get_many(reader, current)

    @functools.cached_property
    def _repeated(self) -> Run | None:
        """All that a struct of the newest version is, if that is nothing but a run that can be repeated."""
        hooks = (self.pre_load, self.post_load, self.pre_save, self.post_save)
        steps = self._steps_of(self.version_id)
        if self.subsections or any(hooks) or len(steps) != 1:
            return None
        (run,) = steps
        return run if isinstance(run, Run) and run.repeats else None

    def _leave_methods_to_parent(self) -> None:
        """Become a subsection: the state's own hooks are called once, by the description that has this one."""
        self.pre_load, self.post_load, self.pre_save, self.post_save = self._given_hooks

    def _steps_of(self, version_id: int) -> list[Field | Run]:
        steps = self._steps.get(version_id)
        if steps is None:
            steps = self._steps[version_id] = compile_fields(self.fields, version_id)
        return steps

    def _save_fields(self, state: Any, writer: Writer, version_id: int) -> None:
        for field in self._steps_of(version_id):
            try:
                if field.field_exists is None or field.field_exists(state, version_id):
                    field.save(state, writer)
                elif field.must_exist:
                    raise StateError("a valid state", "one that fails this test")
            except StateError as error:
                error.within(field.wire_name)
                raise

    def _save_described(self, state: Any, writer: Writer, version_id: int, vmdesc: dict[str, Any]) -> None:
        entries: list[Entry] = []
        vmdesc |= {"vmsd_name": self.name, "version": version_id, "fields": entries}
        fields = tuple(field for field in self.fields if field.is_in(version_id))
        for field, name in zip(fields, _unique_names(fields), strict=True):
            try:
                if field.field_exists is None or field.field_exists(state, version_id):
                    entries += field.save_described(state, writer, name)
                elif field.must_exist:
                    raise StateError("a valid state", "one that fails this test")
            except StateError as error:
                error.within(field.wire_name)
                raise

    def _save_subsections(self, state: Any, writer: Writer, vmdesc: dict[str, Any] | None) -> None:
        described: list[Entry] = []
        for subsection in self.subsections:
            if not subsection.is_needed(state):
                continue
            name = subsection.name.encode()
            writer.u8(SUBSECTION)
            writer.u8(len(name))
            writer.write(name)
            writer.u32(subsection.version_id)
            nested: dict[str, Any] | None = None
            if vmdesc is not None:
                nested = {}
                described.append(nested)
                vmdesc["subsections"] = described
            try:
                subsection.save(state, writer, vmdesc=nested)
            except StateError as error:
                error.within(subsection.name)
                raise

    def _load_fields(self, state: Any, reader: Reader, version_id: int) -> None:
        for field in self._steps_of(version_id):
            try:
                if field.field_exists is None or field.field_exists(state, version_id):
                    field.load(state, reader)
                elif field.must_exist:
                    raise ValidationError("a valid state", "one that fails this test", offset=reader.offset)
            except StreamError as error:
                error.within(field.wire_name)
                raise

    def _load_subsections(self, state: Any, reader: Reader) -> None:
        seen: set[str] = set()
        while name := self._next_subsection(reader):
            subsection = self._subsections.get(name)
            if subsection is None:
                raise SubsectionError(f"a subsection that {self.name} has", name, offset=reader.offset)
            if name in seen:
                raise SubsectionError("each subsection once", f"{name} again", offset=reader.offset)
            seen.add(name)
            reader.skip(2 + len(name))
            try:
                subsection.load_struct(reader, state, reader.u32())
            except StreamError as error:
                error.within(name)
                raise

    def _next_subsection(self, reader: Reader) -> str:
        """The name of the subsection that comes next, or nothing if what comes is not one of this description's.

        It need not be one at all: behind a struct inside another, any byte of the outer one's next field may follow.
        """
        if reader.peek() != SUBSECTION:
            return ""
        length = reader.peek(1) or 0
        name = reader.peek_bytes(2, length).decode("latin-1")
        is_one = name in self._subsections or name.startswith(self.name + "/")
        return name if is_one and len(name) == length else ""


def _unique_names(fields: tuple[Field, ...]) -> tuple[str, ...]:
    """The names under which a stream's own description lists the fields: those that are shared get a number."""
    names = [field.wire_name for field in fields]
    return tuple(
        f"{name}[{names[:index].count(name)}]" if names.count(name) > 1 else name for index, name in enumerate(names)
    )
