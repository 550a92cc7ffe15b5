"""The values of QEMU's command line options, taken apart and checked: text in, plain values or a ConfigError out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emulator.core import log
from emulator.core.errors import ConfigError

BOOLEANS = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}


def parse_machine(text: str) -> dict[str, Any]:
    """`-M virt[,acpi=on|off][,qemu-timer-fix=on|off|auto]`: the machine's options in Python."""
    name, *properties = text.split(",")
    options: dict[str, Any] = {"machine": name.removeprefix("type=")}
    for each in properties:
        key, _, value = each.partition("=")
        if key == "acpi":
            options["acpi"] = value == "auto" or _boolean(f"-M {text}", value)
        elif key == "qemu-timer-fix":
            options["qemu_timer_fix"] = value
        else:
            raise ConfigError(f"-M {text}: property '{key}' is not supported yet")
    return options


def parse_memory(text: str) -> str:
    """`-m 128M` or `-m size=128M`: the size as text."""
    size, *options = text.split(",")
    if options:
        raise ConfigError(f"-m {text}: option '{options[0].partition('=')[0]}' is not supported yet")
    return size.removeprefix("size=")


def parse_smp(text: str) -> int:
    """`-smp 1` or `-smp cpus=1`: the number of harts."""
    count = text.removeprefix("cpus=")
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise ConfigError(f"-smp {text}: expected a number of CPUs")
    return int(count)


def parse_icount(text: str) -> tuple[int, bool]:
    """`-icount shift=N[,sleep=on|off]`: the shift, and whether the host sleeps while the guest waits."""
    shift, sleep = "", True
    for index, word in enumerate(text.split(",")):
        name, equals, value = word.partition("=")
        if index == 0 and not equals:
            name, value = "shift", word
        if name == "shift":
            shift = value
        elif name == "sleep":
            sleep = _boolean(f"-icount {text}", value)
        else:
            raise ConfigError(f"-icount {text}: option '{name}' is not supported yet")
    if not (shift.isascii() and shift.isdigit() and len(shift) < 4):
        raise ConfigError(f"-icount {text}: expected shift=N, with N from 0 to 10")
    return int(shift), sleep


def parse_log_items(text: str) -> list[str]:
    """`-d int,mmio`: the names of things to log."""
    items = text.split(",")
    unknown = [item for item in items if item not in log.ITEMS]
    if unknown:
        raise ConfigError(f"-d {text}: there is no log item '{unknown[0]}'; there are {', '.join(log.ITEMS)}")
    return items


def parse_globals(settings: tuple[str, ...]) -> bool:
    """`-global virtio-mmio.force-legacy=BOOL`: whether virtio transports speak the legacy protocol only."""
    legacy = True
    for text in settings:
        name, equals, value = text.partition("=")
        if name != "virtio-mmio.force-legacy" or not equals:
            raise ConfigError(f"-global {text}: only virtio-mmio.force-legacy=on|off is supported yet")
        legacy = _boolean(f"-global {text}", value)
    return legacy


def parse_object(where: str, text: str) -> tuple[str, dict[str, Any]]:
    """`tls-creds-x509,id=ID,dir=DIR[,endpoint=client|server][,verify-peer=on|off]`: the id, and what is said of it."""
    kind, *properties = text.split(",")
    if kind.removeprefix("qom-type=") != "tls-creds-x509":
        raise ConfigError(f"{where}: only tls-creds-x509 is supported")
    given = {"endpoint": "client", "verify-peer": "on"}
    for each in properties:
        name, _, value = each.partition("=")
        if name not in ("id", "dir", "endpoint", "verify-peer"):
            raise ConfigError(f"{where}: property '{name}' is not supported")
        given[name] = value
    if missing := {"id", "dir"} - {name for name, value in given.items() if value}:
        raise ConfigError(f"{where}: '{min(missing)}' is missing")
    if given["endpoint"] not in ("client", "server"):
        raise ConfigError(f"{where}: expected endpoint=client or endpoint=server")
    verify_peer = _boolean(where, given["verify-peer"])
    return given["id"], {"directory": Path(given["dir"]), "endpoint": given["endpoint"], "verify_peer": verify_peer}


def choose_consoles(
    serial: str | None,
    monitor: str | None,
    qmp: tuple[str, ...] = (),
    *,
    nographic: bool = False,
    nodefaults: bool = False,
) -> tuple[str, str]:
    """The chardevs of the serial port and of the monitor, when `-serial` and `-monitor` may not have been given.

    As with QEMU's `-nographic`, both share standard input and output if neither was given, and one that was not given
    gets them if they are free; but a monitor of its own on a terminal comes only with `-nographic`. They
    are not free if one of `qmp`, the QMP monitors' chardevs, has them.
    """
    taken = any(map(_is_stdio, qmp))
    if serial is None and monitor is None and not nodefaults:
        return ("null" if taken else "mon:stdio"), "null"
    if serial is None:
        serial = "null" if nodefaults or taken or _is_stdio(monitor) else "stdio"
    if monitor is None:
        monitor = "stdio" if nographic and not nodefaults and not taken and not _is_stdio(serial) else "null"
    return _spelled(serial), _spelled(monitor)


def _is_stdio(chardev: str | None) -> bool:
    return chardev in ("stdio", "mon:stdio")


def _spelled(chardev: str) -> str:
    return "null" if chardev == "none" else chardev


def _boolean(where: str, value: str) -> bool:
    if value not in BOOLEANS:
        raise ConfigError(f"{where}: expected on or off, not '{value}'")
    return BOOLEANS[value]
