"""Peers that keep to the protocol and mean ill, or stop in the middle of it: who has the guest, and that it ends."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator import Machine, Serial
from emulator.boards.layout import RAM_BLOCK
from emulator.core.errors import ChannelError, ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration import incoming, outgoing, peer
from emulator.migration.channel import Address, Channel, TlsCredentials
from emulator.migration.comparison import ComparisonLog
from emulator.migration.errors import MigrationError
from emulator.migration.listener import CLIENTS
from emulator.migration.returnpath import ANSWER, CAUGHT_UP, GO, HELLO, LOADED, REFUSED, Message, Said, message
from emulator.migration.status import Status
from emulator.runstate import RunState
from emulator.transfer import Transfer

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
PATIENCE_SECONDS = 60
END = re.compile(rb"globalstate.{100,}\x7e.{4}\0$", re.DOTALL)
"""What is sent last: the footer of this section, and the mark behind all of them."""
TAIL = 4096
"""Bytes of the stream that certainly hold that."""


@pytest.fixture
def source(running_toy: Machine) -> Machine:
    return running_toy


@pytest.fixture
def target(empty_machine: Machine) -> Machine:
    return empty_machine


def receive(connection: socket.socket, ending: Callable[[socket.socket], None]) -> None:
    """Answer as a mini-qemu does until the whole guest has come, and then do `ending`."""
    hello, stream = HELLO.to_bytes(4, "big"), b""
    with connection, contextlib.suppress(OSError):
        while len(stream.partition(hello)[2]) < 9:  # a ping with the token follows
            stream += some_of(connection)
        token = int.from_bytes(stream.partition(hello)[2][5:9], "big")
        connection.sendall(b"".join(message(Said(Message.PONG, value)) for value in (HELLO, ANSWER, token)))
        while CAUGHT_UP.to_bytes(4, "big") not in stream:
            stream = stream[-TAIL:] + some_of(connection)
        connection.sendall(message(Said(Message.PONG, CAUGHT_UP)))
        while not END.search(stream):
            stream = stream[-TAIL:] + some_of(connection)
        ending(connection)


def some_of(connection: socket.socket) -> bytes:
    """What comes next; ConnectionError at the end."""
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the source has gone")
    return data


def migrate_to_one_that(ending: Callable[[socket.socket], None], source: Machine) -> Status:
    """Migrate over a socket pair to a peer that takes the whole guest and then does `ending`; how that has ended."""
    here, there = socket.socketpair()
    receiver = threading.Thread(target=receive, args=(there, ending))
    receiver.start()
    source.migration.migrate(f"fd:{here.detach()}")
    status = source.migration.wait(PATIENCE_SECONDS)
    receiver.join()
    return status


class Destination:
    """Receives from whoever connects first; those that come back later are accepted and hear nothing."""

    def __init__(self, ending: Callable[[socket.socket], None]) -> None:
        self._ending = ending
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.uri = f"tcp:127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._server.accept()[0]
                self._connections.append(connection)
                if len(self._connections) == 1:
                    receive(connection, self._ending)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()


def say(*words: Said) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(b"".join(map(message, words)))


def flood(connection: socket.socket) -> None:
    connection.sendall(message(Said(Message.SHUT, LOADED)))
    while True:
        connection.sendall(message(Said(Message.PONG, 7)) * 1000)


def chatter(connection: socket.socket) -> None:
    while True:
        connection.sendall(message(Said(Message.PONG, GO)) * 1000)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "REDELIVERY_SECONDS", 0.5)
    monkeypatch.setattr(peer, "WORD_SECONDS", 0.2)
    monkeypatch.setattr(outgoing, "SWITCHOVER_SECONDS", 0.2)
    monkeypatch.setattr(incoming, "REDELIVERY_SECONDS", 0.5)
    monkeypatch.setattr(incoming, "WORD_SECONDS", 0.2)


@pytest.mark.parametrize("ending", [say(Said(Message.SHUT, LOADED)), flood])
def test_a_destination_that_never_acknowledges_has_the_guest_and_the_migration_ends(
    source: Machine, monkeypatch: pytest.MonkeyPatch, ending: Callable[[socket.socket], None]
) -> None:
    impatient(monkeypatch)
    destination = Destination(ending)
    source.migration.migrate(destination.uri)
    assert source.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert "the destination has the whole guest" in (source.migration.progress.error or "")
    assert source.status is RunState.POSTMIGRATE
    destination.close()


def test_a_destination_that_acknowledges_and_goes_has_the_guest(source: Machine) -> None:
    """Nobody has to hear that it was heard."""

    def acknowledge_and_go(connection: socket.socket) -> None:
        connection.sendall(message(Said(Message.SHUT, LOADED)))
        heard = b""
        while GO.to_bytes(4, "big") not in heard:
            heard += connection.recv(4096)
        connection.sendall(message(Said(Message.PONG, GO)))
        connection.close()

    assert migrate_to_one_that(acknowledge_and_go, source) is Status.COMPLETED
    assert source.status is RunState.POSTMIGRATE


@pytest.mark.parametrize(
    "ending",
    [
        chatter,
        say(Said(Message.SHUT, REFUSED)),
        say(Said(Message.PONG, GO), Said(Message.REASON, text="x" * 1000)),
        lambda connection: connection.sendall(b"\0\1\xff\xff" + bytes(100_000)),
    ],
)
def test_a_destination_that_never_says_it_is_loaded_does_not_get_the_guest(
    source: Machine, monkeypatch: pytest.MonkeyPatch, ending: Callable[[socket.socket], None]
) -> None:
    impatient(monkeypatch)
    destination = Destination(ending)
    source.migration.migrate(destination.uri)
    assert source.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert source.status is RunState.RUNNING
    destination.close()


def test_guest_runs_where_a_source_falls_silent_after_its_last_word_but_one(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that the guest is given up, keeps the connection and is never heard of again."""
    impatient(monkeypatch)
    silent = threading.Event()
    monkeypatch.setattr(peer, "HEARD", b"")
    clean_up = outgoing.Outgoing._clean_up
    monkeypatch.setattr(outgoing.Outgoing, "_clean_up", lambda this: silent.wait(PATIENCE_SECONDS) and clean_up(this))
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert (source.status, target.status) == (RunState.POSTMIGRATE, RunState.RUNNING)
    silent.set()
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED


def test_guest_runs_where_it_was_given_to_if_what_was_typed_never_comes(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    monkeypatch.setattr(peer, "put_typed", lambda _data: b"")
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    source.migration.wait(PATIENCE_SECONDS)
    assert (source.status, target.status) == (RunState.POSTMIGRATE, RunState.RUNNING)


def test_destination_is_told_to_go_on_even_if_the_source_has_been_closed(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_transfer: Transfer) -> None:
        raise ConfigError("the machine has been closed")

    monkeypatch.setattr(Transfer, "give_up", closed)
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert target.status is RunState.RUNNING


def test_what_was_typed_at_the_source_comes_before_what_is_typed_at_the_destination(
    source: Machine, target: Machine
) -> None:
    source.migration.settings.enable({"pause-before-switchover": True})
    uri = target.migration.listen("tcp:127.0.0.1:0")
    target.serial.write("ho second\r")
    source.migration.migrate(uri)
    source.migration.progress.wait_while(Status.SETUP)
    source.migration.progress.wait_while(Status.ACTIVE)
    source.serial.write("echo first\rec")
    source.migration.go_on()
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    target.stop()
    if b"second\r\n" not in target.serial.output:
        target.run(until=Serial("second\r\n"), timeout=PATIENCE_SECONDS)
    assert target.serial.output.index(b"first\r\n") < target.serial.output.index(b"second\r\n")


def break_before_go(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], object]) -> None:
    """Have the connection break when everything is loaded, and the guest given up, and do `prepare` first."""
    say_go = peer.Peer.say_go

    def break_first(this: peer.Peer, typed: bytes) -> None:
        prepare()
        this.channel.shutdown()
        say_go(this, typed)

    monkeypatch.setattr(peer.Peer, "say_go", break_first)


