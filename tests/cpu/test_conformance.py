"""A guest that does what guests rarely do, and says what became of it: 460 lines, the same on this machine every time.

`guests/conformance.txt` holds the expected lines, and what QEMU 7.2 says instead where it says something else. The
guest is prebuilt; with the cross compiler it is built again from its sources, and asked under QEMU as well.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from emulator import Machine
from emulator.cpu.internals import Internals

GUESTS = Path(__file__).parent / "guests"
PREBUILT = GUESTS / "conformance.elf"
IN_QEMU = "loader,addr=0x80f00000,data=1,data-len=4"
"""Tells the guest to leave out what QEMU 7.2 does not survive."""


def parse(lines: list[str]) -> dict[str, str]:
    """What follows each name, up to the line that says that all has been said."""
    *said, end = lines
    assert end == "end"
    return {name: text.strip() for name, _, text in (line.partition(":") for line in said)}


@cache
def expected() -> tuple[dict[str, str], dict[str, str]]:
    """The lines of this machine, and of QEMU."""
    ours: dict[str, str] = {}
    qemus: dict[str, str] = {}
    name = ""
    for line in (GUESTS / "conformance.txt").read_text().splitlines():
        if line.startswith("    "):
            qemus[name] = line.strip()
        elif line and not line.startswith("#"):
            name, _, text = line.partition(":")
            ours[name] = qemus[name] = text.strip()
    return ours, {name: text for name, text in qemus.items() if text != "-"}


def run(icount: int | None = None) -> dict[str, str]:
    with Machine("virt", ram="16M", kernel=PREBUILT, icount=icount) as machine:
        machine.run(timeout=60)
        assert machine.exit_status == 0
        return parse(machine.serial.output.decode().splitlines())


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return run()


@pytest.mark.parametrize("name", expected()[0])
def test_this_machine_does_what_is_expected(said: dict[str, str], name: str) -> None:
    assert said[name] == expected()[0][name]


def test_everything_that_the_guest_says_is_expected(said: dict[str, str]) -> None:
    assert list(said) == list(expected()[0])


def test_every_known_difference_has_its_reason() -> None:
    lines = (GUESTS / "conformance.txt").read_text().splitlines()
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if below.startswith("    "):
            assert above.startswith("# "), line


def test_counted_instructions_make_no_difference() -> None:
    assert run(icount=0) == expected()[0]


def test_an_engine_without_its_internals_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Internals, "locate", classmethod(lambda *_args, **_named: None))
    assert run() == expected()[0]


@pytest.mark.qemu("gcc-riscv64-unknown-elf")
def test_the_prebuilt_guest_is_that_of_the_sources(tmp_path: Path) -> None:
    version = subprocess.run(
        ["riscv64-unknown-elf-gcc", "-dumpfullversion"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    if not version.startswith("12.2."):
        pytest.skip(f"prebuilt with GCC 12.2, this is {version.strip()}")
    subprocess.run(["make", "-C", GUESTS, f"BUILD={tmp_path}"], check=True, capture_output=True, timeout=60)
    assert (tmp_path / PREBUILT.name).read_bytes() == PREBUILT.read_bytes()


@pytest.mark.qemu("qemu-system-misc")
def test_qemu_does_what_is_expected_of_qemu() -> None:
    qemu = "qemu-system-riscv64"
    version = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True, timeout=60).stdout
    if not re.search(r"version 7\.2\.", version):
        pytest.skip(f"the expectations are those of QEMU 7.2, this is {version.splitlines()[0]}")
    board = "-M virt -cpu sifive-u54 -m 16M -bios none -display none -serial stdio -monitor none"
    command = [qemu, *board.split(), "-kernel", str(PREBUILT), "-device", IN_QEMU]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert parse(output.splitlines()) == expected()[1]
