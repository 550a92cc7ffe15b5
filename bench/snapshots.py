"""savevm and loadvm beside QEMU's, which keeps its snapshots in a qcow2 image: the same guest, the same commands.

Both are driven through their human monitor on a socket. A save is timed from the command to the next prompt. A load is
timed from `loadvm` and `cont` to the first byte that the guest sends, which it does all the time.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from startup import program
from subjects import ENVIRONMENT, OURS, PREBUILT, Subject

from emulator import Machine, Serial
from emulator.migration import devices
from emulator.migration.format import SectionReader, put_end
from emulator.migration.registry import Registry
from emulator.migration.wire import Reader, Writer

MIB = 1 << 20
PROMPT = b"(qemu) "
PATIENCE_SECONDS = 120

CODE = struct.pack(
    "<27I",
    0x100002B7,  # lui  t0, 0x10000       the UART
    0x00100313,  # li   t1, 1
    0x01F31313,  # slli t1, t1, 31        RAM
    0x001003B7,  # lui  t2, 0x100
    0x00730333,  # add  t1, t1, t2        its second MiB
    0x00000397,  # auipc t2, 0
    0x0583A383,  # lw   t2, 88(t2)        the number behind the code
    0x01439393,  # slli t2, t2, 20
    0x007303B3,  # add  t2, t1, t2        so many MiB from there on
    0x2545FE37,  # lui  t3, 0x2545f
    0x00DE1E93,  # slli t4, t3, 13        fill them with a sequence that never repeats (xorshift)
    0x01DE4E33,  # xor  t3, t3, t4
    0x007E5E93,  # srli t4, t3, 7
    0x01DE4E33,  # xor  t3, t3, t4
    0x011E1E93,  # slli t4, t3, 17
    0x01DE4E33,  # xor  t3, t3, t4
    0x01C33023,  # sd   t3, 0(t1)
    0x00830313,  # addi t1, t1, 8
    0xFE7360E3,  # bltu t1, t2, .-32
    0x02100513,  # li   a0, '!'
    0x00A28023,  # sb   a0, 0(t0)
    0x02E00513,  # li   a0, '.'
    0x00A28023,  # sb   a0, 0(t0)         and then say so for ever
    0x00005EB7,  # lui  t4, 5
    0xFFFE8E93,  # addi t4, t4, -1
    0xFE0E9EE3,  # bnez t4, .-4
    0xFF1FF06F,  # j    .-16
)

DATA_PER_MILLE = 879
"""How much of RAM the guest fills with data that cannot be compressed: 900 MiB of 1 GiB."""
COMPARED_MIB = 1024
"""The largest RAM that the other emulator is measured with."""
FOLDER = Path(os.environ.get("BENCH_FOLDER", tempfile.gettempdir()))
"""Where the snapshots go: what is measured is the disk as well."""
IDLE_RAM_MIB = 128


class Monitored:
    """A running emulator with its monitor on a socket and the guest's serial port on a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: socket.socket) -> None:
        self._monitor = monitor
        assert process.stdout is not None
        self.serial = process.stdout
        self._wait_for_prompt()

    def seconds(self, command: str) -> float:
        """How long a command takes, up to the next prompt."""
        begin = time.perf_counter()
        self.ask(command)
        return time.perf_counter() - begin

    def ask(self, command: str) -> str:
        """What the monitor answers, the command itself before it."""
        self._monitor.sendall(command.encode() + b"\n")
        answer = self._wait_for_prompt()
        if b"Error" in answer:
            raise RuntimeError(f"{command}: {answer!r}")
        return answer.decode()

    def seconds_to_serial(self, *commands: str) -> float:
        """How long until the stopped guest, which has nothing to say before, sends a byte after these commands."""
        drain(self.serial.fileno())
        begin = time.perf_counter()
        self._monitor.sendall("".join(f"{command}\n" for command in commands).encode())
        if not self.serial.read(1):
            raise RuntimeError(f"the emulator ended after {commands}")
        elapsed = time.perf_counter() - begin
        self._wait_for_prompt(len(commands))
        return elapsed

    def _wait_for_prompt(self, count: int = 1) -> bytes:
        said = b""
        while not said.endswith(PROMPT) or said.count(PROMPT) < count:
            piece = self._monitor.recv(65536)
            if not piece:
                raise RuntimeError(f"the emulator ended; it said {said!r}")
            said += piece
        return said


def drain(fd: int) -> None:
    """Throw away what a stopped guest has left in its pipe."""
    while select.select([fd], [], [], 0.1)[0]:
        os.read(fd, MIB)


