"""The text of the `info` commands, from plain data: run state, registers, address map, devices."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from emulator.sizes import show_size


def show_status(status: Mapping[str, Any]) -> str:
    """Text of `info status`."""
    state = status["status"]
    if status["running"]:
        return "VM status: running"
    return "VM status: paused" + ("" if state == "paused" else f" ({state})")


def show_version(version: Mapping[str, Any]) -> str:
    """Text of `info version`: what we are, not whose interface it is."""
    package: str = version["package"]
    return package.rpartition(" ")[2]


def show_name(info: Mapping[str, Any]) -> str:
    """Text of `info name`: nothing for a machine without one."""
    return str(info.get("name", ""))


def show_uuid(info: Mapping[str, Any]) -> str:
    """Text of `info uuid`."""
    return str(info["UUID"])


def show_kvm(info: Mapping[str, Any]) -> str:
    """Text of `info kvm`."""
    state = "enabled" if info["enabled"] else "disabled" if info["present"] else "not compiled"
    return f"kvm support: {state}"


def show_cpus(cpus: Sequence[Mapping[str, Any]]) -> str:
    """Text of `info cpus`; the star is at the CPU that the monitor looks at."""
    return "\n".join(
        f"{' ' if cpu['cpu-index'] else '*'} CPU #{cpu['cpu-index']}: thread_id={cpu['thread-id']}" for cpu in cpus
    )


def show_chardevs(chardevs: Sequence[Mapping[str, Any]]) -> str:
    """Text of `info chardev`."""
    return "\n".join(f"{chardev['label']}: filename={chardev['filename']}" for chardev in chardevs)


def show_registers(registers: Mapping[str, int]) -> str:
    """Text of `info registers`: special registers a line each, general ones, which have two names, four to a line."""
    special = [name for name in registers if "/" not in name]
    lines = ["", "CPU#0", *(f" {name:<8} {registers[name]:016x}" for name in special)]
    general = [name for name in registers if "/" in name]
    for first in range(0, len(general), 4):
        lines.append(" " + " ".join(f"{name:<8} {registers[name]:016x}" for name in general[first : first + 4]))
    return "\n".join(lines)


def show_page_map(found: Mapping[str, Any] | None) -> str:
    """Text of `info mem`: ranges of pages with what is allowed there."""
    if found is None:
        return "No translation or protection"
    width = found["digits"]
    titles, widths = ("vaddr", "paddr", "size", "attr"), (width, 16, width, 7)
    lines = [" ".join(title.ljust(each) for title, each in zip(titles, widths, strict=True)).rstrip()]
    lines.append(" ".join("-" * each for each in widths))
    for each in found["ranges"]:
        lines.append(f"{each['virtual']:0{width}x} {each['physical']:016x} {each['size']:0{width}x} {each['flags']}")
    if not found["complete"]:
        lines.append("there are more page tables than are looked at")
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


def show_snapshots(found: Mapping[str, Any]) -> str:
    """Text of `info snapshots`: QEMU's columns, and for the ID what QEMU shows for one that has none."""
    if not found["snapshots"] and not found["damaged"]:
        return "There is no snapshot available."
    lines = []
    if found["snapshots"]:
        lines.append(f"List of snapshots present in '{found['directory']}':")
        lines.append(_SNAPSHOT.format("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"))
    for snapshot in found["snapshots"]:
        size, date, clock = show_size(snapshot["disk_size"]), show_date(snapshot["taken"]), snapshot["virtual_clock"]
        icount = "" if snapshot["icount"] is None else snapshot["icount"]
        lines.append(_SNAPSHOT.format("--", snapshot["tag"], size, date, show_clock(clock), icount))
    if found["damaged"]:
        lines += ["", "List of snapshots that cannot be loaded:"]
        lines += [f"{tag}: {reason}" for tag, reason in found["damaged"].items()]
    return "\n".join(line.rstrip() for line in lines).strip()


_SNAPSHOT = "{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}"


def show_date(seconds: float) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def show_clock(ns: int) -> str:
    """A virtual clock as hours, minutes and seconds."""
    seconds, milliseconds = divmod(ns // 1_000_000, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"


def _property(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} (0x{value:x})"
    return f'"{value}"'
