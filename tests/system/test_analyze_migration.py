"""`inspect` beside QEMU's own `scripts/analyze-migration.py`, on streams of ours and of QEMU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from processes import wait_until

from emulator import Machine, Serial

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "firmware/prebuilt/toy.elf"


def inspect(path: Path) -> Any:
    command = [sys.executable, "-m", "emulator", "inspect", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


# The streams


@pytest.fixture
def qemu() -> Iterator[Callable[..., pexpect.spawn]]:
    """Starts QEMU with the toy guest, serial port and monitor on one terminal, and waits for the guest's prompt."""
    children = []

    def start(machine: str = "virt") -> pexpect.spawn:
        options = ["-M", machine, "-cpu", "sifive-u54", "-m", "16M", "-nodefaults", "-display", "none"]
        command = ["-serial", "mon:stdio", "-bios", "none", "-kernel", str(TOY)]
        child = pexpect.spawn("qemu-system-riscv64", options + command, timeout=60, encoding="utf-8")
        children.append(child)
        child.expect_exact("toy> ")
        return child

    yield start
    for child in children:
        child.close(force=True)


def migrate(child: pexpect.spawn, path: Path, *settings: str) -> Path:
    """Have QEMU write its stream into a file, and end."""
    child.send("\x01c")
    child.expect_exact("(qemu) ")
    for command in (*settings, f'migrate "exec:cat > {path}.part; mv {path}.part {path}"', "info migrate"):
        child.send(command + "\r")
        child.expect_exact("\n(qemu) ")
    assert "Migration status: completed" in child.before
    child.send("quit\r")
    child.expect(pexpect.EOF)
    wait_until(path.exists)  # QEMU does not wait for the command
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream of our own, the guest in the middle of something."""
    path = tmp_path_factory.mktemp("ours") / "stream"
    with Machine("virt-7.2", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=20)
        machine.serial.write("count\r")
        machine.run(until=Serial("count 1"), timeout=20)
        machine.serial.write("ech")
        machine.save(path)
    return path


# The comparison


def assert_same(theirs: Any, ours: Any, where: str) -> None:
    """Compare a value of the script's with one of ours.

    The script spells integers in hexadecimal, as many digits as the field has, and negative ones with their value
    in brackets; timers, buffers and everything else it spells as bytes. Ours are numbers, and bytes without spaces.
    """
    if isinstance(ours, dict):
        assert list(theirs) == list(ours), where
        for name in ours:
            assert_same(theirs[name], ours[name], f"{where} {name}")
    elif isinstance(ours, list):
        assert len(theirs) == len(ours), where
        for index, (their, our) in enumerate(zip(theirs, ours, strict=True)):
            assert_same(their, our, f"{where}[{index}]")
    elif isinstance(ours, bool):
        assert theirs is ours, where
    elif isinstance(ours, int):
        match = re.fullmatch(r"0x([0-9a-f]+)(?: \((-\d+)\))?|([0-9a-f]{2}(?: [0-9a-f]{2})*)", theirs)
        assert match is not None, where
        digits = match[1] or match[3].replace(" ", "")
        assert int(match[2] or ours) == ours, where
        assert int(digits, 16) == ours % (1 << 4 * len(digits)), where
    else:
        assert theirs.replace(" ", "") == ours, where


def assert_agreed(analyze: Callable[..., Any], path: Path) -> Any:
    theirs, ours = analyze(path), inspect(path)
    assert ours["error"] is None
    sections = {f"{section['name']} ({section['section_id']})": section for section in ours["sections"]}
    assert list(theirs) == list(sections)
    for name, section in sections.items():
        if section["fields"] is not None:
            assert_same(theirs[name], section["fields"], name)
    (sizes,) = (said["section sizes"] for name, said in theirs.items() if name.startswith("ram ("))
    assert {name: int(size, 16) for name, size in sizes.items()} == {
        block["name"]: block["size"] for block in ours["ram"]
    }
    assert sum(len(str(section["fields"])) for section in ours["sections"]) > 2000
    return ours


def test_the_script_reads_our_stream_and_agrees(analyze: Callable[..., Any], ours: Path) -> None:
    document = assert_agreed(analyze, ours)
    assert document["configuration"]["machine"] == "virt"


def test_the_script_reads_qemus_stream_and_agrees(
    analyze: Callable[..., Any], qemu: Callable[..., pexpect.spawn], tmp_path: Path
) -> None:
    assert_agreed(analyze, migrate(qemu(), tmp_path / "stream"))


def test_the_script_reads_the_description_in_our_snapshot(analyze: Callable[..., Any], tmp_path: Path) -> None:
    """It cannot follow the mapped layout, but its last part reads as in any stream."""
    with Machine("virt-7.2", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=20)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machine, "_snapshots", tmp_path)
            machine.savevm("toy")
    theirs, ours = analyze(tmp_path / "toy.snapshot", "--dump", "desc"), inspect(tmp_path / "toy.snapshot")
    assert theirs["mini-qemu"] == ours["mini-qemu"]
    names = [section["name"] for section in ours["sections"] if section["fields"] is not None]
    assert [device["name"] for device in theirs["devices"]] == names


def test_pages_that_a_busy_guest_sends_again_are_counted(qemu: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    child = qemu()
    child.send("dirty 50 2\r")
    child.expect_exact("toy> ")
    document = inspect(migrate(child, tmp_path / "stream", "migrate_set_parameter max-bandwidth 20M"))
    (ram,) = (block for block in document["ram"] if block["name"] == "riscv_virt_board.ram")
    assert ram["pages"]["absent"] == 0
    assert sum(ram["sent"].values()) > sum(ram["pages"].values()) == 4096
    assert next(section for section in document["sections"] if section["name"] == "ram")["parts"] > 3
    assert document["error"] is None


def test_qemu_without_description_is_read_by_its_footers(qemu: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    document = inspect(migrate(qemu("virt,suppress-vmdesc=on"), tmp_path / "stream"))
    assert document["error"] is None
    assert document["description_size"] == 0
    names = [section["name"] for section in document["sections"]]
    assert names[:4] == ["ram", "timer", "cpu_common", "cpu"]
    assert names[-1] == "globalstate"


def test_blocks_with_addresses_are_read(qemu: Callable[..., pexpect.spawn], tmp_path: Path) -> None:
    document = inspect(migrate(qemu(), tmp_path / "stream", "migrate_set_capability x-ignore-shared on"))
    assert document["configuration"]["capabilities"] == ["x-ignore-shared"]
    assert document["error"] is None
    assert document["ram"][0]["pages"]["absent"] == 0
