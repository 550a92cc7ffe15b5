"""Synchronous exceptions reach the guest's handler with the right cause, PC and value.

Expected values from the RISC-V Privileged Architecture 1.10, sections 3.1.8 and 3.1.14 to 3.1.17.
"""

from __future__ import annotations

import pytest

from emulator import Icount, Machine

RAM = 0x8000_0000
SPOT = RAM + 0x100
"""Where the instruction under test is put: the PC of every expectation."""
NOTHING = 0x0900_0000
PLIC, MROM, FLASH, UART, CLINT = 0x0C00_0000, 0x1000, 0x2000_0000, 0x1000_0000, 0x0200_0000


def at_spot(guest, asm, *setup, instruction) -> tuple[int, int, int]:
    """Run `setup`, then `instruction` at SPOT; returns (mcause, mepc, mtval)."""
    guest.put(SPOT, instruction, asm.wfi, asm.j(-4))
    guest.run(*setup, asm.li("t2", SPOT), asm.jr("t2"))
    return guest.trap()


def test_an_illegal_instruction_tells_its_encoding(guest, asm) -> None:
    assert at_spot(guest, asm, instruction=asm.illegal) == (2, SPOT, 0xFFFF_FFFF)


def test_a_compressed_illegal_instruction_tells_sixteen_bits(guest, asm) -> None:
    assert at_spot(guest, asm, instruction=0x0001_0000) == (2, SPOT, 0)


def test_a_csr_that_does_not_exist_is_illegal(guest, asm) -> None:
    instruction = 0x7FF << 20 | 2 << 12 | 10 << 7 | 0x73
    assert at_spot(guest, asm, instruction=instruction) == (2, SPOT, instruction)


def test_ebreak_tells_its_address(guest, asm) -> None:
    assert at_spot(guest, asm, instruction=asm.ebreak)[:2] == (3, SPOT)


def test_compressed_ebreak(guest, asm) -> None:
    assert at_spot(guest, asm, instruction=0x0001_9002)[:2] == (3, SPOT)


def test_a_breakpoint_does_not_hide_the_faults_behind_it(guest, asm) -> None:
    handler = RAM + 0x600
    count_and_skip = [
        asm.addi("s0", "s0", 1),
        asm.csrr("t1", "mepc"),
        asm.addi("t1", "t1", 4),
        asm.csrw("mepc", "t1"),
        asm.mret,
    ]
    guest.put(handler, *count_and_skip)
    faults = asm.ecall, asm.ebreak, asm.illegal, asm.lw("a0", 0, "a1"), asm.ebreak, asm.sw("a0", 0, "a1"), asm.ebreak
    guest.run(asm.li("t1", handler), asm.csrw("mtvec", "t1"), asm.li("a1", NOTHING), *faults * 20)
    assert guest["s0"] == 7 * 20


def test_ecall_from_machine_mode(guest, asm) -> None:
    assert at_spot(guest, asm, instruction=asm.ecall) == (11, SPOT, 0)


@pytest.mark.parametrize(("mode", "cause"), [(0, 8), (1, 9)])
def test_ecall_from_lower_modes(guest, asm, mode: int, cause: int) -> None:
    guest.put(SPOT, asm.ecall)
    guest.run(
        asm.open_memory(),
        asm.li("t1", mode << 11),
        asm.csrw("mstatus", "t1"),
        asm.li("t2", SPOT),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )
    assert guest.trap() == (cause, SPOT, 0)
    assert guest["mstatus"] >> 11 & 3 == mode
    assert guest["priv"] == 3


@pytest.mark.parametrize("where", [NOTHING, NOTHING + 3, MROM - 0x1000, 1 << 40])
@pytest.mark.parametrize("size", ["lb", "ld"])
def test_a_load_where_nothing_is(guest, asm, where: int, size: str) -> None:
    instruction = getattr(asm, size)("a0", 8, "a1")
    assert at_spot(guest, asm, asm.li("a1", where - 8), instruction=instruction) == (5, SPOT, where)


