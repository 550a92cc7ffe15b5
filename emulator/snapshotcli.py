"""`mini-qemu snapshot list`, `delete` and `verify`: what is in a directory of snapshots, without a machine.

A terminal gets a table and is told what takes long; a pipe gets plain lines, and a script that asks for it gets JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from emulator.core.errors import EmulatorError
from emulator.migration.errors import StreamError
from emulator.migration.snapshots import Snapshot, SnapshotDirectory
from emulator.monitor.views import show_clock, show_date
from emulator.sizes import show_size

HEADINGS = ("TAG", "DATE", "VM CLOCK", "ON DISK", "RAM", "ICOUNT")
"""The first is wrapped where it must be; of the others, a narrow terminal shows as many as fit."""
TAG_WIDTH = 10
"""How narrow the column of tags may get before others are left out."""
DAMAGED = "damaged"
"""What stands in place of a date."""


def list_snapshots(directory: SnapshotDirectory, *, as_json: bool) -> None:
    """Print every snapshot, damaged ones last; raises FileError."""
    snapshots, damaged = directory.examine()
    if as_json:
        sound = [{**asdict(snapshot), "path": str(snapshot.path), "damaged": None} for snapshot in snapshots]
        print(json.dumps([*sound, *({"tag": tag, "damaged": str(why)} for tag, why in damaged.items())], indent=2))
        return
    console = Console(highlight=False)
    rows = [_row(snapshot) for snapshot in snapshots]
    if console.is_terminal:
        _print_table(console, directory, rows, damaged)
        return
    rows += [(tag, DAMAGED, *[""] * (len(HEADINGS) - 2)) for tag in damaged]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    for row in (HEADINGS, *rows) if rows else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(snapshot: Snapshot) -> tuple[str, ...]:
    return (
        snapshot.tag,
        show_date(snapshot.taken),
        show_clock(snapshot.virtual_clock),
        show_size(snapshot.disk_size),
        show_size(snapshot.ram_size),
        "" if snapshot.icount is None else str(snapshot.icount),
    )


def _print_table(
    console: Console, directory: SnapshotDirectory, rows: list[tuple[str, ...]], damaged: dict[str, EmulatorError]
) -> None:
    if not rows and not damaged:
        console.print(Text(f"There is no snapshot in {directory.path}."))
        return
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    widths[0] = TAG_WIDTH
    columns = len(HEADINGS)
    while columns > 1 and sum(widths[:columns]) + 2 * (columns - 1) > console.width:
        columns -= 1
    table = Table(box=None, pad_edge=False)
    table.add_column(HEADINGS[0], overflow="fold")
    for heading, width in list(zip(HEADINGS, widths, strict=True))[1:columns]:
        table.add_column(heading, justify="left" if heading == "DATE" else "right", width=width)
    for row in rows:
        table.add_row(*map(Text, row[:columns]))
    for tag in damaged:
        table.add_row(*(Text(tag), Text(DAMAGED, "red"))[:columns])
    console.print(table)
    for tag, why in damaged.items():
        console.print(Text(f"{tag}: {why}", "red"))


def verify_snapshots(directory: SnapshotDirectory, tags: Sequence[str]) -> int:
    """Print for each of `tags`, or for all snapshots, whether it is as it was written; 1 if one is not, else 0."""
    console = Console(highlight=False, soft_wrap=True)
    status = 0
    for tag in tags or directory.tags():
        try:
            with console.status(Text(f"reading {tag}")):
                directory.verify(tag)
        except EmulatorError as error:
            status = 1
            verdict = f"{DAMAGED}: " if isinstance(error, StreamError) else ""
            console.print(Text(f"{tag}: {verdict}{error}", "red"))
        else:
            console.print(Text(f"{tag}: ok"))
    return status


def delete_snapshots(directory: SnapshotDirectory, tags: Sequence[str], announce: Callable[[str], None]) -> int:
    """Delete each of `tags`; 1, with a line for each that could not be, else 0."""
    status = 0
    for tag in tags:
        try:
            directory.delete(tag)
        except EmulatorError as error:
            status = 1
            announce(str(error))
    return status
