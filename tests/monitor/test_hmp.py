from typing import Any

import pytest

from emulator.core.errors import ConfigError
from emulator.cpu.mmu import PageMap, PageRange
from emulator.monitor.commands import HMP_COMMANDS
from emulator.monitor.dump import COUNT_LIMIT
from emulator.monitor.hmp import GREETING, LINE_LIMIT, Hmp
from emulator.version import VERSION


# What QEMU 7.2 prints for the same reset vector.
@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("x/4xw 0x1000", "0000000000001000: 0x00000297 0x02828613 0xf1402573 0x0202b583"),
        ("x/4xw (0x1000+8)", "0000000000001008: 0xf1402573 0x0202b583 0x0182b283 0x00028067"),
        ("xp/8xb 0x1000", "0000000000001000: 0x97 0x02 0x00 0x00 0x13 0x86 0x82 0x02"),
        (
            "xp/9xh 0x1000",
            "0000000000001000: 0x0297 0x0000 0x8613 0x0282 0x2573 0xf140 0xb583 0x0202\n0000000000001010: 0xb283",
        ),
        (
            "xp/3xg 0x1000",
            "0000000000001000: 0x0282861300000297 0x0202b583f1402573\n0000000000001010: 0x000280670182b283",
        ),
        (
            "xp/3dg 0x1000",
            "0000000000001000:   180854351210742423   144877716322133363\n0000000000001010:      704129848750723",
        ),
        ("xp/10db 0x1000", "0000000000001000: 151   2   0   0  19 134 130   2\n0000000000001008: 115  37"),
        ("xp/3dw 0x1008", "0000000000001008: 4047512947   33731971   25342595"),
        ("xp/3uw 0x1000", "0000000000001000:        663   42108435 4047512947"),
        ("xp/3ow 0x1000", "0000000000001000:       01227  0240503023 036120022563"),
        ("xp/10ob 0x1000", "0000000000001000: 0227  02   0   0 023 0206 0202  02\n0000000000001008: 0163 045"),
        (
            "xp/20cb 0x1000",
            r"""0000000000001000: '\x97' '\x02' '\x00' '\x00' '\x13' '\x86' '\x82' '\x02'
0000000000001008: 's' '%' '@' '\xf1' '\x83' '\xb5' '\x02' '\x02'
0000000000001010: '\x83' '\xb2' '\x82' '\x01'""",
        ),
        ("x/0xw 0x1000", ""),
        ("x/4xw 0x9000000000", "0000009000000000: Cannot access memory"),
        ("x/4xw 0xfffffffffffffff8", "fffffffffffffff8: Cannot access memory"),
        ("p/x 1+2*3", "0x7"),
        ("p/x 0", "0"),
        ("p /x 5", "0x5"),
        ("p/4x 5", "0x5"),
        ("p/xb 0x1234", "0x1234"),
        ("p/x -1", "0xffffffffffffffff"),
        ("p/u -1", "18446744073709551615"),
        ("print/d -1", "-1"),
        ("p/d 0x8000000000000000", "-9223372036854775808"),
        ("p/i 5", "5"),
        ("p/o 8", "010"),
        ("p/o 0", "0"),
        ("print/c 65", "'A'"),
        ("p/c 10", r"'\n'"),
        ("p/c 39", r"'\''"),
        ("p/c 92", r"'\\'"),
        ("p/c 200", r"'\xc8'"),
        ("p/c 0x141", r"'\x141'"),
        ("info status", "VM status: paused (prelaunch)"),
        (" info   status", "VM status: paused (prelaunch)"),
        ("help x", "x /fmt addr -- virtual memory dump starting at 'addr'"),
        ("help p", "print|p /fmt expr -- print expression value (use $reg for CPU register access)"),
        ("? stop", "stop|s  -- stop emulation"),
        ("help ?", "help|? [cmd] -- show the help"),
        ("help info status", "info status  -- show the current VM status (running|paused)"),
        ("info registers 1", "CPU#1 not available"),
        ("info registers -a 1", "CPU#1 not available"),
        ("info registers -b", 'registers: unsupported option -b\nTry "help info registers" for more information'),
        ("help info registers", "info registers [-a] [vcpu] -- show the cpu registers (-a: of all CPUs)"),
        ("info kvm", "kvm support: not compiled"),
        ("info name", ""),
        ("info uuid", "00000000-0000-0000-0000-000000000000"),
        ("", ""),
        ("   ", ""),
        ("foo", "unknown command: 'foo'"),
        ("STOP", "unknown command: 'STOP'"),
        ("info foo", "unknown command: 'info foo'"),
        ("info reg", "unknown command: 'info reg'"),
        ("help foo", "unknown command: 'foo'"),
    ],
)
def test_output_is_qemus(hmp: Hmp, line: str, output: str) -> None:
    assert hmp.execute(line) == output


