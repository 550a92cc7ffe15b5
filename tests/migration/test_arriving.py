"""RAM arrives in pieces of any length, and the memory is the same in the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.core.memory import PAGE_SIZE, StagedMemory
from emulator.migration.blocklist import PAGE_RECORD
from emulator.migration.format import Heading, Mark, put_footer
from emulator.migration.incoming import Incoming
from emulator.migration.ram import RamCollector
from emulator.migration.transports import Channel
from emulator.migration.wire import Reader, Writer

A, B = b"a" * PAGE_SIZE, b"b" * PAGE_SIZE
EOS = (0x10).to_bytes(8, "big")
PAGES, ROW = 256, 64


class Trickle(Channel):
    """A stream that arrives in pieces of these lengths, over and over again."""

    def __init__(self, data: bytes, lengths: list[int]) -> None:
        super().__init__("test:")
        self._data, self._lengths = data, lengths
        self._reads = 0

    def read_into(self, view: memoryview) -> int:
        length = self._lengths[self._reads % len(self._lengths)]
        self._reads += 1
        piece, self._data = self._data[:length], self._data[length:]
        view[: len(piece)] = piece
        return len(piece)


def record(number: int, kind: str) -> bytes:
    word = number * PAGE_SIZE | 0x20
    return (word | 2).to_bytes(9, "big")[1:] + b"\0" if kind == "zero" else (word | 8).to_bytes(8, "big") + A


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    """Long rows of pages, which overlap, with zeros between them, behind one that names the block."""
    runs = draw(
        st.lists(
            st.tuples(st.integers(0, PAGES - 1), st.integers(1, 2 * ROW), st.sampled_from(["data"] * 3 + ["zero"])),
            max_size=6,
        )
    )
    records = [bytes.fromhex("00 00 00 00 00 00 00 08   03 72 61 6d") + B]
    records += [
        record(number, kind) for first, count, kind in runs for number in range(first, min(first + count, PAGES))
    ]
    return b"".join((*records, EOS))


@settings(max_examples=60, deadline=None)
@given(
    part=parts(),
    lengths=st.lists(st.sampled_from([1, 8, 9, 4000, PAGE_RECORD, 100_000, 1 << 20]), min_size=1, max_size=5),
)
def test_memory_is_the_same_however_the_stream_arrives(part: bytes, lengths: list[int]) -> None:
    if max(lengths) < PAGE_RECORD:
        lengths = [*lengths, 100_000]
    plain, arrived = (StagedMemory(PAGES * PAGE_SIZE) for _ in range(2))
    try:
        RamCollector({"ram": plain}).read(Reader(part))
        heading = Heading(Mark.PART, 1, "ram", 0, 4)
        footer = Writer()
        put_footer(footer, heading.section_id)
        received = Incoming(None, Trickle(part + bytes(footer.data), lengths), None)  # type: ignore[arg-type]
        received._read_pages(RamCollector({"ram": arrived}), heading)
        assert received._inbox.offset == len(part) + len(footer.data)
        assert bytes(arrived.view) == bytes(plain.view)
    finally:
        plain.close()
        arrived.close()
