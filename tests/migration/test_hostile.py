"""Streams that are damaged or made up, loaded into a machine in the middle of its work.

Each is refused by one line that says where, and the machine is unchanged to the last byte; or it is loaded, and what
the machine saves then is what came. A bit may come back as it was before it was flipped where the machine knows better:
`DERIVED` has all such fields. In no case is there another exception, now or when the guest runs on.

Most streams here have hardly any RAM in them, so that thousands can be tried.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import Icount, Instructions, Machine
from emulator.migration import savevm, vmdesc
from emulator.migration.blocklist import SECTION_ID
from emulator.migration.devices import device_sections, put_devices
from emulator.migration.errors import StreamError
from emulator.migration.wire import Reader, Writer

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
RAM, RAM_SIZE = 0x8000_0000, 4 << 20
LIMIT = 60

DERIVED = {
    ("globalstate", "size"),
    ("globalstate", "runstate"),  # whoever loads says whether the guest runs
    ("timer", "unused"),
    *(("cpu", f"env.{name}") for name in ("mcounteren", "scounteren")),  # registers of 32 bits, sent as 64
    ("timer", "cpu_clock_offset"),  # with icount, instructions tell the time
    ("serial", "serial.serial/thr_ipending.thr_ipending"),  # not sent where `iir` says as much
    *(
        ("serial", f"serial.serial/recv_fifo.recv_fifo.{name}") for name in ("data", "head", "num")
    ),  # not if it is empty
    ("serial", "serial.iir"),  # its two highest bits follow from `fcr`
    ("cpu_common", "interrupt_request"),  # follows from `mip`
    ("cpu", "env.mstatus"),  # its bit SD follows from FS
    ("cpu", "env.mip"),  # the lines from the chips have the last word
}
"""Section and field of what is not taken over as it came."""

RAM_ID = SECTION_ID.to_bytes(4, "big")
EOS = bytes(7) + b"\x10\x7e" + RAM_ID
"""The end mark of a part of RAM, and the footer behind it."""


class Target:
    """A machine that has claimed an interrupt, with a byte in a FIFO and an armed timer; and its stream."""

    def __init__(self) -> None:
        self.machine = machine = Machine("virt-7.2", ram=RAM_SIZE, kernel=TOY, icount=Icount(3, sleep=False))
        for goal, text in ((3000, "count\r"), (14_000, "v"), (14_470, "")):
            machine.run(until=Instructions(goal - machine.instructions), timeout=LIMIT)
            machine.serial.write(text)
        self.stream = self.save()
        self.ram = machine.read(RAM, RAM_SIZE)
        first_page = self.stream.index(EOS + b"\x02" + RAM_ID) + len(EOS) + 5
        self.short = self.stream[:first_page] + self.stream[self.stream.index(EOS + b"\x03" + RAM_ID) :]
        """The same, of which no page of RAM was sent."""
        self.devices_begin = self.short.rindex(EOS) + len(EOS)
        self.devices_end = self.devices_begin + len(self.devices())
        self.first_descriptions = self.descriptions

    def save(self) -> bytes:
        """The machine's stream."""
        stream = bytearray()

        def save() -> None:
            with self.machine.transfer.held() as subject:
                savevm.save(subject, stream.extend)

        self.machine.call(save)
        return bytes(stream)

    def devices(self) -> bytes:
        """All sections of the machine's stream but RAM."""

        def save() -> bytes:
            with self.machine.transfer.held() as subject:
                return b"".join(device_sections(subject.registry))

        return self.machine.call(save)

    @property
    def descriptions(self) -> dict[tuple[str, int], Any]:
        """What is in these sections now."""

        def describe() -> bytes:
            with self.machine.transfer.held() as subject:
                return put_devices(subject.registry, Writer())

        return vmdesc.from_json(self.machine.call(describe))

    def memory(self) -> str:
        """A digest of all RAM blocks."""
        return hashlib.sha256(b"".join(block.view for block in self.machine.board.ram_blocks)).hexdigest()

    def load(self, data: bytes | memoryview, fd: int = -1) -> StreamError | None:
        """Load a stream; returns the error if it is refused, which must be a proper one."""

        def load() -> None:
            with self.machine.transfer.held() as subject, savevm.load(subject, memoryview(data), fd) as loaded:
                self.machine.transfer.take_over(loaded, subject)

        error = None
        try:
            self.machine.call(load)
        except StreamError as refusal:
            error = refusal
        if error is not None:
            assert str(error).isprintable(), repr(error)
            assert error.offset is not None, error
            assert 0 <= error.offset <= len(data), error
        return error

    def restore(self) -> None:
        """Be again as at first."""
        assert self.load(self.stream) is None

    def attempt(self, data: bytes, *, run: bool = False) -> bool:
        """Load a stream: whether it is accepted; if it is not, nothing may have changed. Perhaps let the guest run."""
        before = self.devices()
        if self.load(data) is not None:
            assert self.devices() == before
            return False
        if run:
            self.run()
        return True

    def run(self) -> None:
        """Let the guest run for a while, in its own memory, from whatever state it is in."""
        self.machine.write(RAM, self.ram)
        try:
            self.machine.run(until=Instructions(300), timeout=0.2)
        except TimeoutError:  # asleep, or in a loop of exceptions without an instruction
            self.machine.stop()
        self.devices()

    @staticmethod
    def fields(devices: bytes, descriptions: dict[tuple[str, int], Any]) -> dict[tuple[str, str], Any]:
        """What is in all sections, by section and path."""
        reader, found = Reader(devices), {}
        while reader.remaining:
            reader.skip(5)
            name = reader.read(reader.u8()).decode()
            instance = reader.u32()
            reader.skip(4)
            for path, value in flat(vmdesc.decode(descriptions[name, instance], reader)):
                found[f"{name}[{instance}]" if instance else name, path] = value
            reader.skip(5)
        return found


def flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        items = enumerate(value) if isinstance(value, list) else [("", value)]
        for index, item in items:
            if isinstance(item, dict):
                yield from flat(item, f"{path}{name}{index}.")
            else:
                yield f"{path}{name}{index}", item


@pytest.fixture(scope="module")
def shared() -> Iterator[Target]:
    target = Target()
    yield target
    target.machine.close()


@pytest.fixture
def target(shared: Target) -> Target:
    shared.restore()
    return shared


def check_flip(target: Target, bit: int, before: bytes) -> bytes | None:
    """Load the short stream with one bit flipped; what the machine saves then if it was accepted."""
    data = bytearray(target.short)
    data[bit // 8] ^= 1 << bit % 8
    refusal, found = target.load(data), target.devices()
    if refusal is not None:
        assert found == before, f"bit {bit}"
        return None
    begin, end = target.devices_begin, target.devices_end
    wanted = bytes(data[begin:end])
    if found != wanted:
        wanted_fields = target.fields(wanted, target.first_descriptions)
        found_fields = target.fields(found, target.descriptions)
        differing = {key for key, _value in wanted_fields.items() ^ found_fields.items()}
        assert differing <= DERIVED, f"bit {bit}"
        assert differing or begin <= bit // 8 < end, f"bit {bit}"
    return found


def check_flips(target: Target, step: int, run_step: int) -> tuple[int, int]:
    """Flip every `step`th bit of what is not RAM's pages; returns how many streams were refused, and loaded.

    At every `run_step`th bit the guest runs for a while.
    """

    def flip(bits: range) -> tuple[int, bool]:
        """All on the machine's thread: how many were accepted, and whether the last one was."""
        accepted, now = 0, target.devices()
        for bit in bits:
            found = check_flip(target, bit, now)
            if found is not None:
                accepted, now = accepted + 1, found
        return accepted, found is not None

    total, end = 0, 8 * (target.devices_end + 6)
    for begin in range(0, end, run_step):
        bits = range(begin, min(begin + run_step, end), step)
        accepted, last_was = target.machine.call(functools.partial(flip, bits))
        total += accepted
        if last_was:
            target.run()
    return len(range(0, end, step)) - total, total


def test_a_flipped_bit_is_refused_or_comes_back(target: Target) -> None:
    refused, accepted = check_flips(target, step=47, run_step=5 * 47)
    assert refused > 100
    assert accepted > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_flipped_bit_is_refused_or_comes_back(target: Target) -> None:
    print(check_flips(target, step=1, run_step=13))


def check_cuts(target: Target, step: int) -> int:
    """Cut the short stream at every `step`th byte, the long one at fewer; returns how many were tried."""
    memory = target.memory()
    whole = target.devices_end + 1
    cuts = [target.short[:length] for length in range(0, len(target.short), step) if length != whole]
    cuts += [target.stream[:length] for length in range(0, len(target.stream) - len(target.short), 41 * step)]

    def load() -> None:
        before = target.devices()
        for cut in cuts:
            assert target.load(cut) is not None
            assert target.devices() == before

    target.machine.call(load)
    assert target.memory() == memory
    return len(cuts)


def test_a_cut_stream_is_refused(target: Target) -> None:
    check_cuts(target, step=23)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stream_cut_at_any_byte_is_refused(target: Target) -> None:
    print(check_cuts(target, step=1))


def test_the_description_may_be_missing(target: Target) -> None:
    assert target.attempt(target.stream[: -len(target.short) + target.devices_end + 1])
    assert target.save() == target.stream


def sections(target: Target) -> list[bytes]:
    """The sections that are not RAM, one by one."""
    reader, begins = Reader(target.short[target.devices_begin : target.devices_end]), []
    while reader.remaining:
        begin = reader.offset
        reader.skip(5)
        name = reader.read(reader.u8()).decode()
        instance = reader.u32()
        reader.skip(4)
        vmdesc.decode(target.first_descriptions[name, instance], reader)
        reader.skip(5)
        begins.append((begin, reader.offset))
    return [target.short[target.devices_begin + begin : target.devices_begin + end] for begin, end in begins]


def test_sections_may_come_in_any_order_but_none_twice_and_none_may_be_missing(target: Target) -> None:
    parts, generator = sections(target), random.Random(1)
    head, tail = target.short[: target.devices_begin], target.short[target.devices_end :]
    assert head + b"".join(parts) + tail == target.short
    for _ in range(20):
        shuffled = generator.sample(parts, len(parts))
        assert target.attempt(head + b"".join(shuffled) + tail)
        assert target.devices() == b"".join(parts)
    for index, part in enumerate(parts):
        assert not target.attempt(head + b"".join(parts[:index] + parts[index + 1 :]) + tail)
        assert not target.attempt(head + b"".join(parts) + part + tail)
        assert not target.attempt(part + head + b"".join(parts) + tail)
        renamed = part.replace(part[6 : 6 + part[5]], bytes(part[5]), 1)
        assert not target.attempt(head + b"".join([*parts[:index], renamed, *parts[index + 1 :]]) + tail)
    assert not target.attempt(head[:17] + b"".join(parts) + tail)


EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 63,
    (1 << 64) - 1,
]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_numbers_set_to_extremes_are_refused_or_come_back(target: Target, size: int) -> None:
    generator = random.Random(size)
    for position in generator.sample(range(target.devices_end - size), 150):
        for value in EXTREMES:
            if value < 1 << 8 * size:
                data = target.short[:position] + value.to_bytes(size, "big") + target.short[position + size :]
                target.attempt(data, run=generator.random() < 0.02)


def test_random_bytes_are_refused(target: Target) -> None:
    generator = random.Random(1)
    for length in (0, 1, 8, 100, 5000):
        for keep in (0, 8, 17, target.devices_begin):
            for _ in range(20):
                assert not target.attempt(target.short[:keep] + generator.randbytes(length))


MUTATION = st.tuples(
    st.sampled_from(["set", "insert", "delete", "repeat", "swap"]),
    st.integers(0, 1 << 14),
    st.integers(0, 64),
    st.binary(max_size=16),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=4), st.booleans())
def test_any_damage_is_refused_or_does_no_harm(
    shared: Target, mutations: list[tuple[str, int, int, bytes]], run: bool
) -> None:
    data = shared.short
    for kind, where, length, new in mutations:
        begin = where % (len(data) + 1)
        end = begin + length
        part = data[begin:end]
        middle = {"set": new, "insert": new + part, "delete": b"", "repeat": part + part, "swap": part[::-1]}[kind]
        end = begin + len(new) if kind == "set" else end
        data = data[:begin] + middle + data[end:]
    shared.attempt(data, run=run)
