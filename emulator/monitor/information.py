"""Commands that only look: `info` and the like in the human monitor, `query-…` in QMP."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from emulator.core.errors import MonitorError
from emulator.core.memory import RamBlock
from emulator.monitor import dump
from emulator.monitor.arguments import Arguments
from emulator.monitor.context import Context, Machine
from emulator.monitor.dump import Format
from emulator.version import VERSION

INTERFACE = (7, 2, 0)
"""The version of QEMU whose commands, arguments and answers these are, which is what clients decide by."""


def status(context: Context, _arguments: Arguments) -> dict[str, object]:
    """QAPI's `StatusInfo`."""
    state = str(context.machine.status)
    return {"status": state, "running": state == "running", "singlestep": False}


def version(_context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `VersionInfo`: of which QEMU's interface this is, and what implements it."""
    major, minor, micro = INTERFACE
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": f"mini-qemu {VERSION}"}


def _check_cpu(arguments: Arguments) -> None:
    index = arguments["vcpu"]
    if index not in (None, 0):
        raise MonitorError(f"CPU#{index} not available")


def registers(context: Context, arguments: Arguments) -> dict[str, int]:
    """Values by name."""
    _check_cpu(arguments)
    machine = context.machine
    return dict(machine.call(lambda: machine.cpu.registers()))


def page_map(context: Context, _arguments: Arguments) -> dict[str, Any] | None:
    """What the page tables map: its ranges, whether these are all, and how many digits an address has."""
    machine = context.machine
    found = machine.call(lambda: machine.cpu.page_map())
    if found is None:
        return None
    return {
        "digits": machine.call(lambda: machine.cpu.xlen) // 4,
        "complete": found.complete,
        "ranges": [
            {"virtual": each.virtual, "physical": each.physical, "size": each.size, "flags": each.flags}
            for each in found.ranges
        ],
    }


def mtree(context: Context, _arguments: Arguments) -> list[dict[str, object]]:
    """The address map, lowest address first."""
    machine = context.machine

    def collect() -> list[dict[str, object]]:
        return [
            {
                "name": mapping.target.name,
                "start": mapping.base,
                "end": mapping.end - 1,
                "kind": ("rom" if mapping.target.readonly else "ram")
                if isinstance(mapping.target, RamBlock)
                else "i/o",
            }
            for mapping in machine.board.bus
        ]

    return machine.call(collect)


def qtree(context: Context, _arguments: Arguments) -> list[dict[str, object]]:
    """Every device with its properties and register windows."""
    machine = context.machine

    def collect() -> list[dict[str, object]]:
        bases = {id(mapping.target): mapping.base for mapping in machine.board.bus}
        return [
            {
                "type": device.kind,
                "id": name,
                "properties": dict(device.properties()),
                "mmio": [
                    {"start": bases[id(region)], "size": region.size}
                    for region in device.regions
                    if id(region) in bases
                ],
            }
            for name, device in machine.board.devices.items()
        ]

    return machine.call(collect)


def _examine(machine: Machine, form: Format, read: dump.ReadBytes, address: int) -> str:
    if form.letter != "i":
        return dump.format_values(machine.call(lambda: dump.read_values(read, address, form)), form)
    from emulator.cpu.disasm import disassemble

    return dump.format_instructions(machine.call(lambda: dump.read_instructions(read, address, form)), disassemble)


def examine_virtual(context: Context, arguments: Arguments) -> str:
    """Memory as the guest sees it, as text."""
    machine = context.machine
    return _examine(machine, arguments["fmt"], machine.cpu.read_virtual, arguments["addr"])


def examine_physical(context: Context, arguments: Arguments) -> str:
    """Physical memory, as text."""
    machine = context.machine
    form: Format = arguments["fmt"]
    return _examine(machine, form, dump.physical_reader(machine.board.bus, form.size), arguments["addr"])


def print_value(_context: Context, arguments: Arguments) -> str:
    """A number, as text."""
    return dump.format_number(arguments["expr"], arguments["fmt"].letter)


def snapshots(context: Context, _arguments: Arguments) -> dict[str, Any]:
    """Where the snapshots are, and which are sound and which damaged."""
    directory = context.machine.snapshots
    snapshots, damaged = directory.examine()
    return {
        "directory": str(directory.path),
        "snapshots": [dataclasses.asdict(snapshot) for snapshot in snapshots],
        "damaged": {tag: str(error) for tag, error in damaged.items()},
    }


def machines(_context: Context, _arguments: Arguments) -> list[dict[str, Any]]:
    """QAPI's `MachineInfo` of every machine type."""
    from emulator.boards.layout import RAM_BLOCK
    from emulator.boards.machinetypes import ALIASES, MACHINE_TYPES
    from emulator.machine import CPUS

    aliases = {name: alias for alias, name in ALIASES.items()}

    return [
        {
            "name": name,
            **({"alias": aliases[name]} if name in aliases else {}),
            "is-default": name in aliases,
            "cpu-max": 1,
            "default-cpu-type": f"{CPUS[0]}-riscv-cpu",
            "default-ram-id": RAM_BLOCK,
            "hotpluggable-cpus": False,
            "numa-mem-supported": False,
            "deprecated": False,
        }
        for name in MACHINE_TYPES
    ]


def cpus(context: Context, _arguments: Arguments) -> list[dict[str, Any]]:
    """QAPI's `CpuInfoFast` of every hart; the thread is the machine's."""
    thread = context.machine.call(threading.get_native_id)
    return [
        {
            "cpu-index": 0,
            "qom-path": "/machine/soc0/harts[0]",
            "props": {"core-id": 0},
            "target": "riscv64",
            "thread-id": thread,
        }
    ]


def name(_context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `NameInfo`: machines have no names."""
    return {}


def uuid(context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `UuidInfo`: all zeros if the machine has been given none."""
    return {"UUID": context.machine.uuid}


def kvm(_context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `KvmInfo`."""
    return {"enabled": False, "present": False}


def chardevs(context: Context, _arguments: Arguments) -> list[dict[str, Any]]:
    """QAPI's `ChardevInfo` of every character device."""
    return context.chardevs()
