"""Snapshots where things go wrong: kill -9, full and read-only disks, several processes on one directory.

The processes are real ones. Each that is killed, or fails, must leave the old snapshot or the new one, whole; and a
guest that runs while a snapshot of it cannot be saved must run on.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from emulator import Icount, Machine, Serial
from emulator.migration.files import SUFFIX

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "firmware/prebuilt/toy.elf"
RAM = 0x8000_0000
RAM_SIZE = 16 << 20
NOISE = 0x8040_0000
"""Where tests put random bytes: away from the toy guest."""

pytestmark = pytest.mark.slow


def new_machine(directory: Path) -> Machine:
    return Machine("virt", ram=RAM_SIZE, kernel=TOY, icount=Icount(3, sleep=False), snapshots=directory)


def fingerprint(machine: Machine) -> str:
    digest = hashlib.sha256(repr((machine.instructions, machine.cpu.registers())).encode())
    digest.update(machine.read(RAM, RAM_SIZE))
    return digest.hexdigest()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def machine(directory: Path) -> Iterator[Machine]:
    with new_machine(directory) as machine:
        machine.run(until=Serial("toy> "), timeout=60)
        yield machine


@pytest.fixture
def states(machine: Machine, tmp_path: Path) -> dict[str, str]:
    """Two states of the machine, in stream files: path by fingerprint."""
    paths = {}
    for name in ("old", "new"):
        machine.write(NOISE, random.Random(name).randbytes(4 << 20))
        machine.serial.write(f"echo {name}\r")
        machine.run(until=Serial("toy> "), timeout=60)
        machine.save(tmp_path / name)
        paths[fingerprint(machine)] = str(tmp_path / name)
    return paths


# kill -9

KILLS = 200

# A process for every line, each forked from this one, which has imported everything and has no threads.
SAVER = """
import itertools, os, signal, sys
import emulator.machinestate, emulator.migration.mappedfile, emulator.migration.ram, emulator.migration.snapshots
from emulator import Icount, Machine
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
directory, *states = sys.argv[1:]
for first in sys.stdin:
    if not os.fork():
        break
else:
    sys.exit()
with Machine("virt", ram=16 << 20, icount=Icount(3), snapshots=directory) as machine:
    for state in itertools.islice(itertools.cycle(states), int(first), None):
        machine.load(state)
        print(os.getpid(), flush=True)
        machine.savevm("tag")
"""


def kill_after(pid: int, seconds: float) -> None:
    """Kill a process that may not be a child of ours, and wait until it is gone."""
    gone = os.pidfd_open(pid)
    try:
        assert not select.select([gone], [], [], seconds)[0], "the process ended by itself"
        signal.pidfd_send_signal(gone, signal.SIGKILL)
        assert select.select([gone], [], [], 60)[0]
    finally:
        os.close(gone)


def leftovers(directory: Path) -> list[Path]:
    return list(directory.glob(f".*{SUFFIX}"))


@pytest.mark.timeout(600)
def test_kill_at_a_random_moment_of_savevm_loses_nothing(
    machine: Machine, directory: Path, states: dict[str, str]
) -> None:
    moments = random.Random(1)
    for tag in ("tag", "bystander"):
        machine.load(next(iter(states.values())))
        machine.savevm(tag)
    began = time.monotonic()
    machine.savevm("tag")
    span = 2.5 * (time.monotonic() - began)
    bystander = (directory / "bystander.snapshot").stat()
    found: Counter[str] = Counter()
    command = [sys.executable, "-c", SAVER, directory, *states.values()]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True, bufsize=1) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for number in range(KILLS):
            server.stdin.write(f"{number % 2}\n")
            pid = int(server.stdout.readline())
            kill_after(pid, moments.uniform(0, span))
            os.set_blocking(server.stdout.fileno(), False)
            while server.stdout.readline():  # what it began to save since
                pass
            os.set_blocking(server.stdout.fileno(), True)
            half = leftovers(directory)
            assert len(half) <= 1
            found["unfinished file left"] += len(half)
            assert machine.snapshots.tags() == ["bystander", "tag"]
            machine.snapshots.verify("tag")
            machine.loadvm("tag")
            found[Path(states[fingerprint(machine)]).name] += 1
            machine.savevm("next")
            assert leftovers(directory) == []
            machine.snapshots.delete("next")
        server.stdin.close()
    unchanged = (directory / "bystander.snapshot").stat()
    assert (unchanged.st_ino, unchanged.st_mtime_ns) == (bystander.st_ino, bystander.st_mtime_ns)
    print(f"\n{KILLS} kills within {span * 1000:.0f} ms of savevm: {dict(found)}, all verified")
    assert found["old"] + found["new"] == KILLS
    assert min(found.values()) >= KILLS // 20, "the moments were not spread over savevm"


# Full and read-only disks


def shell(script: str) -> list[str]:
    """A command that runs a shell script where it may mount file systems that nobody else sees."""
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"]


def can_mount() -> bool:
    try:
        return subprocess.run(shell("mount -t tmpfs tmpfs /tmp"), capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif("not can_mount()", reason="file systems cannot be mounted in a namespace here")

# Saves a running guest, fills its memory or makes its disk read-only, and saves again.
VICTIM = """
import json, os, subprocess, sys
from emulator import EmulatorError, Machine, Serial
directory, toy, case = sys.argv[1:]
said = {}

