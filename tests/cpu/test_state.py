"""A hart's sections in a stream, against what QEMU 7.2 sent of a guest that sleeps between timer interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator import Machine
from emulator.cpu.state import VERSION_7_2, VERSION_10_0, VMSTATE_CPU, VMSTATE_CPU_COMMON, CpuCommonState, CpuState
from emulator.migration.errors import FieldMismatchError, FieldRangeError, StreamError
from emulator.migration.vmdesc import save_section
from emulator.migration.wire import Reader, Writer

# Section `cpu`, version 5, of `-cpu sifive-u54` with Debian's QEMU 7.2; `n*xx` stands for a byte n times.
QEMU_CPU = """
8*00 000000008000007c 00000000800004c0 16*00    | x0 to x4
0000000000000080 0000000000992b20               | x5, x6
00000000000f4240 00000000ab980d90 8*00          | x7 to x9
00000000800000b7 000000000000002e               | x10, x11
0000000000001028 152*00                         | x12 to x31
256*00                                          | f0 to f31
ff141811ff151912ff131700 16ffffff24211e1b0e0b0805 8*ff 252322201f1d1c1a0f0d0c0a09070604 16*ff | miprio
ff141811ff151912ff001710 16ffffff24211e1b0e0b0805 8*ff 252322201f1d1c1a0f0d0c0a09070604 16*ff | siprio
0000000080000054 8*ff                           | pc, load_res: none
48*00                                           | load_val, frm, badaddr, guest_phys_fault_addr, priv_ver, vext_ver
00000002 0014112d 00000002 0014112d 00000013    | misa_mxl, misa_ext, misa_mxl_max, misa_ext_mask, features
0000000000000003 8*00 0000000000001000 8*00     | priv, virt, resetvec, mhartid
0000000a00000088 8*00 0000000000001000          | mstatus: SXL, UXL, MPIE, MIE; mip; miclaim
0000000000000080                                | mie: MTIE
56*00                                           | mideleg, satp, stval, medeleg, stvec, sepc, scause
0000000080000070 0000000080000054               | mtvec, mepc
8000000000000007 8*00                           | mcause: a timer interrupt; mtval
40*00                                           | miselect, siselect, scounteren, mcounteren, mcountinhibit
1056*00 256*00 256*00                           | pmu_ctrs, mhpmevent_val, mhpmeventh_val
8*00 0000000000000080 24*00                     | sscratch, mscratch, mfromhost, mtohost, stimecmp
05 07 6370752f706d70 00000001 144*00            | subsection cpu/pmp: sixteen addr_reg and cfg_reg
05 09 6370752f6465627567 00000002 8*00          | subsection cpu/debug: trigger_cur
2000000000000000 2000000000000000 32*00         | tdata1, tdata2, tdata3
"""

QEMU_CPU_COMMON = "00000001 00000000"  # halted, interrupt_request


def payload(table: str) -> bytes:
    data = bytearray()
    for line in table.splitlines():
        for word in line.partition("|")[0].split():
            count, star, byte = word.partition("*")
            data += bytes.fromhex(byte) * int(count) if star else bytes.fromhex(word)
    return bytes(data)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine("virt", ram="16M") as machine:
        machine.power_on()
        yield machine


def adopt(machine: Machine, state: CpuState) -> None:
    machine.power_on()
    part = machine._vcpu.parts[1]
    part.check(state)
    machine.call(lambda: part.adopt(state))


def saved(machine: Machine, version: int = VERSION_7_2) -> bytes:
    writer = Writer()
    machine.call(lambda: VMSTATE_CPU.save(machine._vcpu.parts[1].state, writer, version_id=version))
    return bytes(writer.data)


def refusal(action: Callable[[], Any]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        action()
    assert str(caught.value).isprintable()
    return caught.value


def test_what_qemu_sends_is_taken_and_sent_again_byte_for_byte(machine: Machine) -> None:
    data = payload(QEMU_CPU)
    assert len(data) == 2752
    reader = Reader(data)
    adopt(machine, VMSTATE_CPU.load(reader, VERSION_7_2, machine._vcpu.parts[1].fresh()))
    assert reader.remaining == 0
    cpu = machine.cpu
    assert (cpu.pc, cpu["ra"], cpu["a1"], cpu["mcause"]) == (0x8000_0054, 0x8000_007C, 0x2E, 1 << 63 | 7)
    assert saved(machine) == data


def test_qemu_10_has_the_same_registers_in_another_layout(machine: Machine) -> None:
    adopt(machine, CpuState(pc=0x8000_0000, mie=0x80, scounteren=7, mcountinhibit=5))
    data = saved(machine, VERSION_10_0)
    assert len(data) != len(saved(machine))
    state = VMSTATE_CPU.load(Reader(data), VERSION_10_0)
    assert (state.pc, state.mie, state.scounteren, state.mcountinhibit) == (0x8000_0000, 0x80, 7, 5)


def test_qemu_describes_the_section_in_the_same_words(machine: Machine) -> None:
    """Names, types and sizes of QEMU 7.2's own description of its stream."""
    section = machine.call(
        lambda: save_section(
            VMSTATE_CPU,
            machine._vcpu.parts[1].state,
            Writer(),
            name="cpu",
            instance_id=0,
            version_id=VERSION_7_2,
        )
    )
    assert (section["vmsd_name"], section["version"]) == ("cpu", 5)
    names = [field["name"].removeprefix("env.") for field in section["fields"]]
    assert (
        names
        == (
            "gpr fpr miprio siprio pc load_res load_val frm badaddr guest_phys_fault_addr priv_ver vext_ver misa_mxl "
            "misa_ext misa_mxl_max misa_ext_mask features priv virt resetvec mhartid mstatus mip miclaim mie mideleg "
            "satp stval medeleg stvec sepc scause mtvec mepc mcause mtval miselect siselect scounteren mcounteren "
            "mcountinhibit pmu_ctrs mhpmevent_val mhpmeventh_val sscratch mscratch mfromhost mtohost stimecmp"
        ).split()
    )
    assert [subsection["vmsd_name"] for subsection in section["subsections"]] == ["cpu/pmp", "cpu/debug"]
    fields = {field["name"]: field for field in section["fields"]}
    assert fields["env.gpr"] == {"name": "env.gpr", "array_len": 32, "type": "uint64", "size": 8}
    assert fields["env.features"] == {"name": "env.features", "type": "uint32", "size": 4}
    assert fields["env.pmu_ctrs"]["struct"]["vmsd_name"] == "cpu/pmu"
    assert fields["env.pmu_ctrs"]["size"] == 33


