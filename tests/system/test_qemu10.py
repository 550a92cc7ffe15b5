"""A snapshot of ours in a real QEMU 10, which reads the same mapped layout, and one of QEMU's here.

See `tests/support/qemu10.py` for where that comes from.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from qemu10 import qemu10_command

from emulator import Machine, Serial

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(600)]

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
LIMIT = 60


class Qemu10:
    """A QEMU 10 that waits for a guest, by its serial line and its QMP socket."""

    def __init__(self, root: Path, directory: Path) -> None:
        modules = directory / "modules"
        modules.mkdir()
        options = "-M virt,acpi=off -cpu sifive-u54 -m 16M -nodefaults -display none -bios none -incoming defer".split()
        pairs = {}
        for name in ("serial", "qmp"):
            pairs[name] = socket.socketpair()
            number = pairs[name][1].fileno()
            options += ["-chardev", f"socket,id={name},fd={number}"]
        options += ["-serial", "chardev:serial", "-mon", "chardev=qmp,mode=control"]
        self.process = subprocess.Popen(
            [*qemu10_command(root), *options],
            env={**os.environ, "QEMU_MODULE_DIR": str(modules)},
            pass_fds=[pair[1].fileno() for pair in pairs.values()],
        )
        for ours, theirs in pairs.values():
            theirs.close()
            ours.settimeout(LIMIT)
        self.serial, self._qmp = pairs["serial"][0], pairs["qmp"][0]
        self._lines = self._qmp.makefile("rw")
        self._lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """A QMP command's answer."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while "return" not in (answer := json.loads(self._lines.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def wait(self, status: str) -> None:
        """Wait for an event that says that the migration has come so far."""
        while json.loads(self._lines.readline()).get("data", {}).get("status") != status:
            pass

    def answer(self, command: bytes) -> bytes:
        """What the guest says to a command, up to its next prompt."""
        self.serial.sendall(command + b"\r")
        said = bytearray()
        while not said.endswith(b"\r\ntoy> "):
            piece = self.serial.recv(4096)
            assert piece, said
            said += piece
        return bytes(said)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()
        self.serial.close()
        self._qmp.close()


@pytest.fixture
def qemu(qemu10: Path, tmp_path: Path) -> Iterator[Qemu10]:
    with closing(Qemu10(qemu10, tmp_path)) as process:
        process.execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": True} for name in ("mapped-ram", "events")],
        )
        yield process


def test_a_snapshot_with_its_note_and_checksums_goes_on_in_qemu_10(qemu: Qemu10, tmp_path: Path) -> None:
    with Machine("virt-10.0", acpi=False, ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.serial.write("crc\r")
        machine.run(until=Serial("\r\ntoy> "), timeout=LIMIT)
        expected = machine.serial.output.rpartition(b"crc\r\n")[2]
        machine.savevm("there")
        machine.snapshots.verify("there")
    qemu.execute("migrate-incoming", uri=f"file:{tmp_path / 'there.snapshot'}")
    qemu.wait("completed")
    qemu.execute("cont")
    assert qemu.answer(b"crc").endswith(expected)


def test_a_mapped_file_of_qemu_10_goes_on_here(qemu: Qemu10, tmp_path: Path) -> None:
    with Machine("virt-10.0", acpi=False, ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.savevm("there")
        qemu.execute("migrate-incoming", uri=f"file:{tmp_path / 'there.snapshot'}")
        qemu.wait("completed")
        qemu.execute("cont")
        expected = qemu.answer(b"crc").rpartition(b"crc\r\n")[2]
        qemu.execute("migrate", uri=f"file:{tmp_path / 'back'}")
        qemu.wait("completed")
        machine.load(tmp_path / "back")
        machine.serial.write("crc\r")
        machine.run(until=Serial(expected), timeout=LIMIT)
