"""The list of RAM blocks that section `ram` begins with, and what both layouts of RAM share.

A u64 with flag 04 and the size of all blocks together; then for each block u8 length, name, u64 size in bytes and, in
the mapped layout, its own header (see `mappedram.py`). Largest blocks come first, equal ones in the board's order; of a
block that could grow, the largest size counts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence

from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration.errors import RamError, quote
from emulator.migration.wire import Reader, Writer

SECTION = "ram"
VERSION = 4
SECTION_ID = 1
"""Not 0: QEMU looks a part's section up by its id, and until they come all of its sections have 0."""

FLAGS = PAGE_SIZE - 1
"""The bits of a record's first word that are flags; the others are an address or a size."""
HEADER_BYTES = 8
"""That word."""
PAGE_RECORD = HEADER_BYTES + PAGE_SIZE
"""Bytes of the record of a page that follows another one of its block."""
TABLE = "/rom@"
"""How the names of blocks begin that hold tables for firmware."""
BLOCK_LIMIT = 256
"""Blocks in a list; boards have about ten."""


class RamFlag(enum.IntFlag):
    """What a record is (QEMU's RAM_SAVE_FLAG_...)."""

    ZERO = 0x02
    MEM_SIZE = 0x04
    PAGE = 0x08
    EOS = 0x10
    CONTINUE = 0x20
    XBZRLE = 0x40
    COMPRESSED = 0x100
    MULTIFD_FLUSH = 0x200


def in_sending_order(blocks: Iterable[RamBlock]) -> list[RamBlock]:
    """The blocks as streams list them."""
    return sorted(blocks, key=lambda block: -block.reserved)


def put_total(writer: Writer, blocks: Iterable[RamBlock]) -> None:
    """Append what the list begins with."""
    writer.u64(sum(block.size for block in blocks) | RamFlag.MEM_SIZE)


def put_block_list(writer: Writer, blocks: Sequence[RamBlock]) -> None:
    """Append the list as it is where pages follow as records."""
    put_total(writer, blocks)
    for block in blocks:
        put_name(writer, block.name)
        writer.u64(block.size)


def get_block_list(reader: Reader, more: Callable[[str, int], None] = lambda _name, _size: None) -> dict[str, int]:
    """Read the list: sizes in bytes by name; `more(name, size)` reads what a layout has behind each block's size.

    Raises RamError for a list that contradicts itself; whether this machine has such blocks is not asked here.
    """
    begin = reader.offset
    word = reader.u64()
    if word & FLAGS != RamFlag.MEM_SIZE:
        raise RamError("the list of RAM blocks", f"flags 0x{word & FLAGS:x}", offset=begin)
    left = word & ~FLAGS
    sizes: dict[str, int] = {}
    while left:
        begin = reader.offset
        name = get_name(reader)
        size = reader.u64()
        if name in sizes or len(sizes) == BLOCK_LIMIT:
            raise RamError(f"at most {BLOCK_LIMIT} blocks, each once", f"{quote(name)} as well", offset=begin)
        if not size or size & FLAGS or size > left:
            raise RamError(f"whole pages, at most 0x{left:x} bytes", f"0x{size:x}", field=quote(name), offset=begin)
        sizes[name] = size
        left -= size
        more(name, size)
    return sizes


def same_blocks(sizes: Mapping[str, int], blocks: Sequence[RamBlock], *, offset: int) -> None:
    """Raise RamError unless a stream's blocks are those of this machine; tables for firmware may be missing."""
    ours = {block.name: block.size for block in blocks}
    for name, size in sizes.items():
        if name not in ours:
            hint = ": ACPI tables, for -M virt-10.0 here, or -M virt,acpi=off there" if name.startswith(TABLE) else ""
            raise RamError(f"one of {', '.join(ours)}", f"a block {quote(name)}{hint}", offset=offset)
        if size != ours[name]:
            hint = f" (is -m the same as where this comes from, {size >> 20}M?)" if name.endswith(".ram") else ""
            raise RamError(f"0x{ours[name]:x} bytes, as here{hint}", f"0x{size:x}", field=name, offset=offset)
    if missing := [name for name in ours if name not in sizes and not name.startswith(TABLE)]:
        raise RamError(f"block {missing[0]}", "a list without it", offset=offset)


def put_name(writer: Writer, name: str) -> None:
    """Append a block's name."""
    data = name.encode()
    writer.u8(len(data))
    writer.write(data)


def get_name(reader: Reader) -> str:
    """Read a block's name."""
    return reader.read(reader.u8()).decode("latin-1")


def put_eos(writer: Writer) -> None:
    """Append the mark at the end of a section's records."""
    writer.u64(RamFlag.EOS)


def get_eos(reader: Reader) -> None:
    """Read the mark at the end of a section that has no records."""
    begin = reader.offset
    if (word := reader.u64()) != RamFlag.EOS:
        raise RamError("the end of this part of RAM", f"a record 0x{word:x}", offset=begin)
