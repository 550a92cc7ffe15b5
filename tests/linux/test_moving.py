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
ROUND_TRIPS = 10
EXPECTING = ("-m", linuxguest.RAM, "-incoming", "defer")


class Traveller:
    """A Linux at work, in one process or another, and what it has said."""

    def __init__(self, here: Emulator) -> None:
        self.here = here
        self.downtimes: list[int] = []
        self._hops = 0
        self._log = b""
        here.serial.wait_for(linuxguest.PROMPT.encode())
        self._begun = time.monotonic()
        for line in linuxguest.WORK:
            here.type(line + "\r")
        here.serial.wait_for(rb"<100 ")

    def move_to(self, there: Emulator) -> None:
        """Migrate, and see that it can still be typed at."""
        here, self._hops = self.here, self._hops + 1
        assert here.migrate(there.listen("tcp:127.0.0.1:0")) == "completed", here.migration_error
        there.wait_for_status("completed")
        self.downtimes.append(here.execute("query-migrate")["downtime"])
        there.ask(f"echo ho''p {self._hops}", b"hop %d\r" % self._hops)
        self._log += here.serial.data
        here.close()
        self.here = there

    def check(self) -> str:
        """Assert that all went well; the figures."""
        linuxguest.check_answer(self.here.ask(linuxguest.QUESTION, linuxguest.ANSWER))
        numbers = linuxguest.check_work(self._log + self.here.serial.data, time.monotonic() - self._begun)
        times = f"downtime {statistics.median(self.downtimes)} ms, at most {max(self.downtimes)} ms"
        return f"{self._hops} hops, {numbers} numbers, {times}"


def test_a_guest_at_work_moves_50_times(mini_qemu: Callable[..., Emulator]) -> None:
    traveller = Traveller(mini_qemu(*linuxguest.options()))
    for _ in range(HOPS):
        traveller.move_to(mini_qemu(*EXPECTING))
    print(traveller.check())


@pytest.mark.qemu("qemu-system-misc")
@pytest.mark.parametrize("release", ["7.2", "10.0"])
def test_a_guest_at_work_moves_to_qemu_and_back_ten_times(
    request: pytest.FixtureRequest, mini_qemu: Callable[..., Emulator], release: str
) -> None:
    qemu = request.getfixturevalue(f"qemu_{release.replace('.', '_')}")
    here = ("-M", f"virt-{release}")
    append = linuxguest.APPEND + (" no4lvl" if release == "10.0" else "")  # its sifive-u54 has no Sv48
    traveller = Traveller(mini_qemu(*linuxguest.options(append=append), *here))
    for _ in range(ROUND_TRIPS):
        traveller.move_to(qemu(*EXPECTING))
        traveller.move_to(mini_qemu(*EXPECTING, *here))
    print(traveller.check())