def refusal(act, *args):
    try:
        act(*args)
    except EmulatorError as error:
        return str(error)

with Machine("virt", ram="16M", kernel=toy, snapshots=directory) as machine:
    machine.run(until=Serial("toy> "), timeout=60)
    machine.savevm("a")
    machine.cont()
    if case == "full":
        machine.write(0x80400000, os.urandom(8 << 20))
    else:
        subprocess.run(["mount", "-o", "remount,ro", directory], check=True)
    said["savevm"] = refusal(machine.savevm, "a")
    said["again"] = refusal(machine.savevm)
    said["delete"] = refusal(machine.snapshots.delete, "a") if case == "read-only" else None
    said["status"] = str(machine.status)
    machine.serial.write("version\\r")
    machine.run(until=Serial("built with"), timeout=60)
    said["files"] = os.listdir(directory)
    machine.snapshots.verify("a")
    machine.loadvm("a")
    machine.serial.write("echo loaded\\r")
    machine.run(until=Serial("loaded\\r\\n"), timeout=60)
    if case == "full":
        machine.savevm("b")
        machine.snapshots.verify("b")
print(json.dumps(said))
"""


def run_victim(directory: Path, options: str, case: str) -> dict[str, str | list[str] | None]:
    directory.mkdir()
    script = f'mount -t tmpfs -o {options} tmpfs "$4" && exec "$@"'
    command = [*shell(script), sys.executable, "-c", VICTIM, directory, TOY, case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    said: dict[str, str | list[str] | None] = json.loads(done.stdout)
    return said


@needs_mount
def test_full_disk_keeps_the_old_snapshot_and_the_guest_runs_on(directory: Path) -> None:
    said = run_victim(directory, "size=2m", "full")
    assert said["savevm"] == f"cannot write '{directory}/a.snapshot': No space left on device"
    assert re.fullmatch(rf"cannot write '{directory}/vm-\d+.snapshot': No space left on device", str(said["again"]))
    assert (said["status"], said["files"]) == ("running", ["a.snapshot"])


@needs_mount
def test_read_only_directory_can_be_loaded_from_and_the_guest_runs_on(directory: Path) -> None:
    said = run_victim(directory, "size=2m", "read-only")
    assert said["savevm"] == f"cannot write '{directory}/a.snapshot': Read-only file system"
    assert said["delete"] == f"cannot delete '{directory}/a.snapshot': Read-only file system"
    assert (said["status"], said["files"]) == ("running", ["a.snapshot"])


@pytest.mark.parametrize("limit", [0, 1 << 12, 3 << 20, 40 << 20, 84 << 20])
def test_file_size_limit_is_one_line_in_the_monitor_and_the_guest_runs_on(directory: Path, limit: int) -> None:
    options = ["run", "-bios", "none", "-m", "16M", "-kernel", str(TOY), "-snapshots", str(directory)]
    guest = pexpect.spawn(sys.executable, ["-m", "emulator", *options], cwd=str(ROOT), timeout=30, encoding="utf-8")
    try:
        guest.expect_exact("toy> ")
        guest.send("\x01c")
        guest.expect_exact("(qemu) ")
        guest.send("savevm a\rprint 1230+4\r")
        guest.expect_exact("0x4d2")
        before = (directory / "a.snapshot").read_bytes()
        hard = resource.prlimit(guest.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(guest.pid, resource.RLIMIT_FSIZE, (limit, hard))
        guest.send("savevm a\r")
        guest.expect_exact(f"Error: cannot write '{directory}/a.snapshot': File too large\r")
        assert [path.name for path in directory.iterdir()] == ["a.snapshot"]
        assert (directory / "a.snapshot").read_bytes() == before
        guest.send("info status\r")
        guest.expect_exact("VM status: running")
        resource.prlimit(guest.pid, resource.RLIMIT_FSIZE, (hard, hard))
        guest.send("savevm b\rloadvm a\rinfo status\r")
        guest.expect_exact("VM status: running")
        guest.send("\x01cpoweroff 5\r")
        guest.expect(pexpect.EOF)
    finally:
        guest.close(force=True)
    assert guest.exitstatus == 5
    assert sorted(path.name for path in directory.iterdir()) == ["a.snapshot", "b.snapshot"]


# Several processes

WORKER = """
import collections, hashlib, json, random, re, sys
from emulator import EmulatorError, Icount, Machine
directory, seed, rounds, known, state = sys.argv[1:]
choose, done = random.Random(seed), collections.Counter()

