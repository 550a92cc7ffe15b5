"""A snapshot of ours in a real QEMU 10, which reads the same mapped layout, and one of QEMU's here.

QEMU 10 knows another version of the section `cpu` than 7.2, so the machine is told to send that one. The program is
taken from the directory that MINI_QEMU_QEMU10 names (Debian packages, unpacked there), or from Debian's backports, from
where apt fetches it with a list of sources of its own; nothing is installed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emulator import Machine, Serial, machinestate
from emulator.cpu.state import VERSION_10_0

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(600)]

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
PACKAGES = ("qemu-system-riscv", "qemu-system-common", "qemu-system-data")
LIMIT = 60


def fetch(directory: Path) -> Path:
    """Unpack QEMU 10 from bookworm-backports; raises OSError or CalledProcessError."""

    def run(*command: str) -> None:
        subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=500, check=True)

    for name in ("lists/partial", "cache/archives/partial", "sources.list.d", "root"):
        (directory / name).mkdir(parents=True)
    backports = re.sub(r"(?m)^Suites:.*$", "Suites: bookworm-backports", SOURCES.read_text().split("\n\n")[0]) + "\n"
    (directory / "sources.list.d" / SOURCES.name).write_text(backports)
    options = [
        *("-o", "Dir::Etc::SourceList=/dev/null"),
        *("-o", f"Dir::Etc::SourceParts={directory / 'sources.list.d'}"),
        *("-o", f"Dir::State::Lists={directory / 'lists'}"),
        *("-o", f"Dir::Cache={directory / 'cache'}"),
        *("-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"),
    ]
    run("apt-get", *options, "-qq", "update")
    run("apt-get", *options, "-qq", "download", *(f"{package}/bookworm-backports" for package in PACKAGES))
    for package in directory.glob("*.deb"):
        run("dpkg", "-x", str(package), str(directory / "root"))
    return directory / "root"


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where QEMU 10 is unpacked."""
    if given := os.environ.get("MINI_QEMU_QEMU10"):
        return Path(given)
    try:
        return fetch(tmp_path_factory.mktemp("qemu10"))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"no QEMU 10: unpack it and set MINI_QEMU_QEMU10 to its directory ({' '.join(said.split())})")


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
            [root / "usr/bin/qemu-system-riscv64", "-L", root / "usr/share/qemu", *options],
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
def qemu(root: Path, tmp_path: Path) -> Iterator[Qemu10]:
    with closing(Qemu10(root, tmp_path)) as process:
        process.execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": True} for name in ("mapped-ram", "events")],
        )
        yield process


def test_a_snapshot_with_its_note_and_checksums_goes_on_in_qemu_10(
    qemu: Qemu10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machinestate, "SECTION_VERSIONS", {"cpu": VERSION_10_0})
    with Machine("virt", ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
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


def test_a_mapped_file_of_qemu_10_goes_on_here(qemu: Qemu10, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinestate, "SECTION_VERSIONS", {"cpu": VERSION_10_0})
    with Machine("virt", ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
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
