"""Live migrations between two processes, again and again; and when one of them is killed, stopped or hostile."""

from __future__ import annotations

import contextlib
import lzma
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import remote
from processes import TOY, Emulator, wait_until
from remote import Remote

Start = Callable[..., Emulator]

LOOPBACK = "tcp:127.0.0.1:0"
SAMPLES = Path(__file__).parents[1] / "data/streams"
STOPPED_SECONDS = 10


@pytest.fixture
def pair() -> Iterator[list[Remote]]:
    remotes = [Remote(kernel=TOY), Remote()]
    yield remotes
    for each in remotes:
        each.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_200_migrations_in_a_row(pair: list[Remote]) -> None:
    here, there = pair
    here.call(remote.boot)
    here.call(remote.type_at, "count\rdirty 50\r")
    spoken, heard = bytearray(), {here: 0, there: 0}

    def listen_to(speaker: Remote) -> None:
        output = speaker.call(remote.said)
        spoken.extend(output[heard[speaker] :])
        heard[speaker] = len(output)

    for number in range(200):
        here.call(remote.type_at, f"echo {number:04}\r")
        uri = there.call(remote.listen, LOOPBACK)
        there.begin(remote.wait_for_guest)
        assert here.call(remote.migrate, uri)[:2] == ("completed", None), number
        assert there.result() == "running"
        listen_to(here)
        here, there = there, here
    here.call(remote.type_at, "dirty check\rdirty\r")
    wait_until(lambda: re.search(rb" passes, \d+ errors", here.call(remote.said)[heard[here] :]))
    listen_to(here)
    assert re.findall(rb"(\d+) errors", spoken)[1:] == [b"0", b"0"]
    assert [int(number) for number in re.findall(rb"\r\n(\d{4})\r\n", spoken)] == list(range(200))
    counted = [int(number) for number in re.findall(rb"count (\d+)\r", spoken)]
    assert counted == list(range(1, len(counted) + 1))
    assert len(counted) > 5


def is_well(emulator: Emulator) -> bool:
    """Whether the guest that runs here finds its memory as it has left it."""
    return emulator.ask("dirty check", rb"checked, (\d+) errors")[1] == b"0"


def has_the_guest(emulator: Emulator) -> bool:
    return emulator.run_state == "running" and is_well(emulator)


def port_is_free(uri: str) -> bool:
    """Whether somebody else can listen there now."""
    host, _, port = uri.removeprefix("tcp:").rpartition(":")
    with socket.create_server((host, int(port))):
        return True


@pytest.fixture
def busy_source(source: Emulator) -> Emulator:
    """A process whose guest writes to all of its memory, and will not have gone before it is let go."""
    source.write_without_end()
    return source


# One of them dies


def test_a_destination_that_is_killed_leaves_the_guest_at_the_source(mini_qemu: Start, busy_source: Emulator) -> None:
    dice = random.Random(4)
    for _ in range(6):
        destination = mini_qemu("-incoming", "defer")
        uri = destination.listen(LOOPBACK)
        busy_source.execute("migrate", uri=uri)
        time.sleep(0.4 * dice.random())
        destination.process.kill()
        assert busy_source.wait_until_ended() == "failed"
        assert re.search("cannot write to tcp:|closed the connection", busy_source.migration_error)
        assert has_the_guest(busy_source)
        assert port_is_free(uri)


@pytest.mark.parametrize("status", ["pre-switchover", "device"])
def test_a_destination_that_is_killed_while_the_guest_stands_still(
    busy_source: Emulator, destination: Emulator, status: str
) -> None:
    busy_source.let_migration_end()
    busy_source.capabilities(pause_before_switchover=True)
    uri = destination.listen(LOOPBACK)
    busy_source.execute("migrate", uri=uri)
    busy_source.wait_for_status("pre-switchover")
    with destination.stopped():
        if status == "device":
            busy_source.execute("migrate-continue", state="pre-switchover")
            busy_source.wait_for_status("device")
        destination.process.kill()
    assert busy_source.wait_until_ended() == "failed"
    assert "closed the connection" in busy_source.migration_error
    assert has_the_guest(busy_source)
    assert port_is_free(uri)