def fingerprint():
    digest = hashlib.sha256(repr((machine.instructions, machine.cpu.registers())).encode())
    digest.update(machine.read(0x80000000, 16 << 20))
    return digest.hexdigest()

def load(tag):
    machine.loadvm(tag)
    assert fingerprint() in known.split(","), tag

def unnamed(_tag):
    tag = machine.savevm()
    before = fingerprint()
    load(tag)
    assert fingerprint() == before, "somebody else's"
    machine.snapshots.delete(tag)

def look(_tag):
    assert machine.snapshots.examine()[1] == {}

with Machine("virt", ram="16M", icount=Icount(3), snapshots=directory) as machine:
    acts = {"save": machine.savevm, "load": load, "verify": machine.snapshots.verify, "list": look,
            "delete": machine.snapshots.delete, "unnamed": unnamed}
    machine.load(state)
    for _ in range(int(rounds)):
        name = choose.choice(["save", "save", "load", "load", "verify", "list", "delete", "unnamed"])
        try:
            acts[name](choose.choice("xy"))
        except EmulatorError as error:
            assert re.search("^there is no snapshot|: No such file or directory$", str(error)), error
            name += ", not there"
        done[name] += 1
print(json.dumps(done))
"""


@pytest.mark.timeout(300)
def test_processes_on_one_directory_do_not_disturb_each_other(
    machine: Machine, directory: Path, states: dict[str, str]
) -> None:
    rounds = 150
    commands = [
        [sys.executable, "-c", WORKER, directory, f"{seed}", f"{rounds}", ",".join(states), state]
        for seed, state in enumerate(2 * list(states.values()))
    ]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) for command in commands]
    total: Counter[str] = Counter()
    for worker in workers:
        out, err = worker.communicate(timeout=280)
        assert (worker.returncode, err) == (0, "")
        total.update(json.loads(out))
    print(f"\n{len(workers)} processes, {total.total()} acts: {dict(total.most_common())}")
    assert total.total() == rounds * len(workers)
    assert leftovers(directory) == []
    assert set(machine.snapshots.tags()) <= {"x", "y"}
    for tag in machine.snapshots.tags():
        machine.snapshots.verify(tag)