def test_a_cut_section_is_refused() -> None:
    data = payload(QEMU_CPU)
    for length in [*range(0, len(data), 61), *range(len(data) - 120, len(data))]:
        subsection_ends = len(data) - 71 - 157, len(data) - 71  # behind what is complete without them
        if length not in subsection_ends:
            refusal(lambda length=length: VMSTATE_CPU.load(Reader(data[:length]), VERSION_7_2))


@pytest.mark.parametrize(
    ("wire", "engine"),
    [
        (0, 0),
        (1 << 21, 1 << 29),  # TW
        (1 << 22, 1 << 30),  # TSR
        (3 << 13, 3 << 13 | 1 << 63),  # FS dirty: SD sums it up
        (2 << 13, 2 << 13),
        (0xA_0000_1888, 0xA_0000_1888),
    ],
)
def test_mstatus_has_its_bits_where_the_engine_wants_them(machine: Machine, wire: int, engine: int) -> None:
    adopt(machine, CpuState(mstatus=wire))
    assert machine.cpu["mstatus"] == engine
    assert machine.call(lambda: machine._vcpu.parts[1].state.mstatus) == wire


def test_floating_point_flags_have_a_subsection_of_their_own(machine: Machine) -> None:
    adopt(machine, CpuState(mstatus=1 << 13, fflags=0x15, frm=3))
    # 05, length and name, version 1, the flags
    assert saved(machine).endswith(b"\x05\x0acpu/fflags\0\0\0\1\x15")
    assert machine.cpu["mstatus"] == 1 << 13  # not dirty for that
    state = VMSTATE_CPU.load(Reader(saved(machine)), VERSION_7_2)
    assert (state.fflags, state.frm) == (0x15, 3)
    adopt(machine, CpuState())
    assert b"cpu/fflags" not in saved(machine)


