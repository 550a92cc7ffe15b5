"""`Machine.save` and `Machine.load`: run states, and guest states that are easily lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Elapsed, Icount, Instructions, Machine, RunState, Serial
from emulator.core.charport import CharPort
from emulator.core.errors import ConfigError, FileError
from emulator.migration.errors import StreamError

PREBUILT = Path(__file__).parents[1] / "firmware/prebuilt"
TOY = PREBUILT / "toy.elf"
LIMIT = 60

RAM, CLINT, FLASH = 0x8000_0000, 0x0200_0000, 0x2000_0000


@pytest.fixture
def toy() -> Iterator[Machine]:
    with Machine("virt", ram="16M", kernel=TOY) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        yield machine


@pytest.fixture
def other() -> Iterator[Machine]:
    """Of the same kind, and without a guest."""
    with Machine("virt", ram="16M") as machine:
        yield machine


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    return tmp_path / "stream"


def ask(machine: Machine, command: str, answer: str) -> None:
    machine.serial.write(command + "\r")
    machine.run(until=Serial(answer), timeout=LIMIT)
    machine.run(until=Serial("toy> "), timeout=LIMIT)


def words(*instructions: int) -> bytes:
    return b"".join(instruction.to_bytes(4, "little") for instruction in instructions)


def store(machine: Machine, address: int, value: int) -> None:
    """What a guest's 32-bit store does to a chip."""
    mapping = machine.bus.find(address)
    machine.call(lambda: mapping.target.write(address - mapping.base, 4, value))


def load(machine: Machine, address: int) -> int:
    mapping = machine.bus.find(address)
    return machine.call(lambda: mapping.target.read(address - mapping.base, 4))


# Run states


def test_another_machine_goes_on_where_the_saved_one_was(toy: Machine, other: Machine, stream: Path) -> None:
    ask(toy, "echo before", "\nbefore")
    toy.save(stream)
    other.load(stream)
    assert (other.cpu.pc, other.virtual_time) == (toy.cpu.pc, toy.virtual_time)
    ask(other, "echo behind", "\nbehind")
    assert b"before" not in other.serial.output


