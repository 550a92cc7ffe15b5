"""A running guest goes out of mini-qemu into a real QEMU and back, and its timer goes on: 7.2 and 10.0.

`MINI_QEMU_ROUND_TRIPS` says how many times each [10].
"""

from __future__ import annotations

import lzma
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from emulators import Start
from processes import TOY, Emulator, wait_until

from emulator.boards.machinetypes import MACHINE_TYPES
from emulator.convert import convert

pytestmark = [pytest.mark.qemu("qemu-system-misc"), pytest.mark.slow, pytest.mark.timeout(1200)]

ROUND_TRIPS = int(os.environ.get("MINI_QEMU_ROUND_TRIPS", "10"))
DATA = Path(__file__).parents[1] / "data" / "streams"
COUNT = re.compile(rb"count (\d+)\r\n")
ADDRESS = "tcp:127.0.0.1:0"


class Release(NamedTuple):
    """A QEMU release: how to start it, and the machine types to use here and there."""

    start: Start
    here: str
    there: str


@pytest.fixture(params=["7.2", "10.0", "10.0, acpi=off"])
def release(request: pytest.FixtureRequest) -> Release:
    number, _, acpi = request.param.partition(", ")
    start = request.getfixturevalue("qemu_7_2" if number == "7.2" else "qemu_10_0")
    return Release(start, f"virt-{number}" + (f",{acpi}" if acpi else ""), "virt" + (f",{acpi}" if acpi else ""))


def move(source: Emulator, destination: Emulator) -> None:
    """Move the guest, and see that it runs there and nowhere else."""
    status = source.migrate(destination.listen(ADDRESS))
    assert status == "completed", source.migration_error
    destination.wait_for_status("completed")
    assert source.run_state != "running"
    wait_until(lambda: (source.run_state, destination.run_state) == ("postmigrate", "running"))  # QEMU takes a moment


def begin_to_count(side: Emulator) -> None:
    """Start `count` in a guest that has just been started, once it can be typed at."""
    side.serial.wait_for(rb"toy> $")
    side.ask("count", rb"count 1\r\n")


def next_count(side: Emulator) -> tuple[int, float]:
    """The number of the next line of `count`, and when it came."""
    found = side.serial.wait_for(COUNT.pattern, start=len(side.serial.data))
    return int(found[1]), time.monotonic()


def test_a_counting_guest_goes_out_and_back(mini_qemu: Start, release: Release) -> None:
    side = mini_qemu("-M", release.here, "-kernel", str(TOY))
    side.serial.wait_for(rb"toy> $")
    side.ask("count", rb"count\r\n")
    side.ask("dirty 50", rb"0 errors\r\n")
    said = bytearray()
    for hop in range(2 * ROUND_TRIPS):
        options = ("-incoming", "defer")
        goes_out = hop % 2 == 0
        other = release.start("-M", release.there, *options) if goes_out else mini_qemu("-M", release.here, *options)
        next_count(side)
        move(side, other)
        said += side.serial.data
        side.close()
        side = other
        number, begin = next_count(side)
        if hop < 4:  # it takes a while, and it is the same each time
            for _ in range(2):
                later, at = next_count(side)
            assert later == number + 2
            assert at - begin == pytest.approx(2, rel=0.25)
        side.ask("dirty", rb" passes, 0 errors\r\n")
    said += side.serial.data
    counts = [int(number) for number in COUNT.findall(bytes(said))]
    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) >= 2 * ROUND_TRIPS


def test_tls_with_the_same_certificates_and_options(mini_qemu: Start, release: Release, certificates: Path) -> None:
    client = ("-object", f"tls-creds-x509,id=tls0,dir={certificates},endpoint=client")
    server = ("-incoming", "defer", "-object", f"tls-creds-x509,id=tls0,dir={certificates},endpoint=server")
    begin = ("-kernel", str(TOY))
    for source, destination in (
        (mini_qemu("-M", release.here, *begin, *client), release.start("-M", release.there, *server)),
        (release.start("-M", release.there, *begin, *client), mini_qemu("-M", release.here, *server)),
    ):
        begin_to_count(source)
        for side in (source, destination):
            side.parameters(tls_creds="tls0")
        move(source, destination)
        next_count(destination)


@pytest.mark.parametrize("kind", ["unix", "file", "exec"])
def test_a_guest_comes_in_over(mini_qemu: Start, release: Release, tmp_path: Path, kind: str) -> None:
    """QEMU 7.2 does not know `file:`; what it has written by way of `exec:` is read as a file."""
    there = release.start("-M", release.there, "-kernel", str(TOY))
    begin_to_count(there)
    path = tmp_path / "stream"
    outgoing, incoming = {
        "unix": (f"unix:{path}", f"unix:{path}"),
        "file": (
            f"exec:cat > {path}.part; mv {path}.part {path}" if release.here == "virt-7.2" else f"file:{path}",
            f"file:{path}",
        ),
        "exec": (f"exec:cat > {path}.part; mv {path}.part {path}", f"exec:cat {path}"),
    }[kind]
    here = mini_qemu("-M", release.here, "-incoming", "defer")
    if kind == "unix":
        here.listen(incoming)
    assert there.migrate(outgoing) == "completed"
    if kind != "unix":
        wait_until(path.exists)  # QEMU does not wait for the command
        here.listen(incoming)
    here.wait_for_status("completed")
    here.serial.wait_for(rb"count [3-9]\r\n")