@pytest.mark.parametrize(
    ("line", "message", "topic"),
    [
        ("print 1+", "unexpected end of expression", "print"),
        ("p 1 2", "print|p: extraneous characters at the end of line", "p"),
        ("p 09", "print|p: extraneous characters at the end of line", "p"),
        ("p 1)", "print|p: extraneous characters at the end of line", "p"),
        ("p $nope", "unknown register", "p"),
        ("stop now", "stop|s: extraneous characters at the end of line", "stop"),
        ("info status foo", "status: extraneous characters at the end of line", "info status"),
        ("info registers foo", "invalid char 'f' in expression", "info registers"),
        ("x", "unexpected end of expression", "x"),
        ("x/4xw", "unexpected end of expression", "x"),
        ("x/1s 0x1000", "invalid char in format: 's'", "x"),
        ("x/-1x 0", "invalid char in format: '-'", "x"),
        ("x//4 0x1000", "invalid char in format: '/'", "x"),
        ("x/4 xw 0x1000", "invalid char 'x' in expression", "x"),
        ("x 0x1000 5", "x: extraneous characters at the end of line", "x"),
    ],
)
def test_misuse_points_to_the_help(hmp: Hmp, line: str, message: str, topic: str) -> None:
    assert hmp.execute(line) == f'{message}\nTry "help {topic}" for more information'


@pytest.mark.parametrize("count", [str(COUNT_LIMIT + 1), "9" * 4000])
def test_count_is_bounded(hmp: Hmp, count: str) -> None:
    assert hmp.execute(f"x/{count}x 0x1000").startswith(f"at most {COUNT_LIMIT} items")
    assert hmp.execute(f"xp/{COUNT_LIMIT}xb 0x80000000").count("\n") == 0x2000 // 8  # all of RAM, and where it ends


def test_line_is_bounded(hmp: Hmp) -> None:
    assert hmp.execute("x" * (LINE_LIMIT + 1)) == f"line is longer than {LINE_LIMIT} characters"


def test_format_letter_and_size_stay_in_force(hmp: Hmp) -> None:
    hmp.execute("x/xb 0x1000")
    assert hmp.execute("xp 0x1000") == "0000000000001000: 0x97"
    assert hmp.execute("xp/2 0x1000") == "0000000000001000: 0x97 0x02"
    hmp.execute("p/d 5")
    assert hmp.execute("p 0x10") == "16"
    hmp.execute("x/1iw 0x80000000")
    assert hmp.execute("xp/2x 0x1000") == "0000000000001000: 0x97 0x02"  # i says nothing about sizes


def test_dump_ends_at_the_first_address_that_cannot_be_read(hmp: Hmp) -> None:
    assert hmp.execute("xp/8xw 0x80001ff0") == (
        "0000000080001ff0: 0x00000000 0x00000000 0x00000000 0x00000000\n0000000080002000: Cannot access memory"
    )
    assert hmp.execute("xp/4xw 0x80001ff8") == "0000000080001ff8: Cannot access memory"


def test_count_defaults_to_one_word(hmp: Hmp) -> None:
    assert hmp.execute("x 0x1000") == "0000000000001000: 0x00000297"


def test_xp_reads_device_registers_with_the_widths_they_take(hmp: Hmp, machine: Any) -> None:
    assert hmp.execute("xp/2xw 0x10000000") == "0000000010000000: 0x63626160 0x67666564"
    assert machine.board.uart.reads == [(offset, 1) for offset in range(8)]
    assert hmp.execute("xp/1xg 0x101000") == "0000000000101000: 0x1000000410000000"
    assert hmp.execute("xp/1xb 0x101000") == "0000000000101000: Cannot access memory"


def test_instructions_are_disassembled_one_a_line(hmp: Hmp) -> None:
    pytest.importorskip("emulator.cpu.disasm")
    lines = hmp.execute("x/3i 0x1000").splitlines()
    assert lines[0] == "0x0000000000001000:  00000297          auipc                   t0,0  # 0x1000"
    assert [line[:29] for line in lines[1:]] == ["0x0000000000001004:  02828613", "0x0000000000001008:  f1402573"]


def test_compressed_and_illegal_instructions_take_two_bytes(hmp: Hmp, machine: Any) -> None:
    pytest.importorskip("emulator.cpu.disasm")
    machine.board.bus.write_ram(0x8000_1FFA, bytes.fromhex("0100 0000 ffff"))
    lines = hmp.execute("xp/9i 0x80001ffa").splitlines()
    assert lines[0].startswith("0x0000000080001ffa:  0001 ")
    assert lines[1].startswith("0x0000000080001ffc:  0000 ")
    assert lines[2:] == ["0x0000000080001ffe:  Cannot access memory"]  # four bytes, of which RAM has two


def test_registers_answer_to_both_their_names(hmp: Hmp) -> None:
    assert [hmp.execute(f"p/x ${name}") for name in ("pc", "x10", "a0", "fp", "s11")] == [
        "0x1000",
        "0xa",
        "0xa",
        "0x8",
        "0x1b",
    ]