def test_silent_strangers_do_not_keep_a_source_from_coming_back(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "REDELIVERY_SECONDS", 3)
    where = target.migration.listen("tcp:127.0.0.1:0")
    address = ("127.0.0.1", int(where.rpartition(":")[2]))
    with contextlib.ExitStack() as strangers:

        def come() -> None:
            for _ in range(CLIENTS - 1):  # as many as can wait for an answer beside the source
                strangers.enter_context(socket.create_connection(address))

        break_before_go(monkeypatch, come)
        source.migration.migrate(where)
        target.migration.wait_for_guest(PATIENCE_SECONDS)
        assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    assert (source.status, target.status) == (RunState.POSTMIGRATE, RunState.RUNNING)


def test_source_comes_back_as_it_came(source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set meanwhile is for the next migration."""
    break_before_go(monkeypatch, lambda: source.migration.settings.set({"tls-creds": "/nowhere"}))
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED


def test_why_a_destination_cannot_be_reached_again_is_told(
    source: Machine, target: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    break_before_go(monkeypatch, target.migration.close)
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    assert source.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert re.search(
        "it cannot be reached: cannot connect to tcp:.*: Connection refused", source.migration.progress.error or ""
    )


def test_a_descriptor_is_opened_once_as_its_number_may_be_of_something_else_afterwards(
    source: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the guest was given up, when a source comes back elsewhere."""
    impatient(monkeypatch)
    opened: list[Address] = []
    connect = source.migration._connect

    def note(address: Address, tls: TlsCredentials | None) -> Channel:
        opened.append(address)
        return connect(address, tls)

    monkeypatch.setattr(source.migration, "_connect", note)

    def load_and_break(connection: socket.socket) -> None:
        connection.sendall(message(Said(Message.SHUT, LOADED)))
        connection.close()

    assert migrate_to_one_that(load_and_break, source) is Status.FAILED
    assert source.status is RunState.POSTMIGRATE
    assert len(opened) == 1


def test_a_machine_that_sends_its_guest_away_expects_no_other(source: Machine, target: Machine) -> None:
    source.migration.settings.set({"max-bandwidth": 1})
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    with pytest.raises(MigrationError, match="in progress"):
        source.migration.listen("tcp:127.0.0.1:0")
    assert source.status is RunState.RUNNING
    source.migration.cancel()
    assert source.migration.wait(PATIENCE_SECONDS) is Status.CANCELLED
    assert source.status is RunState.RUNNING


def test_an_address_that_cannot_be_had_leaves_the_guest_running(source: Machine) -> None:
    with pytest.raises(ChannelError):
        source.migration.listen("tcp::0")
    assert source.status is RunState.RUNNING


def test_a_machine_that_is_gone_cannot_take_its_guest_back_and_the_migration_ends(
    source: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(**_for_whom: bool) -> None:
        raise ConfigError("the machine has been closed")

    monkeypatch.setattr(source.transfer, "freeze", gone)
    monkeypatch.setattr(source.transfer, "thaw", gone)
    source.migration.migrate("exec:cat > /dev/null")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert source.migration.progress.error == "the machine has been closed"


def test_a_guest_that_waits_for_its_terminal_can_be_sent_away(source: Machine, target: Machine) -> None:
    """Its output goes nowhere until somebody stops it, as where a terminal does not read."""
    hurried, waits = threading.Event(), threading.Event()

    def sink(_data: bytes) -> None:
        waits.set()
        hurried.wait(PATIENCE_SECONDS)

    source.on_stopping = lambda stopping: hurried.set() if stopping else None
    source.serial.port.sink = sink
    source.serial.write("count\r")
    assert waits.wait(PATIENCE_SECONDS)
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert target.status is RunState.RUNNING


@pytest.mark.parametrize(
    ("instance", "version", "again", "message"),
    [
        (0, 3, False, "expected version 4, got 3"),
        (1, 4, False, r"expected the start of RAM, got ram\[1\]"),
        (0, 4, True, "expected a part of RAM"),
    ],
)
def test_ram_that_is_not_as_announced_is_refused_as_it_is_in_a_file(
    source: Machine, target: Machine, tmp_path: Path, instance: int, version: int, again: bool, message: str
) -> None:
    source.save(tmp_path / "stream")
    stream = (tmp_path / "stream").read_bytes()
    name = b"\3ram" + struct.pack(">II", 0, 4)
    begin = stream.index(name) - 5  # a mark and the section's number stand before it
    head, ram = stream[:begin], stream[begin:].replace(name, name[:4] + struct.pack(">II", instance, version), 1)
    if again:
        part = ram.index(b"\2" + ram[1:5])
        ram = ram[:part] + b"\1" + struct.pack(">I", 77) + name + ram[part + 5 :]
    host, _, port = target.migration.listen("tcp:127.0.0.1:0").removeprefix("tcp:").rpartition(":")
    with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
        connection.sendall(head + ram)
    with pytest.raises(MigrationError, match=message):
        target.migration.wait_for_guest(PATIENCE_SECONDS)


def test_a_guest_that_stands_still_to_be_moved_does_not_become_another(
    source: Machine, target: Machine, tmp_path: Path
) -> None:
    source.save(tmp_path / "before")
    source.migration.settings.enable({"pause-before-switchover": True})
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    source.migration.progress.wait_while(Status.SETUP)
    source.migration.progress.wait_while(Status.ACTIVE)
    for change in (source.reset, target.reset, lambda: source.load(tmp_path / "before"), lambda: target.loadvm("any")):
        with pytest.raises(ConfigError, match="the guest is being moved"):
            change()
    source.migration.go_on()
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert target.status is RunState.RUNNING


def test_a_guest_that_becomes_another_while_it_is_sent_arrives_as_that_or_stays(
    source: Machine, target: Machine, tmp_path: Path
) -> None:
    source.save(tmp_path / "before")
    source.migration.settings.set({"max-bandwidth": 1})
    source.migration.migrate(target.migration.listen("tcp:127.0.0.1:0"))
    source.migration.progress.wait_while(Status.SETUP)
    source.load(tmp_path / "before")
    source.migration.settings.set({"max-bandwidth": 0})
    if source.migration.wait(PATIENCE_SECONDS) is Status.FAILED:
        assert "has become another guest's meanwhile" in (source.migration.progress.error or "")
        machine = source
    else:
        target.migration.wait_for_guest(PATIENCE_SECONDS)
        machine = target
    machine.stop()
    machine.serial.write("echo here\r")
    machine.run(until=Serial("here\r\n"), timeout=PATIENCE_SECONDS)


def script_dirty_log(monkeypatch: pytest.MonkeyPatch, written: list[int]) -> None:
    """So many pages of RAM are written during each pass, and none afterwards."""

    class Scripted(ComparisonLog):
        def __init__(self, blocks: Sequence[RamBlock]) -> None:
            super().__init__(blocks)
            self._left = [*written, 0]

        def collect(self, block: RamBlock) -> NDArray[np.bool_]:
            count = self._left.pop(0) if block.name == RAM_BLOCK else 0
            return np.arange(block.size // PAGE_SIZE) < count

    monkeypatch.setattr(outgoing, "open_dirty_log", Scripted)


def test_an_xbzrle_cache_is_no_larger_than_ram_can_need(
    source: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script_dirty_log(monkeypatch, [1000, 60])
    source.migration.settings.set({"xbzrle-cache-size": 1 << 40, "downtime-limit": 100_000})
    source.migration.settings.enable({"xbzrle": True})
    source.migration.migrate(f"file:{tmp_path / 'guest'}")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    figures = source.migration.progress.figures
    assert figures.xbzrle is not None
    assert figures.total <= figures.xbzrle.cache_size <= 2 * figures.total


@pytest.mark.parametrize(
    ("written", "passes"),
    [([1000, 400, 150, 60, 7], 4), ([1000, 900, 7], 2), ([60, 7], 1), ([2000, 900, 450, 449, 7], 4)],
)
def test_passes_are_made_as_long_as_each_halves_what_is_left(
    source: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: list[int], passes: int
) -> None:
    """All of what is written could be sent within the downtime limit."""
    script_dirty_log(monkeypatch, written)
    source.migration.settings.set({"downtime-limit": 100_000})
    source.migration.migrate(f"file:{tmp_path / 'guest'}")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    assert source.migration.progress.figures.pass_count == passes
