"""The text of the `info` commands, from plain data: run state, registers, address map, devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def show_status(status: Mapping[str, Any]) -> str:
    """Text of `info status`."""
    state = status["status"]
    if status["running"]:
        return "VM status: running"
    return "VM status: paused" + ("" if state == "paused" else f" ({state})")


def show_registers(registers: Mapping[str, int]) -> str:
    """Text of `info registers`: special registers a line each, general ones, which have two names, four to a line."""
    special = [name for name in registers if "/" not in name]
    lines = ["", "CPU#0", *(f" {name:<8} {registers[name]:016x}" for name in special)]
    general = [name for name in registers if "/" in name]
    for first in range(0, len(general), 4):
        lines.append(" " + " ".join(f"{name:<8} {registers[name]:016x}" for name in general[first : first + 4]))
    return "\n".join(lines)


def show_mtree(mappings: Sequence[Mapping[str, Any]]) -> str:
    """Text of `info mtree`: the address map, lowest address first."""
    lines = ["address-space: memory", f"  {0:016x}-{'f' * 16} (prio 0, i/o): system"]
    for mapping in mappings:
        lines.append(
            f"    {mapping['start']:016x}-{mapping['end']:016x} (prio 0, {mapping['kind']}): {mapping['name']}"
        )
    return "\n".join(lines)


def show_qtree(devices: Sequence[Mapping[str, Any]]) -> str:
    """Text of `info qtree`: every device with its properties and register windows."""
    lines = ["bus: main-system-bus", "  type System"]
    for device in devices:
        lines.append(f'  dev: {device["type"]}, id "{device["id"]}"')
        lines += [f"    {name} = {_property(value)}" for name, value in device["properties"].items()]
        lines += [f"    mmio {window['start']:016x}/{window['size']:016x}" for window in device["mmio"]]
    return "\n".join(lines)


def _property(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} (0x{value:x})"
    return f'"{value}"'