@pytest.mark.parametrize(
    ("where", "load"),
    [(PLIC + 4, "lb"), (PLIC + 4, "ld"), (PLIC + 6, "lw"), (CLINT, "ld"), (UART + 8, "lb"), (UART + 1, "lw")],
)
def test_a_load_that_the_chip_does_not_take(guest, asm, where: int, load: str) -> None:
    instruction = getattr(asm, load)("a0", 0, "a1")
    assert at_spot(guest, asm, asm.li("a1", where), instruction=instruction) == (5, SPOT, where)


def test_a_refused_load_leaves_its_register(guest, asm) -> None:
    setup = asm.li("a1", NOTHING), asm.li("a0", 77)
    at_spot(guest, asm, *setup, instruction=asm.ld("a0", 0, "a1"))
    assert guest["a0"] == 77


@pytest.mark.parametrize(
    ("where", "store"),
    [(NOTHING, "sd"), (NOTHING + 1, "sw"), (PLIC + 4, "sh"), (PLIC + 5, "sw"), (1 << 41, "sb")],
)
def test_a_store_where_none_is_taken(guest, asm, where: int, store: str) -> None:
    instruction = getattr(asm, store)("a0", -16, "a1")
    assert at_spot(guest, asm, asm.li("a1", where + 16), instruction=instruction) == (7, SPOT, where)


def test_nothing_behind_a_refused_store_happens(guest, asm) -> None:
    data = RAM + 0x8000
    guest.put(SPOT, asm.sd("a0", 0, "a1"), asm.sd("a0", 0, "a2"), asm.csrw("mscratch", "a0"), asm.addi("a0", "a0", 1))
    setup = asm.li("a0", 5), asm.li("a1", NOTHING), asm.li("a2", data), asm.li("t1", 0), asm.csrw("mscratch", "t1")
    # the data page is in the TLB, so that only the emptied TLB can hold the second store back
    guest.run(*setup, asm.ld("t1", 0, "a2"), asm.sd("zero", 0, "a2"), asm.li("t2", SPOT), asm.jr("t2"))
    assert guest.trap() == (7, SPOT, NOTHING)
    assert (guest["a0"], guest["mscratch"]) == (5, 0)
    assert guest.machine.read(data, 8) == bytes(8)


def test_what_is_before_a_refused_store_has_happened(guest, asm) -> None:
    data = RAM + 0x8000
    guest.put(SPOT, asm.sd("a0", 0, "a2"), asm.sd("a0", 0, "a1"))
    guest.run(asm.li("a0", 5), asm.li("a1", NOTHING), asm.li("a2", data), asm.li("t2", SPOT), asm.jr("t2"))
    assert guest.trap() == (7, SPOT + 4, NOTHING)
    assert guest.machine.read(data, 8) == (5).to_bytes(8, "little")


@pytest.mark.parametrize("where", [NOTHING, UART, 2])
def test_a_fetch_where_no_code_can_be(guest, asm, where: int) -> None:
    guest.run(asm.li("t2", where), asm.jr("t2"))
    assert guest.trap() == (1, where, where)


def test_an_atomic_that_a_chip_does_not_take_is_a_store_access_fault(guest, asm) -> None:
    instruction = asm.amoadd("a0", "a2", "a1")
    assert at_spot(guest, asm, asm.li("a1", PLIC + 8), instruction=instruction) == (7, SPOT, PLIC + 8)


def test_an_atomic_on_a_chip_that_takes_it_loads_and_stores(guest, asm) -> None:
    amoadd_w = asm.amoadd("a0", "a2", "a1") & ~(7 << 12) | 2 << 12
    guest.run(asm.li("a1", CLINT + 0x4000), asm.li("a2", 5), asm.sw("a2", 0, "a1"), amoadd_w, asm.lw("a3", 0, "a1"))
    assert (guest["a0"], guest["a3"]) == (5, 10)


def test_load_reserved_faults_as_a_load(guest, asm) -> None:
    assert at_spot(guest, asm, asm.li("a1", NOTHING), instruction=asm.lr("a0", "a1")) == (5, SPOT, NOTHING)