def test_a_stopped_machine_stays_stopped(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    assert toy.status is RunState.PAUSED
    before = toy.virtual_time
    toy.load(stream)
    assert toy.status is RunState.PAUSED
    assert toy.virtual_time == before


def test_a_running_machine_runs_on(toy: Machine, stream: Path) -> None:
    toy.cont()
    toy.save(stream)
    assert toy.status is RunState.RUNNING
    toy.load(stream)
    assert toy.status is RunState.RUNNING
    toy.stop()
    ask(toy, "echo alive", "\nalive")


def test_a_machine_that_has_ended_comes_back(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    toy.serial.write("poweroff 5\r")
    assert toy.run(timeout=LIMIT) is RunState.SHUTDOWN
    assert toy.exit_status == 5
    toy.load(stream)
    assert toy.status is RunState.PAUSED
    assert toy.exit_status is None
    ask(toy, "echo again", "\nagain")
    toy.serial.write("poweroff 6\r")
    toy.run(timeout=LIMIT)
    assert toy.wait() == 6


def test_a_machine_goes_back_as_often_as_one_likes(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    start = toy.cpu.pc
    for number in range(3):
        ask(toy, f"echo {number}", f"\n{number}")
        toy.load(stream)
        assert toy.cpu.pc == start


def test_a_refused_stream_leaves_a_running_machine_running(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    stream.write_bytes(stream.read_bytes()[:-20_000])
    toy.cont()
    with pytest.raises(StreamError):
        toy.load(stream)
    with pytest.raises(FileError, match="nowhere"):
        toy.load(stream.with_name("nowhere"))
    assert toy.status is RunState.RUNNING
    toy.stop()
    ask(toy, "echo alive", "\nalive")


def test_a_file_that_cannot_be_written_leaves_the_machine_as_it_was(toy: Machine, tmp_path: Path) -> None:
    with pytest.raises(FileError):
        toy.save(tmp_path / "no such directory" / "stream")
    ask(toy, "echo alive", "\nalive")


def test_a_machine_is_not_saved_in_the_middle_of_an_instruction(stream: Path) -> None:
    port, errors = CharPort(), []
    with Machine("virt", ram="16M", kernel=TOY, port=port) as machine:

        def save(_data: bytes) -> None:
            port.sink = lambda _data: None
            try:
                machine.save(stream)
            except ConfigError as error:
                errors.append(str(error))

        port.sink = save
        machine.run(until=Elapsed(0.2), timeout=LIMIT)
    assert "in the middle of an instruction" in errors[0]
    assert not stream.exists()


def test_several_threads_may_save_at_once(toy: Machine, other: Machine, tmp_path: Path) -> None:
    toy.cont()
    threads = [threading.Thread(target=toy.save, args=(tmp_path / str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        other.load(tmp_path / str(number))


def test_a_reset_that_the_guest_has_asked_for_is_not_lost(stream: Path) -> None:
    """The store to the finisher ends the run; the machine is saved before the reset has been carried out."""
    with Machine("virt", ram="16M", icount=0) as machine:
        # lui t0, 0x100; lui t1, 7; addi t1, t1, 0x777; sw t1, 0(t0)
        machine.write(RAM, words(0x001002B7, 0x00007337, 0x77730313, 0x0062A023))
        machine.cpu.pc = RAM
        machine.run(until=Instructions(4), timeout=LIMIT)
        machine.save(stream)
        assert machine.cpu.pc == 0x1000
        machine.load(stream)
        assert machine.cpu.pc == 0x1000


# Guest states


def test_flash_in_another_mode_stays_in_it(other: Machine, stream: Path) -> None:
    other.power_on()
    store(other, FLASH, 0x0090_0090)
    assert load(other, FLASH) == 0x0089_0089
    other.save(stream)
    other.reset()
    other.load(stream)
    # lui t0, 0x20000; lw a0, 0(t0); j .
    other.write(RAM, words(0x200002B7, 0x0002A503, 0x0000006F))
    other.cpu.pc = RAM
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    assert other.cpu["a0"] == 0x0089_0089
    store(other, FLASH, 0x00FF_00FF)
    other.save(stream)
    store(other, FLASH, 0x0090_0090)
    other.load(stream)
    other.cpu.pc = RAM
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    assert other.cpu["a0"] == 0


@pytest.mark.parametrize("broken", [False, True])
def test_a_load_reservation_is_kept(stream: Path, broken: bool) -> None:
    with Machine("virt", ram="16M", icount=0) as machine:
        # auipc t0, 0; addi t0, t0, 256; lr.d a0, (t0); sc.d a1, a0, (t0); j .
        machine.write(RAM, words(0x00000297, 0x10028293, 0x1002B52F, 0x18A2B5AF, 0x0000006F))
        machine.cpu.pc = RAM
        machine.cpu["a1"] = 7
        machine.run(until=Instructions(3), timeout=LIMIT)
        machine.save(stream)
        if broken:
            machine.reset()
        machine.load(stream)
        machine.run(until=Instructions(1), timeout=LIMIT)
        assert machine.cpu["a1"] == 0


def test_a_software_interrupt_stays_pending(other: Machine, stream: Path) -> None:
    other.power_on()
    store(other, CLINT, 1)
    assert other.cpu["mip"] & 8
    other.save(stream)
    store(other, CLINT, 0)
    other.load(stream)
    assert other.cpu["mip"] & 8
    assert load(other, CLINT) == 1
    store(other, CLINT, 0)
    assert not other.cpu["mip"] & 8


def test_interrupts_that_the_guest_has_set_itself_stay(other: Machine, stream: Path) -> None:
    # li t0, 0x222; csrs mip, t0; j .
    other.write(RAM, words(0x22200293, 0x3442A073, 0x0000006F))
    other.cpu.pc = RAM
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    assert other.cpu["mip"] & 0x222 == 0x222
    other.save(stream)
    other.reset()
    other.load(stream)
    assert other.cpu["mip"] & 0x222 == 0x222


def test_a_sleeping_guest_is_woken_by_its_timer(toy: Machine, other: Machine, stream: Path) -> None:
    toy.serial.write("count\r")
    toy.run(until=Serial("toy> "), timeout=LIMIT)
    toy.run(until=Elapsed(0.3), timeout=LIMIT)
    assert toy.cpu.halted
    toy.save(stream)
    other.load(stream)
    assert other.cpu.halted
    assert other.clock.next_deadline() == toy.clock.next_deadline()
    other.run(until=Serial("count 1"), timeout=LIMIT)


def test_bytes_in_the_fifo_are_read_by_the_other_guest(stream: Path) -> None:
    with Machine("virt", ram="16M", kernel=TOY, icount=3) as machine:
        machine.run(until=Serial("toy> "), timeout=LIMIT)
        machine.serial.write("c")
        assert machine.call(lambda: machine.board.devices["serial-mm"].state.recv_fifo.count) == 1
        machine.save(stream)
    with Machine("virt", ram="16M", icount=3) as machine:
        machine.load(stream)
        ask(machine, "rc", "crc32")


def test_input_that_waits_on_the_host_is_given_to_whatever_was_loaded(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    toy.serial.write("echo late\r" * 2)
    toy.load(stream)
    toy.run(until=Serial("late"), timeout=LIMIT)


def test_floating_point_flags_and_rounding_are_kept(other: Machine, stream: Path) -> None:
    # li t0, 0x2000; csrs mstatus, t0; li t0, 0x75; csrw fcsr, t0; j .
    other.write(RAM, words(0x000022B7, 0x3002A073, 0x07500293, 0x00329073, 0x0000006F))
    other.cpu.pc = RAM
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    other.save(stream)
    other.reset()
    assert other.call(lambda: other._vcpu.engine.fflags) == 0
    other.load(stream)
    assert other.cpu["frm"] == 3
    assert other.call(lambda: other._vcpu.engine.fflags) == 0x15


def test_code_is_read_anew_after_loading(other: Machine, stream: Path) -> None:
    # li a0, 1; j . -- saved -- and li a0, 2 in its place
    other.write(RAM, words(0x00100513, 0x0000006F))
    other.cpu.pc = RAM
    other.save(stream)
    other.write(RAM, words(0x00200513, 0x0000006F))
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    assert other.cpu["a0"] == 2
    other.load(stream)
    other.run(until=Elapsed(0.01), timeout=LIMIT)
    assert other.cpu["a0"] == 1


def test_counted_instructions_go_on(stream: Path) -> None:
    with Machine("virt", ram="16M", kernel=TOY, icount=Icount(3)) as machine:
        machine.run(until=Instructions(5000), timeout=LIMIT)
        machine.save(stream)
        machine.run(until=Instructions(1000), timeout=LIMIT)
        machine.load(stream)
        assert (machine.instructions, machine.virtual_time) == (5000, 40_000)
        machine.run(until=Instructions(10), timeout=LIMIT)
        assert machine.instructions == 5010


def test_a_machine_with_another_amount_of_ram_says_which_option(toy: Machine, stream: Path) -> None:
    toy.save(stream)
    with (
        Machine("virt", ram="32M") as machine,
        pytest.raises(StreamError, match=r"is -m the same as where this comes from, 16M\?"),
    ):
        machine.load(stream)
