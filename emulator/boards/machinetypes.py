"""Machine types: one board, and the layouts of the QEMU that its streams are to be exchanged with.

QEMU has no versions of its RISC-V `virt` machine: each of its own speaks only its own layout, and all are called `virt`
on the wire. Here a type says whose layout is sent; what comes may have that of any that is known. Everything else about
the board, its device tree included, is the same for all types.
Source: streams of QEMU 7.2 and 10.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from emulator.core.errors import ConfigError
from emulator.cpu.state import SATP_MODES

WIRE_NAME = "virt"
"""What streams call all of them."""


@dataclass(frozen=True, slots=True)
class MachineType:
    """In which layout a machine's streams are; `name` is that of `-M`, `qemu` the release whose layout it is."""

    name: str
    qemu: str
    versions: Mapping[str, int] = field(default_factory=dict)
    """Sections that are sent in another version than the newest that their description has."""
    fw_cfg_first: bool = False
    """Whether fw_cfg comes before the PCIe host bridge."""
    splits_globalstate: bool = False
    """Whether `globalstate` has two flags within what was the room for the run state's name."""
    announces_switchover: bool = False
    """Whether a command precedes what is sent of RAM while the guest stands still."""
    satp_modes: tuple[int, ...] = tuple(SATP_MODES)
    """Translation modes that the CPU of this QEMU has."""
    has_acpi: bool = False
    """Whether the board has memory for ACPI tables, unless it is to have none."""


MACHINE_TYPES = {
    machine_type.name: machine_type
    for machine_type in (
        MachineType(
            "virt-10.0",
            "10.0",
            fw_cfg_first=True,
            splits_globalstate=True,
            announces_switchover=True,
            satp_modes=(0, 8),
            has_acpi=True,
        ),
        MachineType("virt-7.2", "7.2", versions={"cpu": 5}),
    )
}
"""By the name of `-M`, the newest first."""

ALIASES = {"virt": "virt-10.0"}
NAMES = (*ALIASES, *MACHINE_TYPES)


def machine_type(name: str) -> MachineType:
    """The type of that name or alias; raises ConfigError."""
    found = MACHINE_TYPES.get(ALIASES.get(name, name))
    if found is None:
        raise ConfigError(f"unsupported machine type '{name}': use one of {', '.join(NAMES)}")
    return found


def describe() -> str:
    """What `-M help` prints."""
    lines = ["Supported machines are:"]
    for alias, name in ALIASES.items():
        lines.append(f"{alias:<20} RISC-V VirtIO board (alias of {name}, default)")
    for each in MACHINE_TYPES.values():
        lines.append(f"{each.name:<20} RISC-V VirtIO board, streams as QEMU {each.qemu} has them")
    return "\n".join(lines)