def test_a_source_that_is_killed_leaves_a_destination_that_can_be_used(mini_qemu: Start, destination: Emulator) -> None:
    dice = random.Random(5)
    uri = destination.listen(LOOPBACK)
    for _ in range(4):
        source = mini_qemu("-kernel", str(TOY))
        source.serial.wait_for(rb"toy> $")
        source.write_without_end()
        source.execute("migrate", uri=uri)
        source.wait_for_status("active")
        time.sleep(0.4 * dice.random())
        source.process.kill()
        destination.wait_for_status("failed")
        assert "ended too early" in destination.migration_error
        assert destination.run_state == "inmigrate"
        assert port_is_free(uri)
        destination.listen(uri)


def test_an_expected_guest_that_does_not_come_ends_the_process(mini_qemu: Start, busy_source: Emulator) -> None:
    destination = mini_qemu("-incoming", LOOPBACK)
    uri = destination.errors.wait_for(rb"waiting for a guest at (\S+)\n")[1].decode()
    busy_source.execute("migrate", uri=uri)
    busy_source.wait_for_status("active")
    busy_source.execute("migrate_cancel")
    assert destination.wait_for_exit() == 1
    assert re.search(rb"mini-qemu: -incoming \S+: [^\n]+\n$", destination.errors.data)
    assert port_is_free(uri)


# One of them stands still


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_either_side_may_stand_still_for_ten_seconds(mini_qemu: Start) -> None:
    """Four pairs at a time: each side is stopped in the first pass, and while the guest stands still."""
    dice = random.Random(6)
    pairs, uris = [], []
    for _ in range(4):
        source, destination = mini_qemu("-kernel", str(TOY)), mini_qemu("-incoming", "defer")
        source.serial.wait_for(rb"toy> $")
        source.write_without_end()
        pairs.append((source, destination))
    victims = []
    for number, (source, destination) in enumerate(pairs):
        victims.append((source, destination)[number % 2])
        uris.append(destination.listen(LOOPBACK))
        if number < 2:
            source.execute("migrate", uri=uris[-1])
            source.wait_for_status("active")
            time.sleep(dice.random() * 0.2)  # of the second that this pass takes
        else:
            source.let_migration_end()
            source.capabilities(pause_before_switchover=True)
            source.execute("migrate", uri=uris[-1])
            source.wait_for_status("pre-switchover")
            destination.stand_still()
            source.execute("migrate-continue", state="pre-switchover")
            source.wait_for_status("device")
        victims[-1].stand_still()
        if victims[-1] is source:
            destination.go_on()
    time.sleep(STOPPED_SECONDS)
    for victim in victims:
        victim.go_on()
    for source, destination in pairs:
        source.let_migration_end()
        assert source.wait_until_ended() == "completed"
        destination.wait_for_status("completed")
        assert source.run_state == "postmigrate"
        assert has_the_guest(destination)
    assert all(port_is_free(uri) for uri in uris)


@pytest.mark.slow
def test_guest_goes_on_here_if_the_destination_stands_still_for_too_long(
    busy_source: Emulator, destination: Emulator
) -> None:
    """It has been told to wait no longer than a downtime, and 15 seconds, for the destination's word."""
    uri = destination.listen(LOOPBACK)
    busy_source.let_migration_end()
    busy_source.capabilities(pause_before_switchover=True)
    busy_source.execute("migrate", uri=uri)
    busy_source.wait_for_status("pre-switchover")
    with destination.stopped():
        busy_source.execute("migrate-continue", state="pre-switchover")
        assert busy_source.wait_until_ended() == "failed"
        assert busy_source.migration_error == "the destination has not taken the guest within 17 s"
        assert has_the_guest(busy_source)
    destination.wait_for_status("failed")
    assert re.search("ended too early|has kept the guest|closed the connection", destination.migration_error)
    assert destination.run_state == "inmigrate"
    assert port_is_free(uri)
    busy_source.capabilities(pause_before_switchover=False)
    assert busy_source.migrate(destination.listen(uri)) == "completed"
    assert has_the_guest(destination)


