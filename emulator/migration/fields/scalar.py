"""Numbers, truth values and timers: what one `struct` code can hold.

An integer may have a `limit`, the first value past its range, for indexes, offsets and counts; or `bits`, a mask of
those that can be set, for registers. No stream gets past either. Without, all values of its width are allowed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Unpack

from emulator.migration.errors import FieldMismatchError, FieldRangeError, StateError, StreamError
from emulator.migration.fields.base import Entry, FieldOptions, Info, Single
from emulator.migration.wire import Reader, Writer

TIMER_NOT_ARMED = -1


class Scalar(Info):
    """A value of fixed size with a `struct` code.

    `decode` turns what came from the wire into the state's value or raises FieldRangeError; `encode` is its inverse and
    raises StateError. Without them the two are the same. `excess` is a value that they refuse, if the type has others.
    """

    def __init__(
        self,
        type_name: str,
        code: str,
        *,
        decode: Callable[[Any], Any] | None = None,
        encode: Callable[[Any], Any] | None = None,
        excess: int | None = None,
    ) -> None:
        self.type_name = type_name
        self.code = code
        self.decode = decode
        self.encode = encode
        self.excess = excess
        self.layout = struct.Struct(">" + code)

    def below(self, limit: int) -> Scalar:
        """The same on the wire, but only 0 to `limit` - 1."""

        def decode(value: int) -> int:
            if not 0 <= value < limit:
                raise FieldRangeError("", value, limit)
            return value

        def encode(value: int) -> int:
            if not 0 <= value < limit:
                raise StateError(f"0 to {limit - 1}", value)
            return value

        return Scalar(self.type_name, self.code, decode=decode, encode=encode, excess=limit)

    def within(self, bits: int) -> Scalar:
        """The same on the wire, but only with the bits set that `bits` has."""

        def decode(value: int) -> int:
            if value & ~bits:
                raise FieldRangeError("", hex(value), f"no bits but 0x{bits:x}")
            return value

        def encode(value: int) -> int:
            if value & ~bits:
                raise StateError(f"no bits but 0x{bits:x}", hex(value))
            return value

        return Scalar(self.type_name, self.code, decode=decode, encode=encode, excess=bits + 1 & ~bits)

    def put(self, writer: Writer, value: Any, _entry: Entry | None = None) -> None:
        """Append one value."""
        wire = self.encode(value) if self.encode else value
        try:
            writer.write(self.layout.pack(wire))
        except (struct.error, OverflowError, TypeError):
            raise StateError(f"a value for {self.type_name}", value) from None

    def get(self, reader: Reader, _current: Any) -> Any:
        """Read one value."""
        begin = reader.offset
        (value,) = reader.unpack(self.layout)
        if self.decode is None:
            return value
        try:
            return self.decode(value)
        except StreamError as error:
            error.offset = begin
            raise

    def put_many(self, writer: Writer, values: Sequence[Any]) -> None:
        """Append all values with one call."""
        wire = [self.encode(value) for value in values] if self.encode else values
        try:
            writer.write(struct.pack(f">{len(wire)}{self.code}", *wire))
        except (struct.error, OverflowError, TypeError):
            super().put_many(writer, values)

    def get_many(self, reader: Reader, current: Sequence[Any]) -> Sequence[Any]:
        """Read all values with one call."""
        layout = struct.Struct(f">{len(current)}{self.code}")
        if layout.size > reader.remaining:
            return super().get_many(reader, current)
        wire = reader.unpack(layout)
        if self.decode is None:
            return wire
        values: list[Any] = []
        try:
            values.extend(map(self.decode, wire))
        except StreamError as error:
            error.offset = reader.offset - (len(wire) - len(values)) * self.layout.size
            error.within(f"[{len(values)}]")
            raise
        return values


def _decode_bool(value: int) -> bool:
    if value > 1:
        raise FieldRangeError("", value, 2)
    return bool(value)


def _decode_timer(value: int) -> int | None:
    if value < TIMER_NOT_ARMED:
        raise FieldRangeError("", value, "a deadline, or -1 for none")
    return None if value == TIMER_NOT_ARMED else value


def _encode_timer(value: int | None) -> int:
    if value is not None and value < 0:
        raise StateError("a deadline of 0 or more, or None", value)
    return TIMER_NOT_ARMED if value is None else value


class Equal(Info):
    """An integer that the receiver knows already; a stream with another one is for another machine.

    What is compared with is the fresh state's value; `hint` tells the user what to do about a difference.
    """

    def __init__(self, scalar: Scalar, type_name: str, hint: str = "") -> None:
        self.type_name = type_name
        self._scalar = scalar
        self._hint = hint

    def put(self, writer: Writer, value: Any, _entry: Entry | None = None) -> None:
        """Append the value."""
        self._scalar.put(writer, value)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read the value, which must be `current`."""
        begin = reader.offset
        value = self._scalar.get(reader, None)
        if value != current:
            expected = f"{current}, as it is here" + (f" ({self._hint})" if self._hint else "")
            raise FieldMismatchError(expected, value, offset=begin)
        return value


