"""`mini-qemu convert`: a stream in another machine type's layout, or with its RAM laid out otherwise; no guest runs.

The stream is loaded into a machine that knows all layouts, and saved as a machine of the other type would. What comes
out is then compared with what went in, field by field, so nothing is lost in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from emulator import qemupeer
from emulator.boards.layout import RAM_BLOCK
from emulator.boards.machinetypes import MACHINE_TYPES, MachineType
from emulator.core.errors import FileError
from emulator.inspectiontext import show_place, show_side
from emulator.machine import Machine
from emulator.machinestate import reshaped, subject_of, was_running
from emulator.migration import files, savevm
from emulator.migration.blocklist import TABLE
from emulator.migration.difference import MISSING, differences, ram_differences
from emulator.migration.examine import Contents, examine, printable
from emulator.migration.registry import Owner
from emulator.migration.seal import NOTE
from emulator.migration.snapshots import NOTED
from emulator.runstate import RunState

HARMLESS = (
    (r"[^:]*:version_id", "another layout"),
    (r"cpu:env\.(misa_mxl_max|features|virt|virt_enabled)", "follows from the CPU"),
    (r"cpu:env\.pmu_ctrs\[.*", "counters that are not running"),
    (r"cpu:env\.mip|cpu_common:interrupt_request", "a timer interrupt comes at once, which arms QEMU's timer"),
    (r"timer:cpu_clock_offset|riscv_mtimer:.*time_delta|serial:.*timer.*", "the clock is what mtime shows"),
    (r"fw_cfg:fw_cfg/acpi_mr.*|virt_acpi_build:.*", "ACPI tables: the guest's firmware has read them"),
    (r"globalstate:.*", "the same run state"),
)
"""What may differ, by section and field, and why the guest does not notice."""


def convert(
    source: Path,
    target: Path,
    to: MachineType,
    *,
    layout: str | None = None,
    cure: bool = True,
    force: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Write what the stream `source` holds to `target` as a machine of type `to` has it; `say` hears what is lost.

    `layout` is `classic`, `mapped`, or None for the source's. Raises FileError, and leaves `target` as it was, if that
    is the source, or if the guest would miss something, unless that is forced; StreamError for a stream that cannot be
    read.
    """
    differing: list[str] = []
    try:
        with files.mapped(source) as (data, fd):
            if _is_file(fd, target):
                raise FileError(f"{printable(str(target))} is what is read: write to another file")
            before = _examined(source, data)
            mapped = layout == "mapped" if layout else bool(before.configuration and before.configuration.capabilities)
            known = _known(before, fd) if mapped else None
            with files.replacing(target) as file, _machine(source, before) as machine:  # which ends before the file
                machine.call(lambda: _save(machine, data, fd, file, to, cure=cure, known=known))
                file.flush()
                with files.mapped(Path(f"/proc/self/fd/{file.fileno()}")) as (result, _fd):
                    lost = list(_losses(before, _examined(target, result), differing.append))
                if lost and not force:
                    name = printable(str(target))
                    raise FileError(f"{name} is not written: the guest would miss {', '.join(lost)} (see --force)")
    finally:
        for line in differing:  # not while the file is open, which would be blamed for what cannot be said
            say(line)


def _is_file(fd: int, path: Path) -> bool:
    """Whether a path, if there is anything, leads to this open file."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _examined(path: Path, data: memoryview) -> Contents:
    contents = examine(data)
    if contents.error is not None:
        raise FileError(f"{printable(str(path))}: {contents.error}") from contents.error
    return contents


def _known(contents: Contents, fd: int) -> dict[str, Any]:
    """What a file says about itself as a snapshot; what says nothing was taken when it was written."""
    note = contents.notes.get(NOTE)
    kept = {name: note[name] for name in NOTED if name in note} if isinstance(note, dict) else {}
    return {"taken": os.fstat(fd).st_mtime, **kept}


def _machine(source: Path, contents: Contents) -> Machine:
    """A machine that can load the stream."""
    if RAM_BLOCK not in contents.blocks:
        raise FileError(f"{printable(str(source))}: no stream of a virt machine: it has no block {RAM_BLOCK}")
    acpi = any(name.startswith(TABLE) for name in contents.blocks)
    return Machine(next(iter(MACHINE_TYPES)), ram=contents.blocks[RAM_BLOCK].size, acpi=acpi)


def _save(
    machine: Machine,
    data: memoryview,
    fd: int,
    file: BinaryIO,
    to: MachineType,
    *,
    cure: bool,
    known: dict[str, Any] | None,
) -> None:
    """On the machine's thread: load the one stream and write the other, as a snapshot if that is `known`."""
    transfer = machine.transfer
    with transfer.held() as subject, savevm.load(subject, data, fd) as loaded:
        status = RunState.RUNNING if was_running(loaded) else RunState.PAUSED
        transfer.take_over(loaded, subject)
        runner = transfer.runner

        def changes(parts: Iterable[Owner]) -> Iterable[Owner]:
            return reshaped(qemupeer.changed(tuple(parts), to, cure_timer=cure), to)

        result = subject_of(runner.time, runner.vcpu, runner.board, status, changes, kind=to)
        if known is None:
            savevm.save(result, file.write)
            return
        ram_size, clock = runner.board.config.ram_size, runner.clock.now()
        own = {"virtual_clock": clock, "icount": None, "machine": result.machine, "ram_size": ram_size}
        savevm.save_mapped(result, file.fileno(), {**own, **known, "converted": to.name})


def _losses(before: Contents, after: Contents, say: Callable[[str], None]) -> Iterator[str]:
    """What the guest would miss; all else that differs is only told."""
    for row in ram_differences(before, after):
        if row.block == RAM_BLOCK or row.sizes[1] is not None:
            yield f"what is in {row.block}"
        else:
            say(f"{row.block}: left out (ACPI tables: the guest's firmware has read them)")
    for each in differences(before, after):
        if each.first is MISSING or (_is_nothing(each.first) and each.second is MISSING):
            continue
        name = f"{each.section}:{each.path}"
        reason = next((reason for pattern, reason in HARMLESS if re.fullmatch(pattern, name)), None)
        place = show_place(each)
        became = "left out" if each.second is MISSING else f"now {show_side(each.second)}"
        say(f"{place}: {show_side(each.first)}, {became} ({reason or 'the guest may notice'})")
        if reason is None:
            yield place


def _is_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_nothing, value.values()))
    if isinstance(value, list):
        return all(map(_is_nothing, value))
    return not any(value) if isinstance(value, bytes) else not value