@pytest.mark.parametrize("reads", [False, True], ids=["never reads", "never answers"])
def test_guest_goes_on_here_while_a_peer_stalls(busy_source: Emulator, reads: bool) -> None:
    """Whoever waits for it may cancel; the guest has not noticed anything."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        uri = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        busy_source.execute("migrate", uri=uri)
        peer = stack.enter_context(server.accept()[0])
        if reads:
            assert peer.recv(4, socket.MSG_WAITALL) == b"QEVM"
        assert has_the_guest(busy_source)
        assert busy_source.execute("query-migrate")["status"] == "setup"
        busy_source.execute("migrate_cancel")
        assert busy_source.wait_until_ended() == "cancelled"
    assert has_the_guest(busy_source)


# What does not fit


def sample(name: str) -> bytes:
    return lzma.decompress((SAMPLES / f"{name}.stream.xz").read_bytes())


def with_other_cpu_version(stream: bytes) -> bytes:
    version = stream.index(b"\x03cpu\0\0\0\0") + 8
    return stream[:version] + (99).to_bytes(4, "big") + stream[version + 4 :]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "begins with QEVM"),
    "noise": (lambda: random.Random(7).randbytes(100_000), "stream"),
    "a program": (TOY.read_bytes, "begins with QEVM"),
    "a web browser": (lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "stream"),
    "another format": (lambda: b"QEVM\0\0\0\4", "version.* 4"),
    "half a stream": (lambda: sample("virt-7.2")[:20_000], "ended too early"),
    "another machine": (lambda: sample("virt-7.2").replace(b"virt", b"vart", 1), "machine type virt .*vart"),
    "another cpu": (lambda: with_other_cpu_version(sample("virt-7.2")), "cpu.*version.*99"),
    "blocks that are not here": (lambda: sample("virt-10.0"), "one of riscv_virt_board.ram, .* /rom@etc/acpi/tables"),
    "a mapped stream": (lambda: sample("virt-10.0-mapped")[: 1 << 20], "RAM as page records"),
}


def test_what_does_not_fit_is_refused_and_the_next_guest_is_taken(mini_qemu: Callable[..., Emulator]) -> None:
    source = mini_qemu("-M", "virt-7.2", "-kernel", str(TOY))
    source.serial.wait_for(rb"toy> $")
    destination = mini_qemu("-M", "virt-7.2", "-incoming", "defer")
    uri = LOOPBACK
    for name, (stream, error) in HOSTILE.items():
        uri = destination.listen(uri)
        host, _, port = uri.removeprefix("tcp:").rpartition(":")
        with socket.create_connection((host, int(port))) as hostile:
            with contextlib.suppress(OSError):  # it may be refused in the middle
                hostile.sendall(stream())
            with contextlib.suppress(OSError):
                hostile.shutdown(socket.SHUT_WR)
            destination.wait_for_status("failed")
        print(f"{name}: {destination.migration_error}")
        assert re.search(error, destination.migration_error), name
        assert destination.run_state == "inmigrate", name
        assert port_is_free(uri), name
    assert source.migrate(destination.listen(uri)) == "completed"
    assert has_the_guest(destination)


def test_a_stream_of_qemus_that_fits_is_taken(destination: Emulator) -> None:
    host, _, port = destination.listen(LOOPBACK).removeprefix("tcp:").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(sample("virt-7.2"))
    destination.wait_for_status("completed")
    assert destination.run_state == "running"
    destination.serial.wait_for(rb"\.\.")


def test_another_size_of_ram_is_refused_and_both_say_so(mini_qemu: Start, busy_source: Emulator) -> None:
    destination = mini_qemu("-incoming", LOOPBACK, "-m", "32M")
    uri = destination.errors.wait_for(rb"waiting for a guest at (\S+)\n")[1].decode()
    assert busy_source.migrate(uri) == "failed"
    assert re.search("the destination refused: .*riscv_virt_board.ram", busy_source.migration_error)
    assert destination.wait_for_exit() == 1
    assert re.search(rb"-incoming \S+: [^\n]*riscv_virt_board.ram[^\n]*\n$", destination.errors.data)
    assert port_is_free(uri)
    assert has_the_guest(busy_source)
