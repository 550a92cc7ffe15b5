"""The machine's run states, threads and Python interface, on the toy guest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from emulator import Elapsed, Icount, Machine, RunState, Serial
from emulator.core.charport import CharPort
from emulator.core.errors import ConfigError, ImageError, MemoryAccessError
from emulator.runner import Runner

TOY = Path(__file__).parents[1] / "firmware/prebuilt/toy.elf"
LIMIT = 60


@pytest.fixture
def toy():
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        yield machine


def at_prompt(machine: Machine) -> Machine:
    machine.run(until=Serial("toy> "), timeout=LIMIT)
    return machine


def test_a_guest_runs_until_it_says_something(toy: Machine) -> None:
    assert toy.status is RunState.PRELAUNCH
    assert toy.run(until=Serial("toy> "), timeout=LIMIT) is RunState.PAUSED
    assert toy.serial.output.startswith(b"toy guest")


def test_the_next_serial_condition_looks_behind_the_last(toy: Machine) -> None:
    at_prompt(toy)
    toy.serial.write("echo one two\r")
    toy.run(until=Serial("one"), timeout=LIMIT)
    toy.run(until=Serial("two\r\n"), timeout=LIMIT)
    toy.run(until=Serial("one two\r\n"), timeout=LIMIT)


def test_the_guests_exit_code_is_the_machines(toy: Machine) -> None:
    toy.serial.write("poweroff 7\r")
    assert toy.run(timeout=LIMIT) is RunState.SHUTDOWN
    assert (toy.exit_status, toy.wait()) == (7, 7)


def test_an_ended_machine_stays_ended(toy: Machine) -> None:
    toy.serial.write("poweroff\r")
    toy.run(timeout=LIMIT)
    toy.cont()
    assert toy.run(timeout=LIMIT) is RunState.SHUTDOWN


def test_a_guest_that_says_nothing_is_a_timeout_and_stopped(toy: Machine) -> None:
    at_prompt(toy)
    with pytest.raises(TimeoutError, match=r"did not reach Serial\(b'never'\) in 0.05 s"):
        toy.run(until=Serial("never"), timeout=0.05)
    assert toy.status is RunState.PAUSED


def test_a_reboot_starts_the_guest_again(toy: Machine) -> None:
    at_prompt(toy).serial.write("reboot\r")
    toy.run(until=Serial("toy guest"), timeout=LIMIT)
    at_prompt(toy)


def test_without_reboot_a_reset_ends_the_machine() -> None:
    with Machine("virt", ram="16M", kernel=TOY, reboot=False) as machine:
        machine.serial.write("reboot\r")
        assert machine.run(timeout=LIMIT) is RunState.SHUTDOWN
        assert machine.exit_status == 0


def test_reset_from_outside_keeps_the_run_state(toy: Machine) -> None:
    at_prompt(toy)
    toy.reset()
    assert toy.status is RunState.PAUSED
    assert toy.cpu.pc == 0x1000
    at_prompt(toy)


def test_the_virtual_clock_stands_still_while_the_guest_is_stopped(toy: Machine) -> None:
    at_prompt(toy)
    before = toy.virtual_time
    assert toy.virtual_time == before
    toy.run(until=Elapsed(0.05), timeout=LIMIT)
    assert 50_000_000 <= toy.virtual_time - before < 10_000_000_000


def test_a_running_guest_can_be_looked_at_and_stopped(toy: Machine) -> None:
    toy.cont()
    assert toy.status is RunState.RUNNING
    assert len(toy.cpu.registers()) > 64
    assert toy.read(0x8000_0000, 4) == TOY.read_bytes()[0x1000:0x1004]
    toy.stop()
    assert toy.status is RunState.PAUSED


def test_registers_and_memory_can_be_written(toy: Machine) -> None:
    toy.cpu["x10"] = 0xFFFF_FFFF_0000_0001
    toy.cpu.pc = 0x8000_0100
    toy.write(0x8010_0000, b"data")
    assert toy.cpu["a0"] == toy.cpu["x10"]
    assert (toy.cpu["x10"], toy.cpu.pc) == (0xFFFF_FFFF_0000_0001, 0x8000_0100)
    assert toy.read(0x8010_0000, 4) == b"data"


def test_code_written_behind_the_guests_back_is_run_anew() -> None:
    # li a0, 1; j . -- and then li a0, 2 in its place
    with Machine("virt", ram="16M") as machine:
        machine.write(0x8000_0000, (0x00100513).to_bytes(4, "little") + (0x0000006F).to_bytes(4, "little"))
        machine.run(until=Elapsed(0.01), timeout=LIMIT)
        assert machine.cpu["x10"] == 1
        machine.write(0x8000_0000, (0x00200513).to_bytes(4, "little"))
        machine.cpu.pc = 0x8000_0000
        machine.run(until=Elapsed(0.01), timeout=LIMIT)
        assert machine.cpu["x10"] == 2


def test_input_typed_before_power_on_is_not_lost() -> None:
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        machine.serial.write("echo early bird\r")
        machine.run(until=Serial("\nearly bird\r\n"), timeout=LIMIT)


def test_two_machines_run_side_by_side() -> None:
    with Machine("virt", ram="16M", kernel=TOY) as one, Machine("virt", ram="16M", kernel=TOY) as two:
        one.cont()
        two.cont()
        one.serial.write("poweroff 1\r")
        two.serial.write("poweroff 2\r")
        assert (one.wait(), two.wait()) == (1, 2)


def test_closing_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    for _ in range(5):
        with Machine("virt", ram="16M", kernel=TOY) as machine:
            machine.cont()
    machine.close()
    assert set(threading.enumerate()) <= before


def test_a_closed_machine_says_so(toy: Machine) -> None:
    toy.power_on()
    toy.close()
    with pytest.raises(ConfigError, match="has been closed"):
        _ = toy.cpu.pc


@pytest.fixture
def failed() -> Iterator[Machine]:
    """One whose guest has said something that could not be passed on."""
    port = CharPort()

    def broken(_data: bytes) -> None:
        raise OSError("the printer is on fire")

    port.sink = broken
    with Machine("virt", ram="16M", kernel=TOY, port=port) as machine:
        with pytest.raises(OSError, match="the printer is on fire"):
            machine.run(timeout=LIMIT)
        yield machine


def test_an_error_on_the_machines_thread_reaches_whoever_waits(failed: Machine) -> None:
    assert failed.status is RunState.INTERNAL_ERROR


def test_a_call_that_meets_the_end_of_the_machines_thread_is_answered(
    failed: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread has looked at its calls for the last time, and is still alive when somebody looks whether it is."""
    thread = failed._runner._thread
    assert thread is not None
    thread.join()
    seen = iter([True])
    monkeypatch.setattr(thread, "is_alive", lambda: next(seen, False))
    assert failed.call(lambda: 5) == 5


