"""A Linux at work moves from process to process: nothing is lost, repeated or wrong."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import linuxguest
import pytest
from processes import Emulator

pytestmark = [pytest.mark.linux, pytest.mark.timeout(900)]

HOPS = 50


def test_a_guest_at_work_moves_50_times(mini_qemu: Callable[..., Emulator]) -> None:
    here = mini_qemu(*linuxguest.options())
    here.serial.wait_for(linuxguest.PROMPT.encode())
    begun = time.monotonic()
    for line in linuxguest.WORK:
        here.type(line + "\r")
    here.serial.wait_for(rb"<100 ")
    log, downtimes = b"", []
    for hop in range(HOPS):
        there = mini_qemu("-m", linuxguest.RAM, "-incoming", "defer")
        assert here.migrate(there.listen("tcp:127.0.0.1:0")) == "completed", here.migration_error
        there.wait_for_status("completed")
        downtimes.append(here.execute("query-migrate")["downtime"])
        there.ask(f"echo ho''p {hop}", b"hop %d\r" % hop)
        log += here.serial.data
        here.close()
        here = there
    linuxguest.check_answer(here.ask(linuxguest.QUESTION, linuxguest.ANSWER))
    numbers = linuxguest.check_work(log + here.serial.data, time.monotonic() - begun)
    print(f"{HOPS} hops, {numbers} numbers, downtime {statistics.median(downtimes)} ms, at most {max(downtimes)} ms")