def test_between_two_qemus_the_timer_is_lost_and_with_a_mini_qemu_in_between_it_is_not(
    mini_qemu: Start, qemu_7_2: Start
) -> None:
    incoming = ("-incoming", "defer")
    source = qemu_7_2("-kernel", str(TOY))
    begin_to_count(source)
    lost = qemu_7_2(*incoming)
    move(source, lost)
    lost.ask("help", rb"poweroff")
    time.sleep(3)
    assert not COUNT.search(lost.serial.data)  # QEMU's defect: this guest waits for ever
    between, last = mini_qemu("-M", "virt-7.2", *incoming), qemu_7_2(*incoming)
    move(lost, between)
    next_count(between)
    move(between, last)
    next_count(last)
    next_count(last)


def test_live_from_7_2_to_10_0(mini_qemu: Start, qemu_7_2: Start, qemu_10_0: Start) -> None:
    source = qemu_7_2("-kernel", str(TOY))
    begin_to_count(source)
    source.ask("dirty 50", rb"0 errors\r\n")
    between, last = mini_qemu("-M", "virt-10.0", "-incoming", "defer"), qemu_10_0("-incoming", "defer")
    move(source, between)
    next_count(between)
    move(between, last)
    next_count(last)
    last.ask("dirty", rb" passes, 0 errors\r\n")
    said = source.serial.data + between.serial.data + last.serial.data
    counts = [int(number) for number in COUNT.findall(said)]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.parametrize(("first", "last", "to"), [("7.2", "10.0", "virt-10.0"), ("10.0", "7.2", "virt-7.2")])
def test_by_convert_from_one_version_to_the_other(
    qemu_7_2: Start, qemu_10_0: Start, tmp_path: Path, first: str, last: str, to: str
) -> None:
    starts = {"7.2": qemu_7_2, "10.0": qemu_10_0}
    source = starts[first]("-kernel", str(TOY))
    begin_to_count(source)
    source.ask("dirty 50", rb"0 errors\r\n")
    assert source.migrate(f"exec:cat > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/in") == "completed"
    wait_until((tmp_path / "in").exists)  # QEMU does not wait for the command
    convert(tmp_path / "in", tmp_path / "out", MACHINE_TYPES[to])
    destination = starts[last]("-incoming", "defer")
    destination.listen(f"exec:cat {tmp_path / 'out'}")
    destination.wait_for_status("completed")
    next_count(destination)
    next_count(destination)
    destination.ask("dirty", rb" passes, 0 errors\r\n")


def test_without_the_cure_the_timer_is_lost(mini_qemu: Start, qemu_7_2: Start) -> None:
    source = mini_qemu("-M", "virt-7.2,qemu-timer-fix=off", "-kernel", str(TOY))
    begin_to_count(source)
    there = qemu_7_2("-incoming", "defer")
    move(source, there)
    there.ask("help", rb"poweroff")
    time.sleep(3)
    assert not COUNT.search(there.serial.data)


def test_u_boot_answers_after_each_hop(mini_qemu: Start, release: Release) -> None:
    """OpenSBI in machine mode with its PMP entries, U-Boot above it in supervisor mode."""
    payload = "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"
    firmware = "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"
    options = ("-bios", firmware, "-kernel", payload, "-m", "128M")
    side = mini_qemu("-M", release.here, *options)
    side.serial.wait_for(rb"Hit any key")
    side.ask("", rb"=> $")
    for hop in range(6):
        incoming = ("-m", "128M", "-incoming", "defer")
        goes_out = hop % 2 == 0
        other = release.start("-M", release.there, *incoming) if goes_out else mini_qemu("-M", release.here, *incoming)
        move(side, other)
        other.ask(f"echo hop{hop}; sleep 1; version", rb"hop\d\r\n(?s:.*)U-Boot 20\d\d(?s:.*)=> $")
        side.close()
        side = other


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ("-m 32M", "", rb"riscv_virt_board.ram .*\(is -m the same as where this comes from, 16M\?\), got .*"),
        ("", "-cpu rv64", rb"cpu env.misa_ext at byte \w+: expected .*-cpu sifive-u54: .* got 0x\w+ \(also H\)"),
        (
            "",
            "-smp 2",
            rb"cpu_common\[1\] .*\(leave out the device or CPU that has it where this comes from\), got .*",
        ),
        ("", "-device virtio-rng-device", rb".*/virtio-rng .*\(leave out the device .*\), got .*"),
    ],
)
def test_what_does_not_fit_is_refused_here_and_goes_on_there(
    mini_qemu: Start, qemu_7_2: Start, here: str, there: str, words: bytes
) -> None:
    """With `return-path` QEMU waits for the answer, as every source here does."""
    source = qemu_7_2("-kernel", str(TOY), *there.split())
    source.capabilities(return_path=True)
    begin_to_count(source)
    destination = mini_qemu("-M", "virt-7.2", "-incoming", "defer", *here.split())
    assert source.migrate(destination.listen(ADDRESS)) == "failed"
    destination.errors.wait_for(rb"no guest has come: " + words + rb"\n$")
    wait_until(lambda: source.run_state == "running")
    next_count(source)


def test_a_stream_of_a_newer_version_is_refused_here(mini_qemu: Start, tmp_path: Path) -> None:
    """QEMU's next version of section `cpu` may come any day."""
    stream = lzma.decompress((DATA / "virt-10.0.stream.xz").read_bytes())
    section = b"\x03cpu" + bytes(4)
    path = tmp_path / "stream"
    path.write_bytes(stream.replace(section + (10).to_bytes(4, "big"), section + (11).to_bytes(4, "big")))
    destination = mini_qemu("-M", "virt-10.0", "-incoming", "defer")
    destination.listen(f"file:{path}")
    destination.errors.wait_for(rb"no guest has come: cpu .*version 5 to 10.*11")
