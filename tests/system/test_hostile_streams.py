"""Damaged files in the mapped layout, and how much memory a stream can make its reader use."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Icount, Instructions, Machine
from emulator.migration import mappedram, savevm
from emulator.migration.errors import StreamError
from emulator.migration.format import DESCRIPTION_LIMIT, find_description
from emulator.migration.wire import Reader

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
LIMIT = 60
MIB = 1 << 20
ROOM = 64 * MIB
"""How much memory loading may take beyond the size of the file."""


class MappedFile:
    """A snapshot of `machine` that can be damaged without touching the disk."""

    def __init__(self, machine: Machine, path: Path, *, sealed: bool) -> None:
        self.machine = machine
        with path.open("rb") as file:
            self.fd = os.dup(file.fileno())
        self.data = mmap.mmap(self.fd, 0, access=mmap.ACCESS_COPY)
        if not sealed:  # then it might be QEMU's, and nothing vouches for it
            self.put(self.data.rfind(b'"mini-qemu"'), b'"mini-qemv"')
        self.areas = mappedram.get_areas(self._ram_reader())
        begins = [0, *(area.pages_end for area in self.areas)]
        ends = [*(area.bitmap_offset + len(area.bitmap) for area in self.areas), len(self.data)]
        self.outside = [*map(range, begins, ends)]
        """Where the file has something other than pages, and the room before them."""

    def _ram_reader(self) -> Reader:
        reader = Reader(self.data)
        reader.skip(self.data.find(b"\x03ram") + 12)
        return reader

    def put(self, position: int, data: bytes) -> bytes:
        """Change some bytes; returns what was there."""
        before = self.data[position : position + len(data)]
        self.data[position : position + len(data)] = data
        return before

    def load(self, length: int | None = None, *, adopt: bool = True) -> StreamError | None:
        """Load the file, or the beginning of it; returns the error if it is refused."""

        def load() -> None:
            with (
                memoryview(self.data)[:length] as data,
                self.machine.transfer.held() as subject,
                savevm.load(subject, data, self.fd) as loaded,
            ):
                if adopt:
                    self.machine.transfer.take_over(loaded, subject)

        try:
            self.machine.call(load)
        except StreamError as error:
            return error
        return None

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture(params=["sealed", "foreign"])
def mapped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MappedFile]:
    icount = Icount(3, sleep=False)
    with Machine("virt", ram="4M", kernel=TOY, icount=icount, snapshots=tmp_path) as machine:
        machine.serial.write("count\r")
        machine.run(until=Instructions(14_470), timeout=LIMIT)
        machine.savevm("base")
        (path,) = tmp_path.iterdir()
        file = MappedFile(machine, path, sealed=request.param == "sealed")
        yield file
        file.close()


def state_of(machine: Machine) -> bytes:
    stream = bytearray()

    def save() -> None:
        with machine.transfer.held() as subject:
            savevm.save(subject, stream.extend)

    machine.call(save)
    return bytes(stream)


def check(mapped: MappedFile, *, cut_step: int, flip_step: int) -> tuple[int, int, int]:
    """Cut and flip the file outside of the pages; returns how many were cut, flipped, and accepted all the same."""
    before = state_of(mapped.machine)
    cuts = [length for part in mapped.outside for length in part[::cut_step]]
    cuts += random.Random(1).sample(range(len(mapped.data)), 200)
    accepted = 0
    for length in cuts:
        error = mapped.load(length)
        if error is not None:
            assert str(error).isprintable(), repr(error)
            assert error.offset is not None, error
        else:  # at the end of the sections, a file without a description of itself
            accepted += 1
            assert mapped.data[length - 1 : length + 1] == b"\0\x06"
    flips = [(position, 1 << bit) for part in mapped.outside for position in part for bit in range(8)][::flip_step]
    assert state_of(mapped.machine) == before
    for position, bit in flips:
        was = mapped.put(position, bytes((mapped.data[position] ^ bit,)))
        error = mapped.load(adopt=False)
        mapped.put(position, was)
        if error is not None:
            assert str(error).isprintable(), repr(error)
            assert error.offset is not None, error
        else:
            accepted += 1
    assert state_of(mapped.machine) == before
    assert mapped.load() is None
    assert state_of(mapped.machine) == before
    return len(cuts), len(flips), accepted


def test_a_damaged_mapped_file_is_refused_or_loaded(mapped: MappedFile) -> None:
    check(mapped, cut_step=97, flip_step=173)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_mapped_file_damaged_anywhere_is_refused_or_loaded(mapped: MappedFile) -> None:
    print(check(mapped, cut_step=5, flip_step=5))


def entry(name: bytes, size: int) -> bytes:
    """An entry in the list of RAM blocks."""
    return bytes((len(name),)) + name + size.to_bytes(8, "big")


def greedy_streams(stream: bytes) -> Iterator[tuple[str, bytes]]:
    """Made from a good stream of a machine with 128 MiB: what asks for more memory than it has bytes."""
    most = b"\xff" * 4
    ram = stream.index(b"\x03ram") + 12
    start = stream[ram - 16 : ram - 12]  # the section's id
    records = stream.index(b"\x10\x7e" + start + b"\x02" + start) + 11
    yield "the configuration's length", stream[:9] + most + stream[13:]
    capabilities = b"\x05\x1aconfiguration/capabilities" + (1).to_bytes(4, "big")
    yield "the number of capabilities", stream[:17] + capabilities + most + bytes(4096)
    yield "the description's length", stream[: stream.rindex(b"\0\x06") + 2] + most + stream[-20:]
    total = (1 << 63 | 4).to_bytes(8, "big")
    yield "the size of RAM", stream[:ram] + total + entry(b"virt.flash0", 1 << 62) + bytes(4096)
    blocks = b"".join(entry(b"%05d" % number, 4096) for number in range(50_000))
    yield "the number of blocks", stream[:ram] + (50_000 * 4096 | 4).to_bytes(8, "big") + blocks
    first = (2).to_bytes(8, "big") + b"\x14riscv_virt_board.ram\xff"
    pages = b"".join((page << 12 | 0x22).to_bytes(8, "big") + b"\xff" for page in range(1, 128 * 256))
    yield "filled pages", stream[:records] + first + pages


GREEDY_DESCRIPTIONS = {
    "lists": b"[],",
    "objects": b'{"":0},',
    "strings": b'"ab",',
    "numbers": b"99999999,",
    "nested lists": b"[",
}


def load_greedily(directory: Path) -> None:
    """In a process of its own: print by how much its memory grows at most while it loads each file."""
    with Machine("virt", ram="128M", kernel=TOY, icount=Icount(3, sleep=False), snapshots=directory) as machine:
        machine.run(until=Instructions(9000), timeout=LIMIT)
        machine.save(directory / "good")
        machine.load(directory / "good")
        machine.savevm("mapped")
        machine.loadvm("mapped")
        mapped = machine.snapshots._path_of("mapped")
        before = highest()
        for what, data in greedy_streams((directory / "good").read_bytes()):
            (directory / "greedy").write_bytes(data)
            report(machine, directory / "greedy", what, before)
        with mapped.open("r+b") as file:
            begin = find_description(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))[0]
            for what, item in GREEDY_DESCRIPTIONS.items():
                data = b'{"a": [' + item * ((DESCRIPTION_LIMIT - 64) // len(item)) + b"0]}"
                file.seek(begin + 1)
                file.write(len(data).to_bytes(4, "big") + data)
                file.truncate()
                file.flush()
                report(machine, mapped, what, before)


def highest() -> int:
    """The most memory that this process has had so far, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def report(machine: Machine, path: Path, what: str, before: int) -> None:
    try:
        machine.load(path)
        answer = "loaded"
    except StreamError as error:
        answer = str(error)
    print(f"{what}: {highest() - before} {answer}", flush=True)


def test_no_stream_takes_much_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    program = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True, check=True)
    print(program.stdout)
    growths = [int(line.partition(": ")[2].split()[0]) for line in program.stdout.splitlines()]
    assert len(growths) == 6 + len(GREEDY_DESCRIPTIONS)
    assert max(growths) < ROOM
    assert program.stdout.count("loaded") <= len(GREEDY_DESCRIPTIONS)


if __name__ == "__main__":
    load_greedily(Path(sys.argv[1]))
