"""What a machine tells its listeners, on the toy guest: QEMU's events, in QEMU's order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from emulator import Machine, Serial
from emulator.events import Events

TOY = Path(__file__).parents[1] / "firmware/prebuilt/toy.elf"
LIMIT = 60

Told = list[tuple[str, Mapping[str, Any]]]


def listen(machine: Machine) -> Told:
    told: Told = []
    machine.events.subscribe(lambda name, data: told.append((name, data)))
    return told


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Machine]:
    with Machine("virt", ram="16M", kernel=TOY, snapshots=tmp_path) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        yield machine


def test_stop_and_cont_are_told_only_if_they_change_something(toy: Machine) -> None:
    told = listen(toy)
    toy.stop()
    toy.cont()
    toy.cont()
    toy.stop()
    toy.stop()
    assert told == [("RESUME", {}), ("STOP", {})]


def test_resets_are_told_with_who_wanted_them(toy: Machine) -> None:
    told = listen(toy)
    toy.reset()
    toy.run(until=Serial("toy> "), timeout=LIMIT)
    toy.serial.write("reboot\r")
    toy.run(until=Serial("toy guest"), timeout=LIMIT)
    assert [(name, dict(data)) for name, data in told if name == "RESET"] == [
        ("RESET", {"guest": False, "reason": "host-qmp-system-reset"}),
        ("RESET", {"guest": True, "reason": "guest-reset"}),
    ]


@pytest.mark.parametrize(("command", "reason"), [("poweroff", "guest-shutdown"), ("poweroff 7", "guest-panic")])
def test_a_guest_that_ends_itself_says_how(toy: Machine, command: str, reason: str) -> None:
    told = listen(toy)
    toy.serial.write(f"{command}\r")
    toy.run(timeout=LIMIT)
    assert told == [("RESUME", {}), ("SHUTDOWN", {"guest": True, "reason": reason})]


def test_a_reset_that_ends_the_machine_is_its_reason() -> None:
    with Machine("virt", ram="16M", kernel=TOY, reboot=False) as machine:
        told = listen(machine)
        machine.serial.write("reboot\r")
        machine.run(timeout=LIMIT)
        assert told[-1] == ("SHUTDOWN", {"guest": True, "reason": "guest-reset"})


def test_quitting_is_told_once(toy: Machine) -> None:
    told = listen(toy)
    toy.quit()
    toy.quit(reason="host-signal")
    toy.wait()
    toy.call(lambda: None)
    assert told == [("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})]


def test_the_power_button_is_told_although_the_board_has_none(toy: Machine) -> None:
    told = listen(toy)
    toy.powerdown()
    assert told == [("POWERDOWN", {})]


def test_a_running_guest_stops_while_it_is_saved_and_loaded(toy: Machine) -> None:
    told = listen(toy)
    toy.savevm("stopped")
    assert told == []
    toy.cont()
    toy.savevm("running")
    toy.loadvm("stopped")
    assert [name for name, _ in told] == ["RESUME", "STOP", "RESUME", "STOP", "RESUME"]


def test_listeners_are_called_on_the_machines_thread(toy: Machine) -> None:
    threads: list[str] = []
    toy.events.subscribe(lambda _name, _data: threads.append(threading.current_thread().name))
    toy.cont()
    toy.stop()
    assert threads == ["machine", "machine"]


def test_a_listener_that_has_unsubscribed_hears_no_more() -> None:
    events, told = Events(), list[str]()

    def listener(name: str, _data: Mapping[str, Any]) -> None:
        told.append(name)
        events.unsubscribe(listener)

    events.subscribe(listener)
    events.emit("ONE")
    events.emit("TWO")
    events.unsubscribe(listener)
    assert told == ["ONE"]
