"""Live migration beside QEMU's: the same guest between two processes of the same emulator, without a rate limit.

Times and downtimes are those that each emulator tells in `info migrate`; what it counts as downtime is its idea. The
standstill is the same for all: from QMP's event `STOP` at the source to `RESUME` at the destination. The silence is
measured from outside: from the last byte that the guest sends on one side to the first on the other. Memory is the most
that a process has ever had in use, less the guest's own.
"""

from __future__ import annotations

import json
import mmap
import re
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from kernels import COMPUTE, TICKS_PER_MS
from snapshots import CODE, DATA_PER_MILLE, PATIENCE_SECONDS, Monitored, connected
from startup import program
from subjects import ENVIRONMENT, OURS, PREBUILT, Subject

import emulator
from emulator import Machine
from emulator.migration.dirty import DirtyLog, open_dirty_log

BUSY_RAM_MIB = 128
COMPARED_MIB = 1024
"""The largest RAM that the other emulator is measured with."""
FILLED_MIB = 1
"""Of the guest's memory besides what it fills."""
OBSERVE_SECONDS = 0.1
"""Between two looks at a migration, each of which takes a millisecond that may be the guest's."""
COLLECT_SECONDS = 0.1
SLOW_DOWN_RUNS = 4
"""The best of so many counts: what is looked for is smaller than what other work on the host takes away."""

Figures = dict[str, float]
"""What was measured -> ms, MiB or per cent, as its name says."""


class Serial:
    """When a guest has last sent something, and first."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._changed = threading.Condition()
        self.said = b""
        self.first = self.last = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while piece := self._stream.read(4096):
            now = time.perf_counter()
            with self._changed:
                self.first = self.first or now
                self.last = now
                self.said = (self.said + piece)[-4096:]
                self._changed.notify_all()

    def wait_for(self, pattern: bytes) -> re.Match[bytes]:
        """Block until the guest has just said that."""
        with self._changed:
            found = self._changed.wait_for(lambda: re.search(pattern, self.said), PATIENCE_SECONDS)
            if not found:
                raise RuntimeError(f"the guest did not say {pattern!r}, but {self.said[-100:]!r}")
            return found


class Events:
    """What a process says on its QMP connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rb")
        connection.sendall(b'{"execute": "qmp_capabilities"}\n')

    def moment(self, event: str) -> float:
        """Block until it has been said; when that was, by the host's clock, in milliseconds."""
        for line in self._lines:
            said = json.loads(line)
            if said.get("event") == event:
                return said["timestamp"]["seconds"] * 1000 + said["timestamp"]["microseconds"] / 1000
        raise RuntimeError(f"the emulator ended and has not said {event}")


class Side:
    """One of the two processes."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: Monitored, events: Events) -> None:
        self.process = process
        self.monitor = monitor
        self.events = events
        self.serial = Serial(monitor.serial)

    def type(self, line: str) -> None:
        """Type a line at the guest."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\r")

    def peak_mib(self) -> float:
        """The most memory that the process has ever had in use."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1024


@contextmanager
def side(subject: Subject, folder: Path, name: str, ram_mib: int, *options: str) -> Iterator[Side]:
    """A process with its monitors; killed at the end."""
    human, machine = folder / f"{name}.monitor", folder / f"{name}.qmp"
    command = [*subject.command, "-M", "virt", "-cpu", "sifive-u54", "-m", f"{ram_mib}M", "-nodefaults"]
    command += ["-display", "none", "-bios", "none", "-serial", "stdio"]
    command += ["-monitor", f"unix:{human},server=on,wait=off", "-qmp", f"unix:{machine},server=on,wait=off", *options]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        with connected(human, process) as monitor, connected(machine, process) as qmp:
            yield Side(process, Monitored(process, monitor), Events(qmp))
    finally:
        process.kill()
        process.wait()


@contextmanager
def pair(subject: Subject, ram_mib: int, kernel: Path | bytes) -> Iterator[tuple[Side, Side, Path]]:
    """A process with a guest, one that waits for it, and a directory."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if isinstance(kernel, bytes):
            image = folder / "guest.elf"
            image.write_bytes(kernel)
            kernel = image
        source = stack.enter_context(side(subject, folder, "source", ram_mib, "-kernel", str(kernel)))
        destination = stack.enter_context(side(subject, folder, "destination", ram_mib, "-incoming", "defer"))
        yield source, destination, folder


def migrate(source: Side, destination: Side, uri: str) -> Figures:
    """Move the guest; how long that took and how long it stood still, as the source tells it and as it was."""
    destination.monitor.ask(f"migrate_incoming {uri}")
    if uri.endswith(":0"):
        found = re.search(r"socket address: \[\s+(tcp:[\d.:]+)", destination.monitor.ask("info migrate"))
        assert found is not None
        uri = found[1]
    source.monitor.ask("migrate_set_parameter max-bandwidth 0")
    source.monitor.ask(f"migrate -d {uri}")
    while "Migration status: completed" not in (said := source.monitor.ask("info migrate")):
        if "failed" in said:
            raise RuntimeError(said)
        time.sleep(OBSERVE_SECONDS)
    # Waits until the guest runs there: what is typed at a QEMU that is still loading may be lost.
    standstill = destination.events.moment("RESUME") - source.events.moment("STOP")
    times = {what: float(ms) for what, ms in re.findall(r"(total time|downtime): (\d+) ms", said)}
    return {"time": times["total time"], "downtime": times["downtime"], "standstill": standstill}


