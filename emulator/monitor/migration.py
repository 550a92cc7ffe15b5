"""Commands about live migration: what QMP and the human monitor ask of `Machine.migration`.

Results are QAPI's; what only the human monitor shows stands in a mapping beside them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emulator.core.memory import PAGE_SIZE
from emulator.migration.errors import MigrationError
from emulator.migration.settings import PARAMETERS
from emulator.migration.status import Figures, Progress, Status
from emulator.migration.uri import parse_uri
from emulator.monitor.arguments import Arguments
from emulator.monitor.context import Context
from emulator.monitor.foreground import INTERVAL_SECONDS
from emulator.monitor.migrationviews import progress_line
from emulator.options import parse_object
from emulator.sizes import parse_number

FIRST_GIVEN = 3
"""The first descriptor behind standard input, output and error."""
WITH_FIGURES = (Status.ACTIVE, Status.PRE_SWITCHOVER, Status.DEVICE, Status.CANCELLING, Status.COMPLETED)
"""States for which QEMU tells figures."""


def migrate(context: Context, arguments: Arguments) -> None:
    """Send the guest away in the background; QEMU's other options do not apply, and are refused."""
    for name in ("blk", "inc", "resume"):
        if arguments[name]:
            raise MigrationError(f"'{name}' is not supported: there are no disks, and only precopy")
    context.machine.migration.migrate(_given(arguments["uri"]))


def migrate_in_foreground(context: Context, arguments: Arguments) -> str:
    """Send the guest away, and wait until it has gone unless told to detach; Ctrl-C cancels. What to say about that."""
    migration, user = context.machine.migration, context.user
    migration.migrate(_given(arguments["uri"]), report=arguments["file"])
    if arguments["detach"]:
        return ""
    if user is None:
        return "terminal does not allow synchronous migration, continuing detached"
    with user.watching():
        while not migration.progress.wait_to_end(INTERVAL_SECONDS) and not user.ended:
            user.draw(progress_line(migration.progress, user.columns))
            if user.interrupted:
                migration.cancel()
        user.draw(progress_line(migration.progress, user.columns))
    if not user.ended and migration.wait() is Status.FAILED:
        raise MigrationError(migration.progress.error or "")
    return ""


