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

from emulator.core.errors import EmulatorError, FileError, ForeignError
from emulator.migration.errors import StreamError
from emulator.migration.snapshots import Snapshot, SnapshotDirectory
from emulator.monitor.views import show_clock, show_date
from emulator.sizes import show_size

HEADINGS = ("TAG", "DATE", "VM CLOCK", "ON DISK", "RAM", "ICOUNT")
"""The first is wrapped where it must be; of the others, a narrow terminal shows as many as fit."""
TAG_WIDTH = 10
"""How narrow the column of tags may get before others are left out."""
VERDICTS = ((StreamError, "damaged"), (ForeignError, "foreign"), (FileError, "unreadable"))
"""What stands in place of a date, by what is wrong."""


def list_snapshots(directory: SnapshotDirectory, *, as_json: bool) -> None:
    """Print every snapshot, last those that cannot be loaded, and why; raises FileError."""
    snapshots, others = directory.examine()
    if as_json:
        sound = [{**asdict(snapshot), "path": str(snapshot.path), "damaged": None} for snapshot in snapshots]
        print(json.dumps([*sound, *({"tag": tag, _verdict(why): str(why)} for tag, why in others.items())], indent=2))
        return
    console = Console(highlight=False)
    rows = [_row(snapshot) for snapshot in snapshots]
    if console.is_terminal:
        _print_table(console, directory, rows, others)
        return
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    widths[0] = max(widths[0], *map(len, others), 0)
    rows += [(tag, f"{_verdict(why)}: {why}") for tag, why in others.items()]
    for row in (HEADINGS, *rows) if rows else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


def _verdict(error: EmulatorError) -> str:
    """In a word, what is wrong with a snapshot; empty if there is none."""
    return next((word for kind, word in VERDICTS if isinstance(error, kind)), "")


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
    console: Console, directory: SnapshotDirectory, rows: list[tuple[str, ...]], others: dict[str, EmulatorError]
) -> None:
    if not rows and not others:
        console.print(Text(f"There is no snapshot in {directory.path}."))
        return
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    widths[:2] = TAG_WIDTH, max(widths[1], *(len(_verdict(why)) for why in others.values()), 0)
    columns = len(HEADINGS)
    while columns > 1 and sum(widths[:columns]) + 2 * (columns - 1) > console.width:
        columns -= 1
    table = Table(box=None, pad_edge=False)
    table.add_column(HEADINGS[0], overflow="fold")
    for heading, width in list(zip(HEADINGS, widths, strict=True))[1:columns]:
        table.add_column(heading, justify="left" if heading == "DATE" else "right", width=width)
    for row in rows:
        table.add_row(*map(Text, row[:columns]))
    for tag, why in others.items():
        table.add_row(*(Text(tag), Text(_verdict(why), "red"))[:columns])
    console.print(table)
    for tag, why in others.items():
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
            console.print(Text(": ".join(filter(None, (tag, _verdict(error), str(error)))), "red"))
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
