"""The text of the commands about live migration: QEMU's lines in QEMU's order, then ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emulator.core.memory import PAGE_SIZE
from emulator.migration.settings import PARAMETERS
from emulator.migration.status import Progress, Status
from emulator.sizes import show_size

GLOBALS = {
    "store-global-state": "on",
    "only-migratable": "off",
    "send-configuration": "on",
    "send-section-footer": "on",
}
"""What QEMU lets users set about a stream's form; here it is always as QEMU has it unless told otherwise."""

_TIMES = (("expected downtime", "expected-downtime"), ("downtime", "downtime"), ("setup", "setup-time"))
_RAM: tuple[tuple[str, str, str], ...] = (
    ("transferred ram", "transferred", "kbytes"),
    ("throughput", "mbps", "mbps"),
    ("remaining ram", "remaining", "kbytes"),
    ("total ram", "total", "kbytes"),
    ("duplicate", "duplicate", "pages"),
    ("skipped", "skipped", "pages"),
    ("normal", "normal", "pages"),
    ("normal bytes", "normal-bytes", "kbytes"),
    ("dirty sync count", "dirty-sync-count", ""),
    ("page size", "page-size", "kbytes"),
    ("multifd bytes", "multifd-bytes", "kbytes"),
    ("pages-per-second", "pages-per-second", ""),
)
_RAM_IF_ANY = (
    ("dirty pages rate", "dirty-pages-rate", "pages"),
    ("precopy ram", "precopy-bytes", "kbytes"),
    ("downtime ram", "downtime-bytes", "kbytes"),
)
_XBZRLE = (
    ("cache size", "cache-size", "bytes"),
    ("xbzrle transferred", "bytes", "kbytes"),
    ("xbzrle pages", "pages", "pages"),
    ("xbzrle cache miss", "cache-miss", "pages"),
    ("xbzrle cache miss rate", "cache-miss-rate", ""),
    ("xbzrle encoding rate", "encoding-rate", ""),
    ("xbzrle overflow", "overflow", ""),
)

BAR_COLUMNS = range(6, 21)
"""How long the progress bar may be."""


def show_migration(info: Mapping[str, Any]) -> str:
    """Text of `info migrate`."""
    return "\n".join(_lines(info["migration"], info["ours"]))


def _lines(info: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    yield "globals:"
    yield from (f"{name}: {value}" for name, value in GLOBALS.items())
    if "status" in info:
        why = f" ({info['error-desc']})" if info["status"] == Status.FAILED and "error-desc" in info else ""
        yield f"Migration status: {info['status']}{why}"
        yield f"total time: {info.get('total-time', 0)} ms"
        yield from (f"{label}: {info[key]} ms" for label, key in _TIMES if key in info)
    if "ram" in info:
        yield from _values(info["ram"], _RAM)
        yield from _values(info["ram"], [row for row in _RAM_IF_ANY if info["ram"][row[1]]])
    if "xbzrle-cache" in info:
        yield from _values(info["xbzrle-cache"], _XBZRLE)
    if "cpu-throttle-percentage" in info:
        yield f"cpu throttle percentage: {info['cpu-throttle-percentage']}"
    if "socket-address" in info:
        yield "socket address: ["
        yield from (f"\t{_uri(address)}" for address in info["socket-address"])
        yield "]"
    if ours:
        if ours["dirty-log"]:
            yield f"dirty log: {ours['dirty-log']}"
        yield f"guest given up: {GIVEN_UP[ours['way-back']]}"
        if ours["report-error"]:
            yield f"report: {ours['report-error']}"


GIVEN_UP = {
    True: "when the destination has said that it has loaded everything",
    False: "when everything has been written without an error; there is no way back to hear of the destination",
}
"""Who owns the guest and when, by whether the transport has a way back."""


def _values(values: Mapping[str, Any], rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    for label, key, unit in rows:
        value = values[key]
        shown = f"{value:.2f}" if isinstance(value, float) else str(value >> 10 if unit == "kbytes" else value)
        yield f"{label}: {shown} {unit}".rstrip()


def _uri(address: Mapping[str, str]) -> str:
    if address["type"] == "unix":
        return f"unix:{address['path']}"
    host = address["host"]
    return f"tcp:{f'[{host}]' if ':' in host else host}:{address['port']}"


def show_parameters(parameters: Mapping[str, int | str]) -> str:
    """Text of `info migrate_parameters`."""
    return "\n".join(
        f"{name}: '{value}'" if isinstance(value, str) else f"{name}: {value}{PARAMETERS[name].unit}"
        for name, value in parameters.items()
    )


def show_capabilities(capabilities: Sequence[Mapping[str, Any]]) -> str:
    """Text of `info migrate_capabilities`."""
    return "\n".join(f"{one['capability']}: {'on' if one['state'] else 'off'}" for one in capabilities)


def progress_line(progress: Progress, columns: int) -> str:
    """How an outgoing migration stands, in one line whose first words matter most; its bar leaves room for the rest."""
    figures, status = progress.figures, progress.status
    seconds = progress.elapsed()
    if status is Status.COMPLETED:
        return (
            f"completed in {seconds:.2f} s: {show_size(figures.transferred)} in {figures.pass_count} pass"
            f"{'' if figures.pass_count == 1 else 'es'} "
            f"and the switchover, {(figures.downtime or 0) * 1000:.1f} ms of downtime"
        )
    if status is not Status.ACTIVE or not figures.passes:
        return f"{status}  {seconds:.1f} s"
    done = 1 - figures.remaining / max(figures.total, 1)
    parts = [
        f"pass {figures.pass_count}",
        f"{show_size(figures.transferred)} sent",
        f"{show_size(int(figures.bandwidth or figures.transferred / max(seconds, 1e-3)))}/s",
        f"dirty {show_size(figures.dirty_pages_rate * PAGE_SIZE)}/s",
        f"{show_size(figures.remaining)} left",
    ]
    if figures.bandwidth:
        parts.append(f"down {figures.expected_downtime * 1000:.0f} ms")
    if figures.throttle:
        parts.append(f"throttled {figures.throttle} %")
    text = "  ".join(parts)
    length = min(max(columns - len("[] ") - len(text), BAR_COLUMNS[0]), BAR_COLUMNS[-1])
    full = round(length * max(done, 0))
    return f"[{'#' * full}{'.' * (length - full)}] {text}"
