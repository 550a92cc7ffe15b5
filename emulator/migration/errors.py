"""What can be wrong with a description, a state or a stream; every message is one line.

Three culprits: the author of a description (`DescriptionError`, raised at import), the owner of a state that does not
fit its description (`StateError`, raised while saving), and the peer or file that sent bytes (`StreamError` and its
kinds, raised while loading, before anything has changed).
"""

from __future__ import annotations

from emulator.core.errors import EmulatorError

QUOTE_LIMIT = 60
"""Characters of something from outside that a message repeats."""


def quote(value: object) -> str:
    """`value` for an error message: one printable line, cut short when long."""
    text = value if isinstance(value, str) and value.isascii() and value.isprintable() else repr(value)
    return text if len(text) <= QUOTE_LIMIT else text[:QUOTE_LIMIT] + "..."


def printable(text: str) -> str:
    """Text from outside as one line, all of it."""
    return text if text.isascii() and text.isprintable() else repr(text)


class DescriptionError(EmulatorError):
    """A VMStateDescription that contradicts itself or its state class."""

    def __init__(self, description: str, why: str) -> None:
        super().__init__(f"description {description}: {why}")


class _LocatedError(EmulatorError):
    """An error inside a state; each level that it passes through on its way up puts its own name before the path."""

    path: str = ""

    def within(self, part: str) -> None:
        """Look at the error from outside of the field, element or subsection `part`."""
        separator = "." if part and self.path and not self.path.startswith("[") else ""
        self.path = part + separator + self.path


class StateError(_LocatedError):
    """A state that cannot be saved as its description says: a value that does not fit, a count that lies."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__()
        self.expected = expected
        self.got = quote(got)

    def __str__(self) -> str:
        return f"cannot save {self.path}: expected {self.expected}, got {self.got}"


class StreamError(_LocatedError):
    """A stream that cannot be loaded: which section, which field, at which byte, what was expected and what came."""

    def __init__(self, expected: str, got: object, *, field: str = "", offset: int | None = None) -> None:
        super().__init__()
        self.section = ""
        self.path = field
        self.offset = offset
        self.expected = expected
        self.got = quote(got)

    def __str__(self) -> str:
        where = " ".join(part for part in (self.section, self.path) if part) or "stream"
        at = "" if self.offset is None else f" at byte 0x{self.offset:x}"
        return f"{where}{at}: expected {self.expected}, got {self.got}"


class TruncatedError(StreamError):
    """The bytes end before the value does."""

    def __init__(self, needed: int, available: int, *, offset: int) -> None:
        super().__init__(f"{needed} byte{'' if needed == 1 else 's'}", f"only {available}", offset=offset)
        self.needed = needed
        self.available = available


class FieldRangeError(StreamError):
    """A value that its field cannot have, although it fits on the wire; `limit` is the first value past the range."""

    def __init__(self, field: str, value: object, limit: int | str, *, offset: int | None = None) -> None:
        expected = limit if isinstance(limit, str) else f"0 to {limit - 1}"
        super().__init__(expected, value, field=field, offset=offset)
        self.value = value


class FieldMismatchError(StreamError):
    """A value that must be the receiver's own, and is not."""


class CountError(FieldRangeError):
    """A length or count beyond what its array can hold; nothing was allocated."""


class VersionError(StreamError):
    """A version of a section, subsection or struct that is too new or too old."""


class SubsectionError(StreamError):
    """A subsection that is unknown, repeated or not in its place."""


class MarkerError(StreamError):
    """A byte that announces an element, its end or a null pointer, and is none of these."""


class ValidationError(StreamError):
    """A loaded state that its description's own test refuses."""


class FramingError(StreamError):
    """A stream that is not framed as one: no header, a section where none can be, a footer that does not fit."""


class UnknownSectionError(StreamError):
    """A section that this machine does not have, has already got, or has not got when the stream ends."""


class RamError(StreamError):
    """A record of RAM that does not fit the machine's: an unknown block, another size, an address outside."""


class ChecksumError(StreamError):
    """A file that is not as it was written."""


class MigrationError(EmulatorError):
    """A migration that cannot be begun, or that failed for a reason of its own."""


class VmdescError(StreamError):
    """A JSON description that is malformed, or that the bytes do not follow."""
