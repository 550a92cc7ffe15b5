"""A Linux at work goes out into a real QEMU and back: nothing is lost, repeated or wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import linuxguest
import pytest
from processes import QEMU, Emulator
from qemu10 import qemu10_command, unpacked

pytestmark = [pytest.mark.linux, pytest.mark.qemu("qemu-system-misc"), pytest.mark.timeout(1200)]

ROUND_TRIPS = 10


def program_of(release: str, directory: Path) -> tuple[str, ...]:
    return tuple(qemu10_command(unpacked(directory))) if release == "10.0" else QEMU


@pytest.mark.parametrize("release", ["7.2", "10.0"])
def test_a_guest_at_work_goes_out_and_back(
    mini_qemu: Callable[..., Emulator], tmp_path_factory: pytest.TempPathFactory, release: str
) -> None:
    machine = ("-M", f"virt-{release}")
    program = program_of(release, tmp_path_factory.mktemp("qemu"))
    env = {**os.environ, "QEMU_MODULE_DIR": "/nonexistent"}  # those of another release
    append = f"{linuxguest.APPEND} no4lvl" if release == "10.0" else linuxguest.APPEND  # its sifive-u54 has no Sv48
    here = mini_qemu(*machine, *linuxguest.options(append=append))
    here.serial.wait_for(linuxguest.PROMPT.encode())
    begun = time.monotonic()
    for line in linuxguest.WORK:
        here.type(line + "\r")
    here.serial.wait_for(rb"<100 ")
    log = b""
    for hop in range(2 * ROUND_TRIPS):
        incoming = ("-m", linuxguest.RAM, "-incoming", "defer")
        there = mini_qemu(*machine, *incoming) if hop % 2 else mini_qemu(*incoming, program=program, env=env)
        assert here.migrate(there.listen("tcp:127.0.0.1:0")) == "completed", here.migration_error
        there.wait_for_status("completed")
        there.ask(f"echo ho''p {hop}", b"hop %d\r" % hop)
        log += here.serial.data
        here.close()
        here = there
    linuxguest.check_answer(here.ask(linuxguest.QUESTION, linuxguest.ANSWER))
    numbers = linuxguest.check_work(log + here.serial.data, time.monotonic() - begun)
    print(f"{ROUND_TRIPS} times to QEMU {release} and back, {numbers} numbers")