def test_all_of_mip_is_kept(machine: Machine) -> None:
    adopt(machine, CpuState(mip=0x222, mideleg=0x222))
    assert machine.call(lambda: machine._vcpu.parts[1].state.mip) == 0x222
    assert machine.call(lambda: machine._vcpu.parts[0].state) == CpuCommonState(0, 2)
    adopt(machine, CpuState())
    assert machine.call(lambda: machine._vcpu.parts[0].state) == CpuCommonState(0, 0)


def test_memory_protection_is_in_force_after_loading(guest, asm) -> None:
    """One locked entry for the page at 0x80005000: no access, for machine mode too."""
    state = CpuState(mstatus=0xA_0000_0000)
    state.pmp[0].addr_reg, state.pmp[0].cfg_reg = (0x8000_5000 >> 2) | 0x1FF, 0x98
    adopt(guest.machine, state)
    guest.run(asm.li("t1", 0x8000_5FF8), asm.ld("t2", 0, "t1"))
    assert (guest["mcause"], guest["mtval"]) == (5, 0x8000_5FF8)
    adopt(guest.machine, CpuState(mstatus=0xA_0000_0000))
    guest.run(asm.li("t1", 0x8000_5FF8), asm.ld("t2", 0, "t1"))
    assert guest["mcause"] == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("misa_ext", 0x14112F, "env.misa_ext: expected 0x14112d (-cpu sifive-u54: extensions ACDFIMSU), got 0x14112f"),
        ("misa_mxl", 1, "env.misa_mxl: expected 0x2 (a 64-bit CPU), got 0x1"),
        ("priv_ver", 1, "env.priv_ver: expected 0x0 (-cpu sifive-u54), got 0x1"),
        ("features", 0x11, "env.features: expected 0x13 (-cpu sifive-u54: mmu, pmp and debug), got 0x11"),
        ("virt", 1, "env.virt: expected 0x0 (no hypervisor extension), got 0x1"),
        ("mhartid", 1, "env.mhartid: expected 0x0, got 0x1"),
    ],
)
def test_another_kind_of_hart_is_refused_with_what_to_use(
    machine: Machine, name: str, value: int, message: str
) -> None:
    error = refusal(lambda: machine._vcpu.parts[1].check(CpuState(**{name: value})))
    assert isinstance(error, FieldMismatchError)
    assert message in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpr", [1] + [0] * 31),
        ("priv", 2),
        ("priv", 1 << 32),
        ("frm", 8),
        ("pc", 0x8000_0001),
        ("satp", 1 << 60),
        ("satp", 11 << 60),
        ("mstatus", 1 << 29),
    ],
)
def test_what_no_hart_can_be_in_is_refused(name: str, value: Any) -> None:
    writer = Writer()
    VMSTATE_CPU.save(CpuState(**{name: value}), writer, version_id=VERSION_7_2)
    assert isinstance(refusal(lambda: VMSTATE_CPU.load(Reader(writer.data), VERSION_7_2)), FieldRangeError)


@pytest.mark.parametrize("mode", [0, 8, 9, 10])
def test_every_translation_mode_of_the_hart_is_taken(mode: int) -> None:
    writer = Writer()
    VMSTATE_CPU.save(CpuState(satp=mode << 60 | 0x80000), writer, version_id=VERSION_7_2)
    assert VMSTATE_CPU.load(Reader(writer.data), VERSION_7_2).satp >> 60 == mode


def test_a_sleeping_hart_sleeps_on(machine: Machine) -> None:
    part = machine._vcpu.parts[0]
    state = VMSTATE_CPU_COMMON.load(Reader(bytes.fromhex(QEMU_CPU_COMMON)))
    part.check(state)
    part.adopt(state)
    assert machine.cpu.halted
    part.adopt(CpuCommonState())
    assert not machine.cpu.halted


def test_an_exception_on_its_way_is_refused(machine: Machine) -> None:
    # halted, interrupt_request; 05, length and name, version 1, exception_index 2
    data = bytes.fromhex("00000000 00000000 05 1a") + b"cpu_common/exception_index" + bytes.fromhex("00000001 00000002")
    state = VMSTATE_CPU_COMMON.load(Reader(data))
    error = refusal(lambda: machine._vcpu.parts[0].check(state))
    assert "exception_index: expected no exception on its way, got 2" in str(error)