@pytest.mark.parametrize(("kind", "cause"), [("amoadd", 6), ("lr", 4)])
def test_a_misaligned_atomic(guest, asm, kind: str, cause: int) -> None:
    instruction = asm.lr("a0", "a1") if kind == "lr" else asm.amoadd("a0", "a2", "a1")
    assert at_spot(guest, asm, asm.li("a1", RAM + 0x8001), instruction=instruction) == (cause, SPOT, RAM + 0x8001)


def test_a_misaligned_access_to_ram_just_works(guest, asm) -> None:
    guest.run(
        asm.li("a1", RAM + 0x8FFD), asm.li("a0", 0x1122334455667788), asm.sd("a0", 0, "a1"), asm.ld("a2", 0, "a1")
    )
    assert guest["a2"] == 0x1122334455667788


def test_machine_status_is_stacked_and_unstacked(guest, asm) -> None:
    guest.put(SPOT, asm.ecall)
    guest.run(asm.li("t1", 8), asm.csrrs("zero", "mstatus", "t1"), asm.li("t2", SPOT), asm.jr("t2"))
    status = guest["mstatus"]
    assert (status >> 3 & 1, status >> 7 & 1, status >> 11 & 3) == (0, 1, 3)


def test_a_delegated_exception_goes_to_supervisor_mode(guest, asm) -> None:
    supervisor_handler = RAM + 0x600
    guest.put(supervisor_handler, asm.csrr("s0", "scause"), asm.csrr("s1", "sepc"), asm.csrr("a3", "stval"), asm.ecall)
    guest.put(SPOT, asm.illegal)
    guest.run(
        asm.open_memory(),
        asm.li("t1", 1 << 2),
        asm.csrw("medeleg", "t1"),
        asm.li("t1", supervisor_handler),
        asm.csrw("stvec", "t1"),
        asm.li("t1", 0),
        asm.csrw("mstatus", "t1"),
        asm.li("t2", SPOT),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )
    assert (guest["s0"], guest["s1"], guest["a3"]) == (2, SPOT, 0xFFFF_FFFF)
    assert guest.trap()[0] == 9  # the handler's own ecall, from S
    assert guest["mstatus"] >> 8 & 1 == 0  # SPP: the exception came from U


def test_machine_mode_never_delegates(guest, asm) -> None:
    setup = asm.li("t1", 0xFFFF), asm.csrw("medeleg", "t1")
    assert at_spot(guest, asm, *setup, instruction=asm.illegal) == (2, SPOT, 0xFFFF_FFFF)


def test_a_jump_to_the_last_address_is_a_fault_there(guest, asm) -> None:
    user = [asm.li("t0", 0x1800), asm.csrrc("zero", "mstatus", "t0")]
    guest.run(*user, asm.li("t0", -2), asm.csrw("mepc", "t0"), asm.mret)
    assert guest.trap() == (1, -2 & (1 << 64) - 1, -2 & (1 << 64) - 1)


@pytest.mark.parametrize("icount", [None, Icount(0, sleep=False)], ids=["free", "counted"])
def test_a_guest_whose_handler_cannot_be_fetched_can_be_stopped(icount: Icount | None, asm) -> None:
    supervisor = [asm.li("t1", 0x1000), asm.csrrc("zero", "mstatus", "t1"), asm.li("t1", 0x800)]
    nowhere = [asm.li("t0", 0x0123 << 48), asm.csrw("stvec", "t0"), asm.li("t0", -1), asm.csrw("medeleg", "t0")]
    program = [*nowhere, *supervisor, asm.csrrs("zero", "mstatus", "t1"), asm.mret]  # to mepc, which is 0
    with Machine("virt", ram="16M", icount=icount) as machine:
        words = [word for part in program for word in ([part] if isinstance(part, int) else part)]
        machine.write(RAM, b"".join(word.to_bytes(4, "little") for word in words))
        machine.cpu.pc = RAM
        with pytest.raises(TimeoutError):
            machine.run(timeout=0.1)
        assert (machine.cpu.pc, machine.cpu["scause"]) == (0x0123 << 48, 1)
