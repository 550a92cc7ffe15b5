"""The ACPI tables of a board: memory that holds them, and whether they are complete.

Models: what QEMU 10's `virt` board keeps in `virt_acpi_build` and in three memory blocks that no address leads to; its
firmware fetches them through fw_cfg. Tables are not built here: a guest that has started here finds none. A guest that
comes from a QEMU leaves its tables in these blocks, and takes them along when it goes on to another.
Regions, lines and clocks: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from emulator.core.device import Device
from emulator.migration.fields import Bool
from emulator.migration.vmstate import VMStateDescription


class Table(NamedTuple):
    """One of the blocks, sizes in bytes."""

    name: str
    size: int
    reserved: int
    """How far the block could grow in QEMU, whose streams have their blocks in the order of this size."""
    used: int
    """What QEMU's tables for one hart take; it builds them anew when a guest's firmware looks at them first."""


TABLES = (
    Table("/rom@etc/acpi/tables", 0x20000, 0x200000, 0x20000),
    Table("/rom@etc/table-loader", 0x1000, 0x10000, 0x900),
    Table("/rom@etc/acpi/rsdp", 0x1000, 0x1000, 0x24),
)


@dataclass(slots=True)
class AcpiBuildState:
    """Whether firmware has looked at the tables, which completes them."""

    patched: bool = False


VMSTATE_ACPI_BUILD = VMStateDescription(
    "virt_acpi_build", AcpiBuildState, version_id=1, minimum_version_id=1, fields=(Bool("patched"),)
)


class AcpiBuild(Device):
    """What is known of the tables besides their content."""

    kind = "virt_acpi_build"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"virt_acpi_build": VMSTATE_ACPI_BUILD}
    state: AcpiBuildState

    def __init__(self) -> None:
        self.state = AcpiBuildState()

    def adopt(self, state: AcpiBuildState) -> None:
        """Take over a state; nothing else follows it."""
        self.state = state