def _given(uri: str) -> str:
    """The URI, unless it names a descriptor that is mini-qemu's own: a stream through that would ruin it.

    What it has opened itself is not handed on to other programs; what it was given by another, has been.
    """
    address = parse_uri(uri)
    if address.kind == "fd":
        try:
            is_own = address.fd < FIRST_GIVEN or bool(fcntl.fcntl(address.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
        except OSError:
            is_own = False  # there is none, as will be said
        if is_own:
            raise MigrationError(f"{uri} was not given to mini-qemu for a migration")
    return uri


def cancel(context: Context, _arguments: Arguments) -> None:
    """Take the guest back."""
    context.machine.migration.cancel()


def go_on(context: Context, arguments: Arguments) -> None:
    """Leave the state in which the migration waits."""
    migration = context.machine.migration
    if arguments["state"] != migration.progress.status:
        raise MigrationError(f"Migration not in expected state: {migration.progress.status}")
    migration.go_on()


def incoming(context: Context, arguments: Arguments) -> None:
    """Say where the expected guest comes from."""
    if context.machine.status != "inmigrate":
        raise MigrationError("'-incoming' was not specified on the command line")
    context.machine.migration.listen(_given(arguments["uri"]))


def pause(_context: Context, _arguments: Arguments) -> None:
    """Only postcopy can be paused, and there is none."""
    raise MigrationError("migrate-pause is currently only supported during postcopy-active state")


def set_parameter(context: Context, arguments: Arguments) -> None:
    """Set one parameter to what has been typed: max-bandwidth is in MiB if no unit is given."""
    name, typed = arguments["parameter"], arguments["value"]
    parameter = PARAMETERS.get(name)
    value: int | str = typed
    if parameter is not None and isinstance(parameter.default, int):
        value = parse_number(typed, unit="M" if name == "max-bandwidth" else "B")
    context.machine.migration.settings.set({name: value})


def set_parameters(context: Context, arguments: Arguments) -> None:
    """Set those parameters that are given."""
    context.machine.migration.settings.set({name: value for name, value in arguments.items() if value is not None})


def parameters(context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `MigrationParameters`."""
    return dict(context.machine.migration.settings.parameters)


def set_capability(context: Context, arguments: Arguments) -> None:
    """Switch one capability."""
    _enable(context, {arguments["capability"]: arguments["state"]})


def set_capabilities(context: Context, arguments: Arguments) -> None:
    """Switch capabilities, all of those given or none."""
    _enable(context, {wanted["capability"]: wanted["state"] for wanted in arguments["capabilities"]})


def _enable(context: Context, wanted: Mapping[str, bool]) -> None:
    if context.machine.migration.progress.is_under_way:
        raise MigrationError("There's a migration process in progress")
    context.machine.migration.settings.enable(wanted)


def capabilities(context: Context, _arguments: Arguments) -> list[dict[str, Any]]:
    """QAPI's `MigrationCapabilityStatus` of each."""
    present = context.machine.migration.settings.capabilities
    return [{"capability": name, "state": state} for name, state in present.items()]


def add_object(context: Context, arguments: Arguments) -> None:
    """Make certificates known, the only kind of object that there is."""
    context.machine.migration.add_credentials(
        arguments["id"],
        Path(arguments["dir"]),
        endpoint=arguments["endpoint"] or "client",
        verify_peer=arguments["verify-peer"] is not False,
    )


def add_object_as_typed(context: Context, arguments: Arguments) -> None:
    """The same from one word, as behind `-object`."""
    name, given = parse_object("object_add", arguments["object"])
    context.machine.migration.add_credentials(name, **given)


def remove_object(context: Context, arguments: Arguments) -> None:
    """Forget certificates."""
    context.machine.migration.remove_credentials(arguments["id"])


def query(context: Context, _arguments: Arguments) -> dict[str, Any]:
    """QAPI's `MigrationInfo`: of the guest that is expected, or of the one that was last sent away."""
    migration = context.machine.migration
    info: dict[str, Any] = {}
    if migration.incoming.status is not Status.NONE:
        info["status"] = str(migration.incoming.status)
        if migration.incoming.error is not None:
            info["error-desc"] = migration.incoming.error
    if (address := migration.address) is not None:
        del info["status"]  # as QEMU, which has none before somebody has connected
        if (socket := _socket_address(address)) is not None:
            info["socket-address"] = [socket]
    if migration.progress.status is not Status.NONE:
        info |= _outgoing(migration.progress)
    return info


def show_info(context: Context, arguments: Arguments) -> dict[str, Any]:
    """The same, with what QAPI has no place for."""
    migration = context.machine.migration
    ours: dict[str, Any] = {}
    if migration.progress.status is not Status.NONE:
        ours = {
            "dirty-log": migration.progress.figures.dirty_log,
            "way-back": migration.way_back,
            "report-error": migration.report_error,
        }
    return {"migration": query(context, arguments), "ours": ours}


def _outgoing(progress: Progress) -> dict[str, Any]:
    status, figures = progress.status, progress.figures
    info: dict[str, Any] = {"status": str(status)}
    if progress.error is not None:
        info["error-desc"] = progress.error
    if status not in WITH_FIGURES:
        return info
    info["total-time"] = _milliseconds(progress.elapsed())
    if figures.setup_time is not None:
        info["setup-time"] = _milliseconds(figures.setup_time)
    if status is Status.COMPLETED:
        info["downtime"] = _milliseconds(figures.downtime or 0)
    else:
        info["expected-downtime"] = _milliseconds(figures.expected_downtime)
    if figures.throttle:
        info["cpu-throttle-percentage"] = figures.throttle
    if figures.xbzrle is not None:
        info["xbzrle-cache"] = {name.replace("_", "-"): value for name, value in asdict(figures.xbzrle).items()}
    return info | {"ram": _ram(progress, figures)}


def _ram(progress: Progress, figures: Figures) -> dict[str, Any]:
    """QAPI's `MigrationStats`."""
    seconds = max(progress.elapsed(), 1e-3)
    completed = progress.status is Status.COMPLETED
    bandwidth = figures.transferred / seconds if completed else figures.bandwidth or figures.transferred / seconds
    return {
        "transferred": figures.transferred,
        "remaining": figures.remaining,
        "total": figures.total,
        "duplicate": figures.duplicate,
        "skipped": 0,
        "normal": figures.normal,
        "normal-bytes": figures.normal_bytes,
        "dirty-pages-rate": 0 if completed else figures.dirty_pages_rate,
        "mbps": bandwidth * 8 / 1e6,
        "dirty-sync-count": figures.dirty_sync_count,
        "postcopy-requests": 0,
        "page-size": PAGE_SIZE,
        "multifd-bytes": 0,
        "pages-per-second": int((figures.normal + figures.duplicate) / seconds),
        "precopy-bytes": figures.precopy,
        "downtime-bytes": figures.transferred - figures.precopy if completed else 0,
        "postcopy-bytes": 0,
        "dirty-sync-missed-zero-copy": 0,
    }


def _socket_address(uri: str) -> dict[str, str] | None:
    """QAPI's `SocketAddress` of a URI that is a socket."""
    address = parse_uri(uri)
    if address.kind == "tcp":
        return {"type": "inet", "host": address.host, "port": str(address.port)}
    return {"type": "unix", "path": address.path} if address.kind == "unix" else None


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