def test_an_error_in_a_call_reaches_the_caller_only(toy: Machine) -> None:
    with pytest.raises(KeyError):
        _ = toy.cpu["x32"]
    at_prompt(toy)


def test_a_call_that_ends_just_when_waiting_for_it_does_has_its_result(
    toy: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, late = Future.result, iter([True])

    def too_early(future: Future[int], timeout: float | None = None) -> int:
        result = wait(future, timeout)
        if next(late, False):
            raise TimeoutError
        return result

    monkeypatch.setattr(Future, "result", too_early)
    assert toy.call(lambda: 5) == 5


def test_a_call_may_run_into_a_time_limit_of_its_own(toy: Machine) -> None:
    def give_up() -> None:
        raise TimeoutError("the disk does not answer")

    with pytest.raises(TimeoutError, match="the disk does not answer"):
        toy.call(give_up)


def test_an_idle_guest_uses_no_cpu(toy: Machine) -> None:
    at_prompt(toy)
    toy.cont()
    toy.run(until=Elapsed(0.2), timeout=LIMIT)
    before = time.process_time()
    toy.run(until=Elapsed(1), timeout=LIMIT)
    assert time.process_time() - before < 0.5  # a busy loop would use a second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machine": "pc"}, "unsupported machine type 'pc'"),
        ({"cpu": "max"}, "unsupported CPU 'max'"),
        ({"smp": 2}, "-smp 2 is not supported yet"),
        ({"ram": "lots"}, "'lots' is not a size"),
        ({"icount": 11}, "shift 11 is not between 0 and 10"),
    ],
)
def test_what_cannot_be_built_is_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Machine(**options)


