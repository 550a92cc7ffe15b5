"""A machine that is saved, and goes on in another process, ends exactly as if nobody had saved it.

A guest runs with counted instructions up to a goal: once without being saved, and once saved after every few
instructions of its last stretch. Each of these points is then loaded in a process of its own, which goes on to the same
goal. All must end with the same state, that is with the same stream down to the last byte, and must have said the same.

The process for a point is forked from a server that has imported the package and never had a machine. What was typed
and has not been taken by the guest is still on the host's side of the serial line, so it is handed on with the point.

Run as a program, this file is the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from emulator import Elapsed, Icount, Instructions, Machine
from emulator.core.bits import mask
from emulator.core.charport import CharPort
from emulator.migration import ram, savevm  # noqa: F401  # what the server's children would import each

PREBUILT = Path(__file__).parents[2] / "firmware/prebuilt"
SERVERS = 2
LIMIT = 60
NAPS, NAP = 22, 0.04
"""How many points in one sleep, and seconds between them."""

CONDITIONS = {
    "bytes in the UART's FIFO",
    "a claimed interrupt",
    "an armed timer",
    "a reservation",
    "asleep in wfi",
    "inside a trap handler",
    "floating-point flags",
}


class Scene(NamedTuple):
    """A guest, what is typed to it, and the stretch of its run in which it is saved."""

    guest: str
    shift: int
    typed: list[tuple[int, str]]
    """After so many instructions, so much."""
    begin: int
    goal: int
    step: int
    """Instructions between two points; 0 for points in one sleep of the guest."""
    mapped: bool = False
    """Saved as a snapshot, in the mapped layout."""


class Point(NamedTuple):
    """Where a machine was saved."""

    stream: str
    said: str
    waiting: str
    """Typed, and not taken by the guest yet."""


class Line(CharPort):
    """A serial line that keeps what was said, and knows what is waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.sink = self.said.extend

    @property
    def waiting(self) -> str:
        return self._input.decode()


def new_machine(scene: Scene, line: Line, directory: Path) -> Machine:
    icount = Icount(scene.shift, sleep=False)
    return Machine(
        "virt", ram="4M", kernel=PREBUILT / f"{scene.guest}.elf", icount=icount, port=line, snapshots=directory
    )


def go_on(machine: Machine, line: Line, scene: Scene, goal: int) -> None:
    """Run to `goal` instructions, typing on the way what is to be typed, at the goal too."""
    for at, text in scene.typed:
        if machine.instructions < at <= goal:
            machine.run(until=Instructions(at - machine.instructions), timeout=LIMIT)
            line.feed(text.encode())
    if machine.instructions < goal:
        machine.run(until=Instructions(goal - machine.instructions), timeout=LIMIT)


def stream_of(machine: Machine) -> bytes:
    """What `Machine.save` writes, but not to a disk."""
    stream = bytearray()

    def save() -> None:
        with machine.transfer.held() as subject:
            savevm.save(subject, stream.extend)

    machine.call(save)
    return bytes(stream)


def end(machine: Machine, line: Line) -> list[str]:
    """How a run ends: a digest of the machine's state, and what the guest has said."""
    return [hashlib.sha256(stream_of(machine)).hexdigest(), line.said.decode()]


def run_through(scene: Scene, directory: Path) -> list[str]:
    line = Line()
    with new_machine(scene, line, directory) as machine:
        go_on(machine, line, scene, scene.goal)
        return end(machine, line)


def resume(point: Point, scene: Scene) -> list[str]:
    """What a server's child does: load the point into a new machine, and run that to the goal."""
    line = Line()
    stream = Path(point.stream)
    with new_machine(scene, line, stream.parent) as machine:
        machine.load(stream)
        line.said[:] = point.said.encode()
        line.feed(point.waiting.encode())
        go_on(machine, line, scene, scene.goal)
        return end(machine, line)


def conditions(machine: Machine) -> Iterator[str]:
    """What is special about the moment at which a machine is stopped."""
    devices = machine.board.devices
    if devices["serial-mm"].state.recv_fifo.count:
        yield "bytes in the UART's FIFO"
    if devices["riscv.sifive.plic"].state.in_service:
        yield "a claimed interrupt"
    if machine.clock.next_deadline() is not None:
        yield "an armed timer"
    if machine.cpu["load_res"] != mask(64):
        yield "a reservation"
    if machine.cpu.halted:
        yield "asleep in wfi"
    if machine.instructions > 1000 and not machine.cpu["mscratch"]:
        yield "inside a trap handler"  # see firmware/runtime/trap.S
    if machine.call(lambda: machine._vcpu.engine.fflags):
        yield "floating-point flags"


