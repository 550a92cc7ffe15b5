"""Linux on a terminal: what a person types first, sleeping, much input, and how it ends."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
from typing import Any

import linuxguest
import pytest

pytestmark = [pytest.mark.linux, pytest.mark.timeout(300)]

MIB = 1 << 20
END_OF_FILE = b"\x04"
PASTE_SECONDS = 280
"""How long a mebibyte may take: 20 s on a host with nothing else to do."""


def test_it_knows_where_it_runs(shell: Any) -> None:
    assert "riscv64 GNU/Linux" in shell.ask("uname -a")
    interrupts = {
        line.split()[-1]: int(line.split()[1]) for line in shell.ask("head -n 4 /proc/interrupts").split("\n")[1:-1]
    }
    assert interrupts["riscv-timer"] > 0
    assert interrupts["ttyS0"] > 0
    assert "101000.rtc" in interrupts
    assert shell.ask("dmesg | tail").count("\n") == 10
    assert shell.ask("ls /sys/bus/pci/devices") == "0000:00:00.0\n"  # the host bridge itself


def test_the_clock_in_the_chip_tells_the_hosts_time(shell: Any) -> None:
    assert abs(int(shell.ask("hwclock -s; date +%s")) - time.time()) < 5


def test_a_shell_loop_is_timed(shell: Any) -> None:
    said = shell.ask("time sh -c 'i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done; echo $i'")
    assert said.startswith("10000\n")
    assert "real" in said


def test_fifty_processes_in_a_pipeline(shell: Any) -> None:
    assert shell.ask("echo through | " + " | ".join(["cat"] * 49)) == "through\n"


def test_sleep_3_takes_three_seconds_of_the_host(shell: Any) -> None:
    """Never less; and no more, unless the host was busy with something else each time."""
    taken = []
    for _ in range(3):
        shell.begin("sleep 3")
        begun = time.monotonic()
        shell.end()
        taken.append(time.monotonic() - begun)
    assert 2.9 < min(taken) < 3.3


def test_ctrl_c_ends_what_runs(shell: Any) -> None:
    shell.send("while :; do echo ro''und; done\r")
    shell.expect_exact("round")
    shell.send("\x03")
    shell.expect(rb"\^C\r+\n.*" + linuxguest.PROMPT.encode())
    assert shell.ask("echo here") == "here\n"


@pytest.mark.parametrize("flow_control", ["crtscts", "-crtscts"])
def test_a_pasted_mebibyte_arrives_as_it_was(shell: Any, flow_control: str) -> None:
    data = random.Random(1).randbytes(MIB)
    shell.ask(f"stty -echo -ixoff {flow_control}")
    shell.timeout = PASTE_SECONDS
    shell.begin("cat > /tmp/pasted")
    pasted = base64.encodebytes(data) + END_OF_FILE
    os.set_blocking(shell.fileno(), True)

    def paste() -> None:
        unsent = memoryview(pasted)
        while unsent:
            unsent = unsent[os.write(shell.fileno(), unsent[:4096]) :]

    typist = threading.Thread(target=paste)
    typist.start()
    shell.end()
    typist.join()
    assert shell.ask("base64 -d /tmp/pasted | md5sum").split()[0] == hashlib.md5(data).hexdigest()


def test_poweroff_ends_the_process_with_status_0(shell: Any) -> None:
    shell.send("poweroff\r")
    shell.expect_exact("reboot: Power down")
    assert shell.wait_for_exit() == 0


def test_reboot_boots_again(shell: Any) -> None:
    shell.ask("touch /tmp/before")
    shell.send("reboot\r")
    shell.expect_exact("reboot: Restarting system")
    shell.expect_exact("Run /init as init process")
    shell.expect_exact(linuxguest.PROMPT)
    assert shell.ask("ls /tmp") == ""