@contextmanager
def monitored(subject: Subject, kernel: Path, ram_mib: int, folder: Path) -> Iterator[Monitored]:
    """A subject that runs `kernel`, with room for snapshots in `folder`; killed at the end."""
    path = folder / "monitor"
    command = [*subject.command, "-M", "virt", "-cpu", "sifive-u54", "-m", f"{ram_mib}M", "-nodefaults"]
    command += ["-display", "none", "-bios", "none", "-kernel", str(kernel), "-serial", "stdio"]
    command += ["-monitor", f"unix:{path},server=on,wait=off", *_storage(subject, folder)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        with connected(path, process) as monitor:
            yield Monitored(process, monitor)
    finally:
        process.kill()
        process.communicate()


def _storage(subject: Subject, folder: Path) -> list[str]:
    if subject is OURS:
        return ["-snapshots", str(folder / "snapshots")]
    image = folder / "snapshots.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1G"], check=True)
    return ["-drive", f"if=none,id=snapshots,format=qcow2,file={image}"]


@contextmanager
def connected(path: Path, process: subprocess.Popen[bytes]) -> Iterator[socket.socket]:
    """A connection to the monitor that the process opens at `path`, past the greeting."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(PATIENCE_SECONDS)
        while True:
            try:
                monitor.connect(str(path))
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args} ended at once") from None
                time.sleep(0.01)
        yield monitor


Times = dict[str, float]
"""What was done -> milliseconds."""


def compare(subjects: list[Subject], rounds: int, sizes_mib: list[int]) -> dict[str, Times]:
    """Median times by subject; the subjects take turns within each round."""
    figures: dict[str, dict[str, list[float]]] = {subject.name: {} for subject in subjects}
    for _ in range(rounds):
        for ram_mib in sizes_mib:
            for subject in subjects if ram_mib <= COMPARED_MIB else [OURS]:
                _full(figures[subject.name], subject, ram_mib, ram_mib * DATA_PER_MILLE // 1000)
        for subject in subjects:
            _idle(figures[subject.name], subject)
    return {name: {what: statistics.median(times) for what, times in each.items()} for name, each in figures.items()}


def _full(figures: dict[str, list[float]], subject: Subject, ram_mib: int, data_mib: int) -> None:
    """Save and load a guest whose memory is full of data."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        kernel = Path(name) / "fill.elf"
        kernel.write_bytes(program(CODE + struct.pack("<I", data_mib)))
        with monitored(subject, kernel, ram_mib, Path(name)) as guest:
            while guest.serial.read(1) != b"!":
                pass
            guest.seconds("stop")
            size = f"{ram_mib} MiB, {data_mib} random"
            _note(figures, f"savevm, {size}", guest.seconds("savevm bench"))
            _note(figures, f"loadvm, {size}", guest.seconds_to_serial("loadvm bench", "cont"))


def _idle(figures: dict[str, list[float]], subject: Subject) -> None:
    """Save a guest that waits at its prompt."""
    with (
        tempfile.TemporaryDirectory(dir=FOLDER) as name,
        monitored(subject, PREBUILT / "toy.elf", IDLE_RAM_MIB, Path(name)) as guest,
    ):
        said = b""
        while not said.endswith(b"toy> "):
            said += guest.serial.read(1)
        guest.seconds("savevm first")  # what is imported and created once
        _note(figures, f"savevm, {IDLE_RAM_MIB} MiB, idle", guest.seconds("savevm bench"))


def _note(figures: dict[str, list[float]], what: str, seconds: float) -> None:
    figures.setdefault(what, []).append(seconds * 1000)


def device_state(repeats: int = 100) -> Times:
    """Median times for the state of all devices, the hart and the clocks of one machine: all of a stream but RAM."""
    times: dict[str, list[float]] = {}
    with Machine("virt", ram="16M", kernel=PREBUILT / "toy.elf") as machine:
        machine.run(until=Serial("toy> "), timeout=PATIENCE_SECONDS)
        with machine.transfer.held() as subject:  # stopped: nobody but this thread looks at it
            for _ in range(repeats):
                begin = time.perf_counter()
                writer = Writer()
                description = devices.put_devices(subject.registry, writer)
                saved = time.perf_counter()
                put_end(writer, description)
                loading = time.perf_counter()
                _load_devices(subject.registry, Reader(writer.data))
                _note(times, "device state saved", saved - begin)
                _note(times, "device state loaded", time.perf_counter() - loading)
    return {what: statistics.median(values) for what, values in times.items()}


def _load_devices(registry: Registry, reader: Reader) -> None:
    loader, sections = devices.DeviceLoader(registry), SectionReader()
    while heading := sections.next(reader):
        loader.read(reader, heading)
    for owner, state in loader.states():
        owner.adopt(state)