def compare(subjects: list[Subject], rounds: int, sizes_mib: list[int]) -> dict[str, Figures]:
    """Medians by subject; the subjects take turns within each round."""
    found: dict[str, dict[str, list[float]]] = {subject.name: {} for subject in subjects}
    for _ in range(rounds):
        for ram_mib in sizes_mib:
            for subject in subjects if ram_mib <= COMPARED_MIB else [OURS]:
                for kind in ("tcp", "unix"):
                    _note(found[subject.name], _full(subject, ram_mib, kind))
        for measure in (_idle, _dirty):
            for subject in subjects:
                _note(found[subject.name], measure(subject))
        _note(found[OURS.name], _slow_down())
    return {name: {what: statistics.median(values) for what, values in each.items()} for name, each in found.items()}


def _note(found: dict[str, list[float]], figures: Figures) -> None:
    for what, value in figures.items():
        found.setdefault(what, []).append(value)


def _full(subject: Subject, ram_mib: int, kind: str) -> Figures:
    """A guest whose memory is full of data, and that sends a byte all the time."""
    data_mib = ram_mib * DATA_PER_MILLE // 1000
    with pair(subject, ram_mib, program(CODE + struct.pack("<I", data_mib))) as (source, destination, folder):
        source.serial.wait_for(rb"[!.]")  # the mark may have gone by: dots come behind it, and only the last are kept
        uri = "tcp:127.0.0.1:0" if kind == "tcp" else f"unix:{folder / 'migration'}"
        _warm(data_mib)
        took = migrate(source, destination, uri)
        destination.serial.wait_for(rb"\.")
        size = f"{kind}, {ram_mib} MiB, {data_mib} random"
        return {
            **{f"{size}: {what}, ms": ms for what, ms in took.items()},
            f"{size}: silence of the guest, ms": 1000 * (destination.serial.first - source.serial.last),
            f"{size}: memory of the source, MiB": source.peak_mib() - data_mib - FILLED_MIB,
            f"{size}: memory of the destination, MiB": destination.peak_mib() - data_mib - FILLED_MIB,
        }


def _warm(mib: int) -> None:
    """Use so much memory and free it: where the host of this machine takes back what is free, it takes long to return.

    What is measured is how the destination gets its memory from its own system.
    """
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1


def _idle(subject: Subject) -> Figures:
    """The toy guest at its prompt."""
    with pair(subject, BUSY_RAM_MIB, PREBUILT / "toy.elf") as (source, destination, _folder):
        source.serial.wait_for(rb"toy> $")
        took = migrate(source, destination, "tcp:127.0.0.1:0")
        return {f"idle, {BUSY_RAM_MIB} MiB: {what}, ms": ms for what, ms in took.items()}


def _dirty(subject: Subject) -> Figures:
    """The toy guest while it writes 50 MiB a second, with a limit of downtime that is never met by waiting."""
    with pair(subject, BUSY_RAM_MIB, PREBUILT / "toy.elf") as (source, destination, _folder):
        source.serial.wait_for(rb"toy> $")
        source.type("dirty 50")
        source.serial.wait_for(rb"0 errors\r\ntoy> $")
        time.sleep(2)  # all of the buffer has been written
        took = migrate(source, destination, "tcp:127.0.0.1:0")
        destination.type("dirty")
        destination.serial.wait_for(rb" passes, 0 errors")
        return {f"dirty 50, {BUSY_RAM_MIB} MiB: {what}, ms": ms for what, ms in took.items()}


def _slow_down() -> Figures:
    """How much longer the computing kernels take while written pages are logged, and collected ten times a second."""
    runs = [(_kernels(logging=False), _kernels(logging=True)) for _ in range(SLOW_DOWN_RUNS)]
    plain, logged = ({name: min(run[name] for run in side) for name in COMPUTE} for side in zip(*runs, strict=True))
    ratio = statistics.geometric_mean(logged[name] / plain[name] for name in COMPUTE)
    return {"kernels with dirty logging: slower by, %": 100 * (ratio - 1)}


def _kernels(*, logging: bool) -> dict[str, float]:
    with Machine("virt", ram="64M", kernel=PREBUILT / "bench.elf") as machine, ExitStack() as stack:
        if logging:
            log = stack.enter_context(closing(open_dirty_log(machine.board.ram_blocks)))
            stop = threading.Event()
            collector = threading.Thread(target=_collect, args=(log, machine, stop))
            stack.callback(collector.join)
            stack.callback(stop.set)
            collector.start()
        machine.run(until=emulator.Serial("bench software-irq"), timeout=PATIENCE_SECONDS)
        times = re.findall(rb"bench (\S+) (\d+) [0-9a-f]{16}\r\n", machine.serial.output)
        return {name.decode(): int(ticks) / TICKS_PER_MS for name, ticks in times}


def _collect(log: DirtyLog, machine: Machine, stop: threading.Event) -> None:
    while not stop.wait(COLLECT_SECONDS):
        for block in machine.board.ram_blocks:
            log.collect(block)