def test_images_are_refused_when_the_board_is_built() -> None:
    with Machine("virt", ram="16M", kernel="/nonexistent/kernel") as machine:
        with pytest.raises(ImageError, match="nonexistent"):
            machine.power_on()
        with pytest.raises(ImageError):
            _ = machine.cpu


def test_a_kernel_cannot_be_chosen_after_the_first_use(toy: Machine) -> None:
    toy.power_on()
    with pytest.raises(ConfigError, match="before its first use"):
        toy.load_kernel(TOY)


def test_icount_may_be_a_number_or_more() -> None:
    with Machine("virt", icount=3) as number, Machine("virt", icount=Icount(3, sleep=False)) as more:
        assert (number.icount, more.icount) == (Icount(3, sleep=True), Icount(3, sleep=False))


JUMP_TO_SELF = bytes.fromhex("6f000000")


def test_counted_time_stops_a_busy_guest_at_the_very_instruction() -> None:
    def instructions() -> int:
        with Machine("virt", ram="4M", icount=3) as machine:
            machine.write(0x8000_0000, JUMP_TO_SELF)
            machine.run(until=Elapsed(0.001), timeout=LIMIT)
            return machine.instructions

    assert instructions() == 1_000_000 // 8


def test_an_interrupted_run_stops_the_guest_and_forgets_its_condition(
    toy: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_prompt(toy)

    def interrupted(_timeout: float | None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy._condition_met, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            toy.run(until=Serial("one"))
    assert toy.status is RunState.PAUSED
    toy.serial.write("echo one two\r")
    toy.run(until=Serial("two\r\n"), timeout=LIMIT)
    assert b"one two\r\n" in toy.serial.output


def test_only_one_thread_may_wait_in_run(toy: Machine) -> None:
    at_prompt(toy)
    waiter = threading.Thread(target=lambda: toy.run(timeout=LIMIT))
    waiter.start()
    while toy.status is not RunState.RUNNING:
        toy.call(lambda: None)
    with pytest.raises(ConfigError, match="another thread"):
        toy.run(timeout=LIMIT)
    toy.quit()
    waiter.join(LIMIT)
    assert toy.exit_status == 0


def test_first_use_by_several_threads_builds_one_board(toy: Machine) -> None:
    boards = []
    threads = [threading.Thread(target=lambda: boards.append(toy.board)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(boards) == 4
    assert len(set(map(id, boards))) == 1


def test_a_failure_while_building_leaves_nothing_behind(toy: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_runner: Runner) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "reset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            toy.power_on()
    toy.quit()
    assert set(threading.enumerate()) <= before
    at_prompt(toy)


def test_closing_releases_whoever_waits(toy: Machine) -> None:
    toy.power_on()
    said: list[str] = []

    def wait() -> None:
        try:
            toy.wait()
        except ConfigError as error:
            said.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()
    toy.close()
    waiter.join(LIMIT)
    assert said == ["the machine has been closed"]


def test_a_machine_closed_before_its_first_use_stays_closed() -> None:
    machine = Machine("virt", ram="16M", kernel=TOY)
    machine.close()
    with pytest.raises(ConfigError, match="closed"):
        machine.power_on()


def test_serial_conditions_need_output_to_be_kept() -> None:
    with (
        Machine("virt", ram="16M", kernel=TOY, port=CharPort()) as machine,
        pytest.raises(ConfigError, match="port that the machine was given"),
    ):
        machine.run(until=Serial("toy> "), timeout=LIMIT)


def test_a_negative_length_is_no_memory(toy: Machine) -> None:
    with pytest.raises(MemoryAccessError):
        toy.read(0x8000_0010, -4)