def test_info_registers_has_qemus_layout(hmp: Hmp) -> None:
    lines = hmp.execute("info registers").split("\n")
    assert lines[:5] == [
        "",
        "CPU#0",
        " pc       0000000000001000",
        " mhartid  0000000000000000",
        " mstatus  0000000a00000000",
    ]
    assert lines[5] == (
        " x0/zero  0000000000000000 x1/ra    0000000000000001 x2/sp    0000000000000002 x3/gp    0000000000000003"
    )
    assert lines[-1] == (
        " f28/ft8  ffffffff0000001c f29/ft9  ffffffff0000001d f30/ft10 ffffffff0000001e f31/ft11 ffffffff0000001f"
    )
    assert hmp.execute("info registers 0") == hmp.execute("info registers")


def test_info_mtree_lists_the_address_map(hmp: Hmp) -> None:
    assert hmp.execute("info mtree").splitlines() == [
        "address-space: memory",
        "  0000000000000000-ffffffffffffffff (prio 0, i/o): system",
        "    0000000000001000-0000000000001fff (prio 0, rom): riscv_virt_board.mrom",
        "    0000000000101000-0000000000101023 (prio 0, i/o): goldfish_rtc",
        "    0000000010000000-0000000010000007 (prio 0, i/o): serial",
        "    0000000080000000-0000000080001fff (prio 0, ram): riscv_virt_board.ram",
    ]


def test_info_mem_lists_pages_as_qemu_does(hmp: Hmp, machine: Any) -> None:
    assert hmp.execute("info mem") == "No translation or protection"
    text = PageRange(0xFFFF_FFFF_8000_0000, 0x8020_0000, 0x20_0000, 0b01101011)
    stack = PageRange(0x3F_FFFF_F000, 0x8123_4000, 0x1000, 0b11010111)
    machine.cpu.pages = PageMap([stack, text])
    listed = [
        "vaddr            paddr            size             attr",
        "---------------- ---------------- ---------------- -------",
        "0000003ffffff000 0000000081234000 0000000000001000 rw-u-ad",
        "ffffffff80000000 0000000080200000 0000000000200000 r-x-ga-",
    ]
    assert hmp.execute("info mem").splitlines() == listed
    machine.cpu.pages = PageMap([stack, text], complete=False)
    assert hmp.execute("info mem").splitlines() == [*listed, "there are more page tables than are looked at"]
    machine.cpu.xlen = 32
    machine.cpu.pages = PageMap([PageRange(0xC000_0000, 0x8040_0000, 0x40_0000, 0xFF)])
    assert hmp.execute("info mem").splitlines() == [
        "vaddr    paddr            size     attr",
        "-------- ---------------- -------- -------",
        "c0000000 0000000080400000 00400000 rwxugad",
    ]


def test_info_qtree_lists_devices_with_properties_and_windows(hmp: Hmp) -> None:
    assert hmp.execute("info qtree").splitlines() == [
        "bus: main-system-bus",
        "  type System",
        '  dev: goldfish_rtc, id "rtc"',
        "    mmio 0000000000101000/0000000000000024",
        '  dev: serial-mm, id "uart0"',
        "    regshift = 0 (0x0)",
        "    endianness = 2 (0x2)",
        '    chardev = "serial0"',
        "    big-endian = false",
        "    mmio 0000000010000000/0000000000000008",
    ]


def test_info_version_is_the_packages(hmp: Hmp) -> None:
    assert hmp.execute("info version") == VERSION
    assert GREETING.startswith(f"mini-qemu {VERSION} monitor - ")


def test_run_state_commands_reach_the_machine(hmp: Hmp, machine: Any) -> None:
    transcript = [(line, hmp.execute(line)) for line in ("c", "info status", "stop", "info status", "cont", "s")]
    assert transcript[1][1] == "VM status: running"
    assert transcript[3][1] == "VM status: paused"
    assert [hmp.execute(line) for line in ("system_reset", "system_powerdown", "q")] == ["", "", ""]
    assert machine.told == ["reset", "powerdown", "quit 0"]


def test_a_command_that_fails_says_why(hmp: Hmp, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigError("the guest has shut down")

    monkeypatch.setattr(machine, "cont", refuse)
    assert hmp.execute("cont") == "Error: the guest has shut down"


def test_help_lists_every_command(hmp: Hmp) -> None:
    listed = hmp.execute("help").splitlines() + hmp.execute("info").splitlines()
    assert sorted(listed) == sorted(command.usage for command in HMP_COMMANDS)
    assert hmp.execute("info help") == hmp.execute("info") == hmp.execute("help info")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sy", ["system_powerdown", "system_reset"]),
        ("x", ["x", "xp"]),
        ("info mt", ["mtree"]),
        ("info st", ["status"]),
        ("sa", ["savevm"]),
        ("help sto", ["stop"]),
        ("help info v", ["version"]),
        ("p/x $mh", []),
        ("p/x $s1", ["$s1", "$s10", "$s11"]),
        ("x/4xw 8+$pc", ["8+$pc"]),
        ("info status ", []),
        ("zz", []),
    ],
)
def test_completion(hmp: Hmp, line: str, words: list[str]) -> None:
    assert hmp.complete(line) == words
