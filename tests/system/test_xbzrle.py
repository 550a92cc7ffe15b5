"""XBZRLE with a guest that changes one byte of each page, between machines of ours and with QEMU 7.2."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator import Machine
from emulator.core.memory import PAGE_SIZE
from emulator.migration.examine import examine
from emulator.migration.files import mapped
from emulator.migration.pagemap import BlockMap, Kind
from emulator.migration.status import Status

PATIENCE_SECONDS = 60
RAM = "riscv_virt_board.ram"
BEGIN, PAGES = 0x8010_0000, 2048
LAST_PAGE = BEGIN + (PAGES - 1) * PAGE_SIZE
# Counts in the first byte of each page, page after page, as QEMU's own migration tests do.
GUEST = struct.pack(
    "<11I",
    0x00100297,  # auipc t0, 0x100
    0x008003B7,  # lui   t2, 0x800
    0x005383B3,  # add   t2, t2, t0
    0x00001EB7,  # lui   t4, 1
    0x00028313,  # mv    t1, t0
    0x00034E03,  # lbu   t3, 0(t1)
    0x001E0E13,  # addi  t3, t3, 1
    0x01C30023,  # sb    t3, 0(t1)
    0x01D30333,  # add   t1, t1, t4
    0xFE7368E3,  # bltu  t1, t2, -16
    0xFE9FF06F,  # j     -24
)
SETTINGS = {"max-bandwidth": 32 << 20, "downtime-limit": 50}
"""The pages that the guest writes to take 250 ms, and never come to rest."""


def check(memory: bytes) -> None:
    """The guest's pages, of which those up to some place are one ahead of the others."""
    counts = memory[::PAGE_SIZE]
    assert len(counts) == PAGES
    ahead = counts.index(counts[-1]) if counts[0] != counts[-1] else PAGES
    assert counts[:ahead] == bytes((counts[0],)) * ahead
    assert counts[ahead:] == bytes((counts[-1],)) * (PAGES - ahead)
    assert ahead == PAGES or counts[0] == (counts[-1] + 1) % 256
    assert not any(any(memory[at + 1 : at + PAGE_SIZE]) for at in range(0, len(memory), PAGE_SIZE))


def ram_of(path: Path) -> BlockMap:
    with mapped(path) as (data, _):
        contents = examine(memoryview(bytes(data)))
    assert contents.error is None
    return contents.blocks[RAM]


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "guest"
    path.write_bytes(GUEST)
    return path


@pytest.fixture
def source(kernel: Path) -> Iterator[Machine]:
    with Machine("virt-7.2", ram="16M", kernel=kernel) as machine:
        machine.cont()
        wait_until(lambda: machine.read(LAST_PAGE, 1) != b"\0")
        machine.migration.settings.enable({"xbzrle": True})
        machine.migration.settings.set(SETTINGS)
        yield machine


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def moved(source: Machine) -> None:
    status = source.migration.wait(PATIENCE_SECONDS)
    assert status is Status.COMPLETED, source.migration.progress.error


def test_precopy_xbzrle(source: Machine) -> None:
    with Machine("virt-7.2", ram="16M") as destination:
        source.migration.migrate(destination.migration.listen("tcp:127.0.0.1:0"))
        moved(source)
        destination.migration.wait_for_guest(PATIENCE_SECONDS)
        before = destination.read(BEGIN, 1)
        wait_until(lambda: destination.read(BEGIN, 1) != before)
        destination.stop()
        check(destination.read(BEGIN, PAGES * PAGE_SIZE))
    figures = source.migration.progress.figures
    deltas = figures.xbzrle
    assert deltas is not None
    assert deltas.cache_miss >= PAGES
    assert deltas.pages >= PAGES
    assert deltas.overflow == 0
    assert deltas.bytes < 8 * deltas.pages


