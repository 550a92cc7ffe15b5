"""The sections of a whole machine: rehearsed without harm, and read as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Machine, Serial
from emulator.migration.devices import (
    DeviceLoader,
    device_sections,
    put_devices,
    rehearse_loading,
    rehearse_saving,
)
from emulator.migration.errors import MigrationError, StreamError, TruncatedError
from emulator.migration.format import SectionReader
from emulator.migration.registry import Registry
from emulator.migration.status import Status
from emulator.migration.vmdesc import decode, from_json
from emulator.migration.wire import Reader, Writer

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=60)
        yield machine


@pytest.fixture
def registry(machine: Machine) -> Registry:
    return machine.transfer.subject().registry


def saved(registry: Registry) -> bytes:
    writer = Writer()
    put_devices(registry, writer)
    return bytes(writer.data)


def test_a_machine_with_what_must_not_be_saved_is_neither_saved_nor_moved(
    machine: Machine, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next(iter(registry)).description, "unmigratable", True)
    blocked = f"State blocked by non-migratable device '{next(iter(registry))}'"
    with pytest.raises(MigrationError, match=blocked):
        machine.save(tmp_path / "stream")
    assert not list(tmp_path.iterdir())
    machine.migration.migrate("exec:cat >/dev/null")
    assert machine.migration.wait(60) is Status.FAILED
    assert machine.migration.progress.error == blocked


def test_a_rehearsal_changes_nothing(registry: Registry) -> None:
    before = saved(registry)
    rehearse_saving(registry)
    rehearse_loading(registry)
    assert saved(registry) == before


def test_a_new_machines_sections_are_the_same_ones(registry: Registry) -> None:
    assert [str(entry) for entry in registry.renewed()] == [str(entry) for entry in registry]
    assert saved(registry.renewed()) != saved(registry)


def test_sections_are_the_same_with_and_without_their_description(registry: Registry) -> None:
    assert b"".join(device_sections(registry)) == saved(registry)


def test_each_section_is_described_as_it_is_saved(registry: Registry) -> None:
    described = from_json(put_devices(registry, Writer()))
    for section, data in zip(described.values(), device_sections(registry), strict=True):
        reader = Reader(data)
        SectionReader().next(reader)
        decode(section, reader)
        assert reader.remaining == 5  # the footer


def test_a_section_that_arrives_in_two_pieces_is_read_again(registry: Registry) -> None:
    sections, loader = SectionReader(), DeviceLoader(registry)
    for data in device_sections(registry):
        whole = Reader(data)
        heading = sections.next(whole)
        assert heading is not None
        for end in range(whole.offset, len(data)):
            piece = Reader(data[:end])
            piece.skip(whole.offset)
            with pytest.raises(StreamError) as caught:
                loader.read(piece, heading)
            assert isinstance(caught.value, TruncatedError) or piece.ran_dry
        loader.read(whole, heading)
    loader.check_complete(0)
    other = DeviceLoader(registry)
    sections = SectionReader()
    for data in device_sections(registry):
        reader = Reader(data)
        if heading := sections.next(reader):
            other.read(reader, heading)
    assert [state for _, state in loader.states()] == [state for _, state in other.states()]
