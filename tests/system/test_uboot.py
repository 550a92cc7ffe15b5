"""Firmware that none of us wrote: Debian's OpenSBI and U-Boot, from the command line to the prompt and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

OPENSBI = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"
UBOOT = Path("/usr/lib/u-boot")

BOOTS = {
    "supervisor": ["-bios", OPENSBI, "-kernel", str(UBOOT / "qemu-riscv64_smode/u-boot.bin")],
    "machine": ["-bios", str(UBOOT / "qemu-riscv64/u-boot.bin")],
}


@pytest.fixture(params=BOOTS)
def uboot(request: pytest.FixtureRequest) -> Iterator[pexpect.spawn]:
    arguments = ["-m", "emulator", "run", "-nographic", "-m", "128M", *BOOTS[request.param]]
    child = pexpect.spawn(sys.executable, arguments, timeout=90, encoding="utf-8")
    yield child
    child.close(force=True)


def ask(child: pexpect.spawn, command: str, answer: str) -> None:
    child.send(command + "\r")
    child.expect(answer)
    child.expect_exact("=> ")


def test_uboot_reaches_its_prompt_answers_and_powers_off(uboot: pexpect.spawn) -> None:
    uboot.expect_exact("Hit any key to stop autoboot")
    uboot.send("\r")
    uboot.expect_exact("=> ")
    ask(uboot, "version", r"U-Boot 20\d\d\.\d\d")
    ask(uboot, "bdinfo", r"-> size     = 0x0000000008000000")
    ask(uboot, "mw.l 84000000 12345678 4", "")
    ask(uboot, "md 84000000 4", r"84000000: 12345678 12345678 12345678 12345678")
    uboot.send("poweroff\r")
    uboot.expect(pexpect.EOF)
    uboot.close()
    assert uboot.exitstatus == 0


def test_ctrl_a_x_ends_a_guest_in_mid_boot(uboot: pexpect.spawn) -> None:
    uboot.expect_exact("U-Boot")
    uboot.send("\x01x")
    uboot.expect(pexpect.EOF)
    uboot.close()
    assert uboot.exitstatus == 0
