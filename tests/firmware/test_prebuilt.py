"""The committed guests: they are what their sources say, and they do on real QEMU what their README says."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

GUESTS = ("toy", "bench", "stress")
RAM_BASE = 0x8000_0000
COMPILER = "riscv64-unknown-elf-gcc"
PROMPT = rb"\r\ntoy> "

Start = Callable[..., Any]


def segments(path: Path) -> list[tuple[int, int, int, bytes]]:
    """(address, size in memory, flags, bytes in the file) of each loadable segment."""
    with path.open("rb") as file:
        found = [s for s in ELFFile(file).iter_segments() if s["p_type"] == "PT_LOAD"]
        return [(s["p_paddr"], s["p_memsz"], s["p_flags"], s.data()) for s in found]


def sequence(length: int) -> bytes:
    """What `tx` sends and `rx` expects, from firmware/README.md."""
    return bytes(33 + k % 89 for k in range(length))


# What the files are


def test_checksums_name_every_guest_and_match(firmware: Path) -> None:
    lines = (firmware / "prebuilt" / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (firmware / "prebuilt").glob("*.elf")}
    assert sums == files
    assert set(files) == {f"{name}.elf" for name in GUESTS}


@pytest.mark.parametrize("name", GUESTS)
def test_no_page_is_both_code_and_data(firmware: Path, name: str) -> None:
    code_pages: set[int] = set()
    data_pages: set[int] = set()
    for address, size, flags, _ in segments(firmware / "prebuilt" / f"{name}.elf"):
        pages = range(address // 4096, (address + size - 1) // 4096 + 1)
        (code_pages if flags & P_FLAGS.PF_X else data_pages).update(pages)
        assert not (flags & P_FLAGS.PF_X and flags & P_FLAGS.PF_W)
    assert code_pages
    assert data_pages
    assert not code_pages & data_pages


@pytest.mark.parametrize("name", GUESTS)
def test_entry_is_the_first_byte_of_ram_and_the_image_fits_below_the_device_tree(firmware: Path, name: str) -> None:
    path = firmware / "prebuilt" / f"{name}.elf"
    with path.open("rb") as file:
        assert ELFFile(file)["e_entry"] == RAM_BASE
    assert segments(path)[0][0] == RAM_BASE
    assert max(address + size for address, size, _, _ in segments(path)) <= RAM_BASE + (14 << 20)


@pytest.mark.parametrize("name", GUESTS)
def test_writable_segment_has_nothing_in_the_file(firmware: Path, name: str) -> None:
    assert [data for _, _, flags, data in segments(firmware / "prebuilt" / f"{name}.elf") if flags & P_FLAGS.PF_W] == [
        b""
    ]


@pytest.mark.qemu
def test_sources_rebuild_to_the_same_bits(firmware: Path, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is missing: install gcc-riscv64-unknown-elf")
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    built_with = (firmware / "prebuilt" / "TOOLCHAIN").read_text().splitlines()[0]
    if version != built_with:
        pytest.skip(f"prebuilt with {built_with}, this is {version}")
    make = ["make", "-C", str(firmware), f"BUILD={tmp_path}", "check"]
    result = subprocess.run(make, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warning" not in result.stderr


# The toy guest


@pytest.fixture
def toy(start: Start) -> Any:
    guest = start("toy")
    guest.expect(rb"toy guest [\d.]+, 16 MiB of RAM.*" + PROMPT)
    return guest


@pytest.mark.qemu
def test_help_lists_the_commands(toy: Any) -> None:
    toy.send(b"help\r")
    toy.expect(PROMPT)
    listed = {line.split()[0].decode() for line in toy.before.splitlines()[1:]}
    assert listed >= {
        "help",
        "uptime",
        "count",
        "crc",
        "dirty",
        "wfi",
        "poweroff",
        "reboot",
        "crash",
        "echo",
        "version",
    }


@pytest.mark.qemu
def test_crc_without_arguments_is_that_of_code_and_constants_in_the_file(toy: Any, firmware: Path) -> None:
    image = b"".join(data for _, _, _, data in segments(firmware / "prebuilt" / "toy.elf"))
    toy.send(b"crc\r")
    toy.expect(rb"crc32 of 0x80000000\+0x([0-9a-f]+): ([0-9a-f]{8})\r\n")
    assert int(toy.match[1], 16) == len(image)
    assert int(toy.match[2], 16) == zlib.crc32(image)


@pytest.mark.qemu
def test_crc_reports_the_first_address_that_cannot_be_read(toy: Any) -> None:
    toy.send(b"crc 0x80fffff0 32\r")
    toy.expect(rb"cannot read address 0x81000000" + PROMPT)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("how", "cause", "value"),
    [("", 2, 0xFFFF_FFFF), ("load", 5, 0), ("store", 7, 0), ("jump", 1, 0), ("ebreak", 3, None), ("ecall", 11, 0)],
)
def test_crash_prints_the_trap_and_returns_to_the_prompt(toy: Any, how: str, cause: int, value: int | None) -> None:
    toy.send(f"crash {how}\r".encode())
    toy.expect(rb"mcause ([0-9a-f]{16})  mepc [0-9a-f]{16}  mtval ([0-9a-f]{16})  ")
    assert int(toy.match[1], 16) == cause
    assert value is None or int(toy.match[2], 16) == value
    toy.expect(rb" t6 [0-9a-f]{16}" + PROMPT)
    toy.send(b"echo still  here\r")
    toy.expect(rb"\nstill  here\r\n")


@pytest.mark.qemu
def test_fault_inside_a_handler_ends_the_machine(toy: Any) -> None:
    toy.send(b"crash handler\r")
    toy.expect(rb"1 byte not readable at address 0\r\ntrap: illegal instruction")
    assert toy.exit_status() == 70


@pytest.mark.qemu
@pytest.mark.parametrize(("command", "status"), [(b"poweroff", 0), (b"poweroff 7", 7)])
def test_poweroff_code_is_the_exit_status(toy: Any, command: bytes, status: int) -> None:
    toy.send(command + b"\r")
    assert toy.exit_status() == status


@pytest.mark.qemu
def test_reboot_starts_over(toy: Any) -> None:
    toy.send(b"dirty 64 1\rreboot\r")
    toy.expect(rb"reboot\r\n.*toy guest .*" + PROMPT)
    toy.send(b"dirty\r")
    toy.expect(rb" 0 pages written, 0 passes, 0 errors")


@pytest.mark.qemu
def test_backspace_control_u_and_cursor_keys_edit_the_line(toy: Any) -> None:
    toy.send(b"nonsense\x15ecg\x08ho on\x7f\x7f\x1b[Dyes\r\n")
    toy.expect(rb"\nyes" + PROMPT)
    toy.send(b"echo one\necho two\r")  # CR LF was one line end, not two
    toy.expect_exact(b"echo one\r\none\r\ntoy> echo two\r\ntwo\r\ntoy> ")


@pytest.mark.qemu
def test_long_input_in_one_piece_loses_nothing(toy: Any) -> None:
    words = [f"word{n}" for n in range(2000)]
    toy.send("".join(f"echo {word}\r" for word in words).encode())
    for word in words:
        toy.expect_exact(f"\r\n{word}\r\ntoy> ".encode())


@pytest.mark.qemu
def test_count_goes_on_while_a_line_is_typed_and_keeps_it(toy: Any) -> None:
    toy.send(b"count\r")
    toy.expect(PROMPT)
    toy.send(b"echo hel")
    toy.expect_exact(b"count 1\r\ntoy> echo hel")
    toy.send(b"lo\r")
    toy.expect_exact(b"\r\nhello\r\n")
    toy.expect(rb"count (\d+)\r\n")
    last = int(toy.match[1])
    assert last >= 2
    toy.send(b"count stop\r")
    toy.expect(rb"count stopped at (\d+)\r\n")
    assert int(toy.match[1]) >= last


@pytest.mark.qemu
def test_dirty_writes_passes_and_finds_no_error(toy: Any) -> None:
    toy.send(b"dirty 512 1\r")
    toy.expect(PROMPT)
    passes = 0
    while passes < 3:  # each look takes a round trip; the pytest timeout bounds them all
        toy.send(b"dirty\r")
        toy.expect(rb"0x100000, (\d+) pages written, (\d+) passes, (\d+) errors\r\n")
        passes = int(toy.match[2])
        assert int(toy.match[1]) // 256 == passes
        assert int(toy.match[3]) == 0
    toy.send(b"dirty 0\rdirty check\r")
    toy.expect_exact(b"all pages checked, 0 errors\r\n")


@pytest.mark.qemu
def test_idle_guest_sleeps(toy: Any) -> None:
    toy.send(b"count\r")
    toy.expect_exact(b"count 1\r\n")
    toy.send(b"wfi\r")
    toy.expect(rb"sleeps (\d+)\r\nasleep (\d+\.\d+) s\r\nawake +(\d+\.\d+) s\r\ninterrupts: 0 software, (\d+) timer")
    assert int(toy.match[1]) >= 2
    assert float(toy.match[2]) > 0.5
    assert int(toy.match[4]) >= 1


@pytest.mark.qemu
def test_ram_size_comes_from_the_device_tree(start: Start) -> None:
    toy = start("toy", "128M")
    toy.expect(rb", 128 MiB of RAM.*" + PROMPT)
    toy.send(b"dirty 1\r")
    toy.expect(rb"\+0x4000000, ")


# The benchmark guest


@pytest.mark.qemu
def test_bench_checksums(start: Start) -> None:
    bench = start("bench")
    assert bench.exit_status() == 0
    lines = re.findall(rb"bench (\S+) (\d+) ([0-9a-f]{16})\r\n", bench.before)
    checksums = {name.decode(): int(checksum, 16) for name, _, checksum in lines}
    assert checksums["sieve"] == 4 * 148933  # primes below two million, four rounds
    assert checksums["fib"] == 2178309
    assert checksums["software-irq"] == checksums["timer-irq"] == 20000
    assert checksums["ecall"] == 100000
    assert checksums["uart-read"] == 100000 * 0x60  # LSR: everything sent, nothing received
    assert checksums["uart-write"] == sum(n % 256 for n in range(50000))
    assert checksums["mtime"] == 0


# The stress guest


@pytest.fixture
def stress(start: Start) -> Any:
    guest = start("stress")
    guest.expect_exact(b"stress ready\r\n")
    return guest


@pytest.mark.qemu
def test_tx_sends_the_sequence(stress: Any) -> None:
    stress.send(b"tx 20000\r\n")
    stress.expect(rb"\r\nok tx n=20000 errors=0 ticks=\d+\r\n")
    assert stress.before == sequence(20000)


@pytest.mark.qemu
def test_rx_accepts_the_sequence(stress: Any) -> None:
    stress.send(b"rx 20000\r\n")
    stress.expect_exact(b"go\r\n")
    stress.send(sequence(20000))
    stress.expect(rb"ok rx n=20000 errors=0 ticks=\d+\r\n")
    stress.send(b"quit\n")
    assert stress.exit_status() == 0


@pytest.mark.qemu
def test_rx_counts_a_doubled_and_a_lost_byte_as_one_error_each(stress: Any) -> None:
    data = sequence(1000)
    stress.send(b"rx 1000\r\n" + data[:100] + data[99:700] + data[701:])
    stress.expect(rb"FAIL rx n=1000 errors=2 ticks=\d+\r\n")
    stress.send(b"quit\n")
    assert stress.exit_status() == 1


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["amo", "lrsc"])
def test_increments_add_up(stress: Any, name: str) -> None:
    stress.send(f"{name} 10000000\n".encode())
    stress.expect(rb"ok \w+ n=10000000 sum=10000000 ticks=(\d+)\r\n")
    assert int(stress.match[1]) > 0


@pytest.mark.qemu
def test_floating_point_state_survives_interrupts(stress: Any) -> None:
    stress.send(b"fp 50\n")
    stress.expect(rb"ok fp n=50 errors=0 ticks=(\d+)\r\n")
    assert int(stress.match[1]) >= 100
