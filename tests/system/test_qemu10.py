"""A snapshot of ours in a real QEMU 10, which reads the same mapped layout, and one of QEMU's here.

See `tests/support/qemu10.py` for where that comes from.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from emulators import Start
from processes import TOY, Emulator

from emulator import Machine, Serial

pytestmark = [pytest.mark.qemu, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT = 60


@pytest.fixture
def qemu(qemu_10_0: Start) -> Emulator:
    """A QEMU 10 that waits for a guest in a mapped file."""
    process = qemu_10_0("-M", "virt,acpi=off", "-incoming", "defer")
    process.capabilities(mapped_ram=True)
    return process


def take(qemu: Emulator, snapshot: Path) -> None:
    """Have QEMU go on with the guest of a snapshot, which was stopped when it was saved."""
    qemu.listen(f"file:{snapshot}")
    qemu.wait_for_status("completed")
    qemu.execute("cont")


def test_a_snapshot_with_its_note_and_checksums_goes_on_in_qemu_10(qemu: Emulator, tmp_path: Path) -> None:
    with Machine("virt-10.0", acpi=False, ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.serial.write("crc\r")
        machine.run(until=Serial("\r\ntoy> "), timeout=LIMIT)
        expected = machine.serial.output.rpartition(b"crc\r\n")[2]
        machine.savevm("there")
        machine.snapshots.verify("there")
    take(qemu, tmp_path / "there.snapshot")
    qemu.ask("crc", re.escape(expected) + b"$")


def test_a_mapped_file_of_qemu_10_goes_on_here(qemu: Emulator, tmp_path: Path) -> None:
    with Machine("virt-10.0", acpi=False, ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.savevm("there")
        take(qemu, tmp_path / "there.snapshot")
        expected = qemu.ask("crc", rb"crc\r\n(.*\r\ntoy> )$")[1]
        assert qemu.migrate(f"file:{tmp_path / 'back'}") == "completed"
        machine.load(tmp_path / "back")
        machine.serial.write("crc\r")
        machine.run(until=Serial(expected), timeout=LIMIT)
