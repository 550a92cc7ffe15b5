"""Structs inside structs, the temporary that carries a computed wire form, and tests of the whole state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from emulator.migration.fields.base import Entry, Exists, Field, FieldOptions, Info, Single
from emulator.migration.wire import Reader, Writer

if TYPE_CHECKING:
    from emulator.migration.vmstate import VMStateDescription


class Struct(Single):
    """A struct with a description of its own, at that description's version; also for a pointer to one."""

    def __init__(self, name: str, description: VMStateDescription, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, description, **options)


class StructAtVersion(Info):
    """A struct in the form that a certain version of its description gives it."""

    type_name = "vstruct"

    def __init__(self, description: VMStateDescription, version_id: int) -> None:
        self.description = description
        self.version_id = version_id

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The struct's."""
        return (self.description,)

    def put(self, writer: Writer, value: Any, entry: Entry | None = None) -> None:
        """Append the struct; unlike a plain one it is described in the entry itself."""
        self.description.save(value, writer, version_id=self.version_id, vmdesc=entry)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read the struct into `current`."""
        return self.description.load_struct(reader, current, self.version_id)


class VStruct(Single):
    """A struct in the form that `struct_version` of its description gives it."""

    def __init__(
        self, name: str, description: VMStateDescription, struct_version: int, **options: Unpack[FieldOptions]
    ) -> None:
        super().__init__(name, StructAtVersion(description, struct_version), **options)


class WithTmp(Field):
    """A wire form that is computed: its fields are those of a temporary, not of the state.

    The description's state class is the temporary's. It is made with `parent`, the state object; its `pre_save`
    computes its other attributes from the parent, its `post_load` puts them to rights there and checks them. `covers`
    names the parent's attributes that are saved in this way.

    The stream's own description shows a struct `tmp`, as QEMU's does for its macro. With `inline` it shows the
    temporary's fields as if they were the parent's: for a reference of ours where QEMU has a plain field.
    """

    type_name = "tmp"

    def __init__(
        self,
        description: VMStateDescription,
        *,
        covers: tuple[str, ...] = (),
        inline: bool = False,
        **options: Unpack[FieldOptions],
    ) -> None:
        super().__init__("" if inline else "tmp", **options)
        self.description = description
        self.covers = covers
        self.inline = inline

    @property
    def compresses(self) -> bool:
        """Whether an array of structs with this field may be described by its first element."""
        return self.field_exists is None and (not self.inline or self.description.compresses)

    def save(self, state: Any, writer: Writer) -> None:
        """Make the temporary and append its fields."""
        self.description.save(self.description.state_class(parent=state), writer)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the temporary's fields; its `post_load` changes the state."""
        self.description.load_struct(reader, self.description.state_class(parent=state), self.description.version_id)

    def save_described(self, state: Any, writer: Writer, name: str) -> list[Entry]:
        """Append the temporary's fields, described each for itself if they are inline."""
        if not self.inline:
            return super().save_described(state, writer, name)
        vmdesc: Entry = {}
        self._save_into(state, writer, vmdesc)
        entries: list[Entry] = vmdesc["fields"]
        return entries

    def _save_into(self, state: Any, writer: Writer, entry: Entry) -> None:
        self.description.save(self.description.state_class(parent=state), writer, vmdesc=entry)


class Validate(Field):
    """No bytes, but a test that the state must pass at this place, when it is saved and when it is loaded."""

    type_name = "unknown"
    must_exist: ClassVar[bool] = True

    def __init__(self, name: str, test: Exists) -> None:
        super().__init__(name, field_exists=test)

    def save(self, _state: Any, _writer: Writer) -> None:
        """Append nothing."""

    def load(self, _state: Any, _reader: Reader) -> None:
        """Read nothing."""

    def save_described(self, _state: Any, _writer: Writer, _name: str) -> list[Entry]:
        """No bytes, no description."""
        return []
