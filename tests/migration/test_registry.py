"""Who has which section, and in which order they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.migration.fields import UInt32
from emulator.migration.registry import FIRST_SECTION_ID, Registry
from emulator.migration.vmstate import MigrationPriority, VMStateDescription


@dataclass(slots=True)
class Level:
    value: int = 0


class Part:
    """An owner with sections of these names and priorities."""

    def __init__(self, *names: str, priority: MigrationPriority = MigrationPriority.DEFAULT) -> None:
        fields = (UInt32("value"),)
        self.vmstate: Mapping[str, VMStateDescription] = {
            name: VMStateDescription(name, Level, version_id=3, fields=fields, priority=priority) for name in names
        }
        self.state = Level()

    def fresh(self) -> Level:
        return Level()

    def check(self, state: Any) -> None:
        pass

    def adopt(self, state: Any) -> None:
        self.state = state


def registry_of(*parts: Part, **versions: int) -> Registry:
    registry = Registry(versions)
    for part in parts:
        registry.register(part)
    return registry


def test_sections_go_in_the_order_of_registration() -> None:
    registry = registry_of(Part("timer"), Part("cpu_common", "cpu"))
    assert [str(entry) for entry in registry] == ["timer", "cpu_common", "cpu"]
    assert [entry.section_id for entry in registry] == [FIRST_SECTION_ID + index for index in range(3)]


def test_a_higher_priority_goes_first() -> None:
    registry = registry_of(Part("timer"), Part("bus", priority=MigrationPriority.PCI_BUS), Part("rtc"))
    assert [str(entry) for entry in registry] == ["bus", "timer", "rtc"]


def test_the_same_name_again_is_another_instance() -> None:
    first, second = Part("flash"), Part("flash")
    registry = registry_of(first, second)
    assert [str(entry) for entry in registry] == ["flash", "flash[1]"]
    assert registry.find("flash", 1).owner is second
    assert registry.find("flash", 2) is None
    assert registry.find("disk", 0) is None


def test_a_part_without_sections_is_no_owner() -> None:
    part = Part("timer")
    assert registry_of(Part(), part).owners == [part]


def test_a_machine_type_may_send_an_older_version() -> None:
    assert {str(entry): entry.version_id for entry in registry_of(Part("cpu"), Part("rtc"), cpu=2)} == {
        "cpu": 2,
        "rtc": 3,
    }
