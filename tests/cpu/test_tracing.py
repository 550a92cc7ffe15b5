"""What `-d` says about a hart: its traps in QEMU's words, and the code that it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator.core import log
from emulator.cpu.vcpu import Vcpu

HANDLER = 0x8000_0400
CODE = 0x8000_0800
TABLES = 0x8010_0000
V, R, W, X, U, A, D = 1, 2, 4, 8, 16, 64, 128


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@pytest.fixture
def follow() -> Iterator[Callable[[logging.Logger], list[str]]]:
    """Lets an item's messages through into the list that it returns; to be used before the guest is."""
    undo: list[Callable[[], None]] = []

    def begin(logger: logging.Logger) -> list[str]:
        lines, level = Lines(), logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(lines)
        undo.extend((lambda: logger.setLevel(level), lambda: logger.removeHandler(lines)))
        return lines.seen

    yield begin
    for step in undo:
        step()


def enter_user_mode(asm: Any, at: int) -> list[int]:
    """With all memory open to it."""
    return [
        *asm.li("t0", -1),
        asm.csrw("pmpaddr0", "t0"),
        *asm.li("t0", 0x1F),
        asm.csrw("pmpcfg0", "t0"),
        *asm.li("t0", at),
        asm.csrw("mepc", "t0"),
        *asm.li("t0", 0x1800),
        asm.csrrc("zero", "mstatus", "t0"),
        asm.mret,
    ]


def test_exceptions_are_told_in_qemus_words(follow: Any, guest: Any, asm: Any) -> None:
    lines = follow(log.interrupts)
    guest.put(CODE, asm.ecall)
    guest.run(*enter_user_mode(asm, CODE))
    assert lines == [
        "riscv_cpu_do_interrupt: hart:0, async:0, cause:0000000000000008, epc:0x0000000080000800, "
        "tval:0x0000000000000000, desc=user_ecall"
    ]


def test_an_address_that_faults_is_told(follow: Any, guest: Any, asm: Any) -> None:
    lines = follow(log.interrupts)
    guest.run(asm.li("t0", 0x4_0000), asm.sd("t0", 0, "t0"))
    assert [line.partition("tval:")[2] for line in lines] == ["0x0000000000040000, desc=fault_store"]


@pytest.mark.parametrize("vectored", [0, 1])
def test_interrupts_are_told_although_the_engine_takes_them(follow: Any, guest: Any, asm: Any, vectored: int) -> None:
    lines = follow(log.interrupts)
    guest.put(HANDLER + 12 * vectored, *asm.sleep)
    raise_msip = [asm.li("t0", 8), asm.csrrs("zero", "mie", "t0"), asm.csrrs("zero", "mstatus", "t0")]
    raise_msip += [asm.li("t0", 0x200_0000), asm.li("t1", 1), asm.sw("t1", 0, "t0"), asm.j(0)]
    point_there = [asm.li("t0", HANDLER | vectored), asm.csrw("mtvec", "t0")]
    guest.run(*point_there, *raise_msip)
    assert len(lines) == 1
    assert lines[0].startswith("riscv_cpu_do_interrupt: hart:0, async:1, cause:0000000000000003, epc:0x00000000800000")
    assert lines[0].endswith("tval:0x0000000000000000, desc=m_software")


def test_each_block_is_shown_with_its_mode(follow: Any, guest: Any, asm: Any) -> None:
    lines = follow(log.executed)
    guest.put(CODE, asm.ecall)
    guest.run(*enter_user_mode(asm, CODE))
    assert lines[0] == "Trace 0: 0x80000000 M"
    entered = lines.index("Trace 0: 0x80000800 U")
    assert lines[entered - 1].endswith(" M")
    assert lines[entered + 1] == "Trace 0: 0x80000400 M"


def test_code_is_shown_once_for_each_place_in_memory(follow: Any, guest: Any, asm: Any) -> None:
    """Two address spaces have other code at the same address; the handler and what is run twice are shown once."""
    lines = follow(log.in_asm)
    for number, root in enumerate((TABLES, TABLES + 0x2000)):
        page = 0x8040_0000 + 0x20_0000 * number
        for table, target, bits in ((root, root + 0x1000, V), (root + 0x1000, page, V | R | W | X | U | A | D)):
            guest.machine.write(table, (target >> 12 << 10 | bits).to_bytes(8, "little"))
        guest.put(page + 0x1800, asm.addi("a0", "a0", 1 + number), asm.ecall)
    for root in (TABLES, TABLES + 0x2000, TABLES):
        switch = [asm.li("t0", 8 << 60 | root >> 12), asm.csrw("satp", "t0"), asm.sfence_vma]
        guest.run(*switch, *enter_user_mode(asm, 0x1800))
        guest.machine.reset()  # out of its sleep
    shown = [line for line in lines if "0x0000000000001800" in line]
    assert len(shown) == 2
    assert "addi    a0, a0, 1" in shown[0]
    assert "addi    a0, a0, 2" in shown[1]
    assert sum("0x0000000080000404" in line for line in lines) == 1  # in the handler


def test_an_interrupt_and_its_handler_are_told_once_though_that_is_stopped_before_it_begins(
    follow: Any, guest: Any, asm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, blocks = follow(log.interrupts), follow(log.executed)
    begun, enter = [], Vcpu._on_block

    def on_block(vcpu: Vcpu, address: int, size: int) -> None:
        enter(vcpu, address, size)
        if address == HANDLER:
            begun.append(address)
            if len(begun) == 1:
                vcpu.engine.stop_after_this_instruction()

    monkeypatch.setattr(Vcpu, "_on_block", on_block)
    raise_msip = [asm.li("t0", 8), asm.csrrs("zero", "mie", "t0"), asm.csrrs("zero", "mstatus", "t0")]
    guest.run(*raise_msip, asm.li("t0", 0x200_0000), asm.li("t1", 1), asm.sw("t1", 0, "t0"), asm.j(0))
    assert len(begun) == 2
    assert len(lines) == 1
    assert blocks.count(f"Trace 0: 0x{HANDLER:x} M") == 1