class PositiveLe(Info):
    """A 32-bit number of 0 up to the receiver's own: an older peer's version of something, for example."""

    type_name = "int32 le"

    def put(self, writer: Writer, value: Any, _entry: Entry | None = None) -> None:
        """Append the value."""
        Int32.info.put(writer, value)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read the value, which must lie in 0 to `current`."""
        begin = reader.offset
        value = Int32.info.get(reader, None)
        if not 0 <= value <= current:
            raise FieldRangeError("", value, f"0 to {current}", offset=begin)
        return value


class ScalarField(Single):
    """A field of one scalar; the class itself also names the element of an array: `Array("pending", UInt32, 3)`."""

    info: Scalar

    def __init__(self, name: str, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, type(self).info, **options)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the value; what was there does not matter, not even whether anything was."""
        self.attribute.set(state, self.info.get(reader, None))


class IntegerField(ScalarField):
    """A field of one integer, with `limit` or `bits` if the state has no use for all values of its width."""

    def __init__(
        self, name: str, *, limit: int | None = None, bits: int | None = None, **options: Unpack[FieldOptions]
    ) -> None:
        super().__init__(name, **options)
        if limit is not None and bits is not None:
            raise ValueError("limit or bits, not both")
        if limit is not None:
            self.info = self.below(limit)
        elif bits is not None:
            self.info = self.within(bits)

    @classmethod
    def below(cls, limit: int) -> Scalar:
        """The element of an array whose every value is to be 0 to `limit` - 1."""
        return cls.info.below(limit)

    @classmethod
    def within(cls, bits: int) -> Scalar:
        """The element of an array whose every value is to have no bits set but these."""
        return cls.info.within(bits)


class Bool(ScalarField):
    """A truth value in one byte, 0 or 1."""

    info = Scalar("bool", "B", decode=_decode_bool, encode=bool, excess=2)


class Int8(IntegerField):
    """A signed byte."""

    info = Scalar("int8", "b")


class Int16(IntegerField):
    """A signed 16-bit number."""

    info = Scalar("int16", "h")


class Int32(IntegerField):
    """A signed 32-bit number."""

    info = Scalar("int32", "i")


class Int64(IntegerField):
    """A signed 64-bit number."""

    info = Scalar("int64", "q")


class UInt8(IntegerField):
    """An unsigned byte."""

    info = Scalar("uint8", "B")


class UInt16(IntegerField):
    """An unsigned 16-bit number."""

    info = Scalar("uint16", "H")


class UInt32(IntegerField):
    """An unsigned 32-bit number."""

    info = Scalar("uint32", "I")


class UInt64(IntegerField):
    """An unsigned 64-bit number."""

    info = Scalar("uint64", "Q")


class Float64(ScalarField):
    """A double as IEEE 754 has it, not-a-number with its payload: QEMU's CPU_DoubleU."""

    info = Scalar("CPU_Double_U", "d")


class Timer(ScalarField):
    """A deadline in ns of virtual time, None in the state and -1 on the wire while the timer is not armed."""

    info = Scalar("timer", "q", decode=_decode_timer, encode=_encode_timer, excess=TIMER_NOT_ARMED - 1)


class _EqualField(Single):
    """A field whose value must be the receiver's own; `hint` tells the user what to do about a difference."""

    scalar: ClassVar[Scalar]
    equal_name: ClassVar[str]

    def __init__(self, name: str, *, hint: str = "", **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, Equal(self.scalar, self.equal_name, hint), **options)


class UInt8Equal(_EqualField):
    """An unsigned byte that must be the receiver's own."""

    scalar, equal_name = UInt8.info, "uint8 equal"


class UInt16Equal(_EqualField):
    """An unsigned 16-bit number that must be the receiver's own."""

    scalar, equal_name = UInt16.info, "uint16 equal"


class Int32Equal(_EqualField):
    """A signed 32-bit number that must be the receiver's own."""

    scalar, equal_name = Int32.info, "int32 equal"


class UInt32Equal(_EqualField):
    """An unsigned 32-bit number that must be the receiver's own."""

    scalar, equal_name = UInt32.info, "uint32 equal"


class UInt64Equal(_EqualField):
    """An unsigned 64-bit number that must be the receiver's own; QEMU's description calls it `int64 equal`."""

    scalar, equal_name = UInt64.info, "int64 equal"


class Int32Le(Single):
    """A number of 0 up to the receiver's own (VMSTATE_INT32_POSITIVE_LE); "le" is less or equal, not an endianness."""

    def __init__(self, name: str, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, PositiveLe(), **options)
