"""Memory as `x`, `xp` and `print` show it: reading it in lines, and QEMU's number formats.

Reading happens on the machine's thread and keeps to bytes; formatting, which is slower, happens in the monitor's. What
differs from QEMU: `c` always counts characters, where QEMU counts units of the size that was used last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emulator.core.bits import mask, sign_extend
from emulator.core.bus import AddressMap
from emulator.core.errors import MemoryAccessError
from emulator.core.memory import RamBlock

COUNT_LIMIT = 16384
"""The most items one command shows: reading more would hold up the guest for longer than anybody reads."""

LETTERS = "oduxic"
SIZES = {"b": 1, "h": 2, "w": 4, "g": 8, "L": 8}

ReadBytes = Callable[[int, int], bytes]
"""`read(address, length)`; raises MemoryAccessError."""

Disassemble = Callable[[bytes, int], "list[tuple[int, bytes, str]]"]


@dataclass(frozen=True, slots=True)
class Format:
    """What `/4xw` says: how many, which letter of `LETTERS`, and the size of one item in bytes."""

    count: int
    letter: str
    size: int


Chunk = tuple[int, "bytes | None"]
"""An address and the bytes that were read there; None where nothing could be read, which ends a dump."""


def physical_reader(bus: AddressMap, access: int) -> ReadBytes:
    """Read physical memory and device registers, the latter in accesses of at most `access` bytes.

    Reading a register has the same effects as when the guest reads it.
    """

    def read(address: int, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += _read_piece(bus, address + len(data), length - len(data), access)
        return data

    return read


def _read_piece(bus: AddressMap, address: int, length: int, access: int) -> bytes:
    mapping = bus.find(address)
    if mapping is None:
        raise MemoryAccessError(address, length, "nothing is there")
    if isinstance(mapping.target, RamBlock):
        return bus.read_ram(address, min(length, mapping.end - address))
    size = min(access, length)
    while size > 1 and not mapping.target.accepts(address - mapping.base, size):
        size //= 2
    return bus.load(address, size).to_bytes(size, "little")


def read_values(read: ReadBytes, address: int, form: Format) -> list[Chunk]:
    """Read `form.count` items in the pieces that a line each shows; the last chunk may be an unreadable one."""
    size = _item_size(form)
    per_line = 8 if size == 1 else 16
    left = form.count * size
    chunks: list[Chunk] = []
    while left > 0:
        address &= mask(64)
        length = min(left, per_line)
        try:
            chunks.append((address, read(address, length)))
        except MemoryAccessError:
            chunks.append((address, None))
            break
        address += length
        left -= length
    return chunks


def read_instructions(read: ReadBytes, address: int, form: Format) -> list[Chunk]:
    """Read `form.count` instructions of two or four bytes; the last chunk may be an unreadable one."""
    chunks: list[Chunk] = []
    for _ in range(form.count):
        address &= mask(64)
        try:
            code = read(address, 2)
            if code[0] & 3 == 3:
                code += read(address + 2, 2)
        except MemoryAccessError:
            chunks.append((address, None))
            break
        chunks.append((address, code))
        address += len(code)
    return chunks


def format_values(chunks: Iterable[Chunk], form: Format) -> str:
    """The lines of a dump in any format but `i`."""
    size = _item_size(form)
    lines = []
    for address, data in chunks:
        if data is None:
            lines.append(f"{address:016x}: Cannot access memory")
            continue
        items = (int.from_bytes(data[index : index + size], "little") for index in range(0, len(data), size))
        lines.append(f"{address:016x}: " + " ".join(_format_item(item, form.letter, size) for item in items))
    return "\n".join(lines)


def format_instructions(chunks: Iterable[Chunk], disassemble: Disassemble) -> str:
    """The lines of a dump in format `i`."""
    lines = []
    for address, code in chunks:
        if code is None:
            lines.append(f"0x{address:016x}:  Cannot access memory")
            continue
        decoded = disassemble(code, address)
        mnemonic, _, operands = (decoded[0][2] if decoded else "illegal").replace("\t", " ").partition(" ")
        raw = f"{int.from_bytes(code, 'little'):0{2 * len(code)}x}"
        lines.append(f"0x{address:016x}:  {raw:<18}{mnemonic:<24}{operands.strip().replace(', ', ',')}".rstrip())
    return "\n".join(lines)


def format_number(value: int, letter: str) -> str:
    """One signed 64-bit value as `print` shows it."""
    unsigned = value & mask(64)
    if letter == "x":
        return f"0x{unsigned:x}" if unsigned else "0"
    if letter == "o":
        return _octal(unsigned)
    if letter == "u":
        return str(unsigned)
    if letter == "c":
        return _character(unsigned)
    return str(sign_extend(value, 64))


def _item_size(form: Format) -> int:
    return 1 if form.letter == "c" else form.size


def _format_item(item: int, letter: str, size: int) -> str:
    if letter == "x":
        return f"0x{item:0{2 * size}x}"
    if letter == "o":
        return _octal(item).rjust(-(-8 * size // 3))
    if letter == "c":
        return _character(item)
    # As in QEMU, only an item of eight bytes has a sign.
    number = sign_extend(item, 64) if letter == "d" else item
    return str(number).rjust({1: 3, 2: 5, 4: 10, 8: 20}[size])


def _octal(value: int) -> str:
    return f"0{value:o}" if value else "0"


_ESCAPES = {ord("'"): r"\'", ord("\\"): r"\\", ord("\n"): r"\n", ord("\r"): r"\r"}


def _character(value: int) -> str:
    text = _ESCAPES.get(value) or (chr(value) if 32 <= value <= 126 else f"\\x{value:02x}")
    return f"'{text}'"