def save_points(scene: Scene, directory: Path, seen: Counter[str]) -> tuple[list[Point], list[str]]:
    """Save a machine at every point of its last stretch; returns the points, and how that machine itself ends."""
    line, points = Line(), []
    with new_machine(scene, line, directory) as machine:
        go_on(machine, line, scene, scene.begin)
        while machine.instructions < scene.goal:
            seen.update(conditions(machine))
            name = f"{scene.guest}-{machine.instructions}-{machine.virtual_time}"
            if scene.mapped:
                machine.savevm(name)
                path = machine.snapshots._path_of(name)
            else:
                (path := directory / name).write_bytes(stream_of(machine))
            points.append(Point(str(path), line.said.decode(), line.waiting))
            if scene.step:
                go_on(machine, line, scene, min(machine.instructions + scene.step, scene.goal))
            elif len(points) < NAPS:
                machine.run(until=Elapsed(NAP), timeout=LIMIT)
            else:
                go_on(machine, line, scene, scene.goal)
        return points, end(machine, line)


def serve() -> None:
    """Answer each line of input, a point and its scene, from a new process."""
    for request in sys.stdin:
        if not os.fork():
            status = 1
            try:
                point, scene = json.loads(request)
                print(json.dumps(resume(Point(*point), Scene(*scene))), flush=True)
                status = 0
            finally:
                os._exit(status)
        if os.wait()[1]:
            break


def resume_all(points: list[Point], scene: Scene) -> list[list[str]]:
    """How each point ends in a process of its own."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                )
            )
            for _ in range(SERVERS)
        ]
        ends = []
        for begin in range(0, len(points), SERVERS):
            batch = points[begin : begin + SERVERS]
            for server, point in zip(servers, batch, strict=False):
                server.stdin.write(json.dumps([point, scene]) + "\n")
            ends += [json.loads(server.stdout.readline()) for server, _point in zip(servers, batch, strict=False)]
            for point in batch:
                Path(point.stream).unlink()
        return ends


def check(scene: Scene, directory: Path, seen: Counter[str]) -> int:
    """Assert that all points of a scene end alike; returns how many there are."""
    expected = run_through(scene, directory)
    points, own_end = save_points(scene, directory, seen)
    assert own_end == expected
    ends = resume_all(points, scene)
    wrong = [point.stream for point, found in zip(points, ends, strict=True) if found != expected]
    assert not wrong, f"{len(wrong)} of {len(points)} end differently, from instruction {Path(wrong[0]).name} on"
    return len(points)


TOY = [(3000, "count\r"), (14000, "ver"), (15000, "sion\r")]
STRESS = [(3000, "lrsc 30\nfp 3\nrx 20\n"), (33_300, "".join(chr(33 + k) for k in range(20))), (34_000, "amo 9\n")]

SCENES = {
    "boot": Scene("toy", 3, TOY, 0, 2000, 31),
    "shell": Scene("toy", 3, TOY, 12_700, 15_700, 3),
    "snapshot": Scene("toy", 3, TOY, 14_300, 14_900, 4, mapped=True),
    "asleep": Scene("toy", 3, TOY, 13_141, 15_700, 0),
    "reservations": Scene("stress", 7, STRESS, 2990, 3990, 2),
    "floating point": Scene("stress", 7, STRESS, 17_000, 34_100, 37),
}
"""What the guests do there was looked up: `conditions` says it for each point, and the tests ask for all."""

COARSE = 17
"""The quick test takes so many steps at once."""


def test_points_of_every_kind_go_on_as_if_nobody_had_saved(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for scene in SCENES.values():
        check(scene._replace(step=scene.step * COARSE), tmp_path, seen)
    assert set(seen) == CONDITIONS
    print(seen)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thousands_of_points_go_on_as_if_nobody_had_saved(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    points = sum(check(scene, tmp_path, seen) for scene in SCENES.values())
    print(points, seen)
    assert points > 2000
    assert set(seen) == CONDITIONS
    assert min(seen.values()) >= 20


if __name__ == "__main__":
    serve()