def test_precopy_xbzrle_to_a_file(source: Machine, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    source.migration.migrate(f"file:{path}")
    moved(source)
    ram = ram_of(path)
    assert ram.sent[Kind.DATA] > 3 * PAGES
    assert ram.stream_bytes < 3 * PAGES * PAGE_SIZE
    assert all(ram.page(number)[1:] == bytes(PAGE_SIZE - 1) for number in range(256, 256 + PAGES))
    with Machine("virt-7.2", ram="16M") as destination:
        destination.load(path)
        check(destination.read(BEGIN, PAGES * PAGE_SIZE))


# QEMU


class Qemu:
    """A QEMU, by its QMP socket."""

    def __init__(self, directory: Path, *options: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / "qmp"))
        listener.listen()
        listener.settimeout(PATIENCE_SECONDS)
        machine = "-M virt -cpu sifive-u54 -m 16M -nodefaults -display none -bios none -serial null".split()
        command = ["qemu-system-riscv64", *machine, "-qmp", f"unix:{directory / 'qmp'}", *options]
        self._process = subprocess.Popen(command)
        self._socket, _peer = listener.accept()
        listener.close()
        self._socket.settimeout(PATIENCE_SECONDS)
        self._lines = self._socket.makefile("rw")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """A command's answer."""
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._lines.write(json.dumps({"execute": command, "arguments": names}) + "\n")
        self._lines.flush()
        while "return" not in (answer := json.loads(self._lines.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def examine(self, address: int) -> str:
        """A byte of memory, as the human monitor shows it."""
        return str(self.execute("human-monitor-command", command_line=f"xp /1xb 0x{address:x}")).strip()

    def use_xbzrle(self) -> None:
        self.execute("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}])

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
        self._process.terminate()
        self._process.wait()


@pytest.mark.qemu("qemu-system-misc")
def test_what_qemu_sends_with_xbzrle_goes_on_here(kernel: Path, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    with contextlib.closing(Qemu(tmp_path, "-kernel", str(kernel))) as qemu:
        wait_until(lambda: not qemu.examine(LAST_PAGE).endswith(" 0x00"))
        qemu.use_xbzrle()
        qemu.execute("migrate-set-parameters", max_bandwidth=32 << 20, downtime_limit=1)
        qemu.execute("migrate", uri=f"exec:cat > {path}.part; mv {path}.part {path}")
        wait_until(lambda: qemu.execute("query-migrate").get("xbzrle-cache", {}).get("pages", 0) > PAGES)
        qemu.execute("migrate-set-parameters", downtime_limit=100_000)
        wait_until(lambda: qemu.execute("query-migrate")["status"] == "completed")
        deltas = qemu.execute("query-migrate")["xbzrle-cache"]
    wait_until(path.exists)  # QEMU does not wait for the command
    ram = ram_of(path)
    assert ram.sent[Kind.DATA] >= deltas["pages"]
    assert ram.stream_bytes < 3 * PAGES * PAGE_SIZE < ram.sent[Kind.DATA] * PAGE_SIZE
    with Machine("virt-7.2", ram="16M") as machine:
        machine.load(path)
        check(machine.read(BEGIN, PAGES * PAGE_SIZE))
        before = machine.read(BEGIN, 1)
        machine.cont()
        wait_until(lambda: machine.read(BEGIN, 1) != before)
        machine.stop()
        check(machine.read(BEGIN, PAGES * PAGE_SIZE))


@pytest.mark.qemu("qemu-system-misc")
def test_a_guest_moves_to_qemu_with_xbzrle(source: Machine, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    with contextlib.closing(Qemu(tmp_path, "-incoming", f"unix:{tmp_path / 'wire'}")) as qemu:
        qemu.use_xbzrle()
        source.migration.migrate(f"unix:{tmp_path / 'wire'}")
        moved(source)
        wait_until(lambda: qemu.execute("query-status")["status"] == "running")
        qemu.execute("stop")
        qemu.execute("pmemsave", val=BEGIN, size=PAGES * PAGE_SIZE, filename=str(memory))
    check(memory.read_bytes())
    deltas = source.migration.progress.figures.xbzrle
    assert deltas is not None
    assert deltas.pages >= PAGES
