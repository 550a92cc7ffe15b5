"""Whatever happens to the connection, one machine runs the guest in the end, and its memory is what it was."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator import Elapsed, Machine, Serial
from emulator.migration import incoming, outgoing
from emulator.migration.peer import Peer
from emulator.migration.returnpath import Message, Said, message, put_typed
from emulator.migration.status import Status
from emulator.runstate import RunState

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
BACK_BEFORE_LOADED = 4 * 8
"""Bytes: the answers to HELLO and to the token, and when the destination has caught up."""
PATIENCE_SECONDS = 60
RANDOM_CUTS = 500
"""In each direction."""
SHORT_REDELIVERY_SECONDS = 3
"""Long enough for the other side, whatever else this computer does; a few cuts wait for all of it."""
RECEIVE_BYTES = 1 << 16
"""What the kernel may take of a stream that is not read."""

SOURCE_ERRORS = (
    r"cannot connect to tcp:127\.0\.0\.1:\d+: Connection reset by peer",
    r"the destination has closed the connection",
    r"cannot (write to|read from) tcp:127\.0\.0\.1:\d+: the peer has closed the connection",
    r"the destination refused: the stream ended too early: .+",
)
DESTINATION_ERRORS = (
    r"stream at byte 0x0: expected a migration stream, which begins with QEVM, got b'Q?E?V?'",
    r"the stream ended too early: .+",
    r"cannot (write to|read from) tcp:127\.0\.0\.1:\d+: the peer has closed the connection",
    r"the source has kept the guest, as the connection broke",
)
"""All that may be said of a connection that was cut."""

_libc = ctypes.CDLL(None)


class Cable:
    """A connection that can be cut: listens on `port`, and connects whoever comes with `target`.

    The first connection is cut when `forward` bytes have gone to the target, or `back` bytes have come from there (None
    is never); later ones are not. With `how="reset"` both ends hear of an error then, and not just of an end; with
    "stall" they hear nothing at all from there on.
    """

    def __init__(
        self, target: tuple[str, int], *, forward: int | None = None, back: int | None = None, how: str = "end"
    ) -> None:
        self._target = target
        self._how = how
        self._limits: list[tuple[int | None, int | None]] = [(forward, back)]
        self.passed = [0, 0]
        """Bytes of the first connection that have gone forward and come back."""
        self.was_cut = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Cut everything, and wait until nobody holds an end any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self._cut()
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        first = True
        with contextlib.suppress(OSError):
            while True:
                source, _ = self._listener.accept()
                try:
                    target = socket.create_connection(self._target, timeout=10)
                except OSError:
                    source.close()
                    continue
                target.settimeout(None)
                forward, back = self._limits.pop() if self._limits else (None, None)
                self._sockets += source, target
                for index, (read, write, limit) in enumerate(((source, target, forward), (target, source, back))):
                    thread = threading.Thread(
                        target=self._pump, args=(read, write, limit, index if first else None), daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()
                first = False

    def _pump(self, read: socket.socket, write: socket.socket, limit: int | None, index: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while limit is None or passed < limit:
                data = read.recv(65536 if limit is None else min(65536, limit - passed))
                if not data:
                    write.shutdown(socket.SHUT_WR)
                    return
                write.sendall(data)
                passed += len(data)
                if index is not None:
                    self.passed[index] = passed
            self.was_cut = True
            for end in (read, write) if self._how != "stall" else ():
                if self._how == "reset":
                    _libc.connect(end.fileno(), bytes(16), 16)  # to an address of no family: dissolve the connection
                else:
                    end.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Pair:
    """Two machines, one of which has the guest; it answers `crc` with the sum of memory that nobody writes to."""

    def __init__(self) -> None:
        self.here = Machine("virt", ram="16M", kernel=TOY)
        self.there = Machine("virt", ram="16M")
        self.here.run(until=Serial("toy> "), timeout=PATIENCE_SECONDS)
        self.crc = self.ask()
        self.here.cont()

    def command(self, line: str) -> bytes:
        """Type a line; what has been said up to the next prompt. The machine is running before and after."""
        self.here.stop()
        before = self.here.serial.sent
        self.here.serial.write(f"{line}\r")
        self.here.run(until=Serial("toy> "), timeout=PATIENCE_SECONDS)
        assert self.here.serial.sent > before
        answer = self.here.serial.output[-(self.here.serial.sent - before) :]
        self.here.cont()
        return answer

    def write_memory(self, rate: int, size: int | str = "") -> None:
        """Have the guest write so many MiB/s to so many MiB, all of which hold something when this returns."""
        self.command(f"dirty {rate} {size}")
        while b" 0 passes" in self.command("dirty"):
            self.rest()

    def rest(self) -> None:
        """Give the guest time to come to where it waits for input."""
        self.here.stop()
        self.here.run(until=Elapsed(0.05), timeout=PATIENCE_SECONDS)
        self.here.cont()

    def is_well(self) -> bool:
        """Have the guest look at all that it has written, and at its code."""
        return b", 0 errors" in self.command("dirty check") and self.ask() == self.crc

    def ask(self) -> bytes:
        """Have the guest add up its code."""
        return self.command("crc").rpartition(b"crc32 of ")[2].partition(b"\r")[0]

    def lay(self, **options: Any) -> Cable:
        """A cable to where the guest is expected."""
        host, _, port = self.there.migration.listen("tcp:127.0.0.1:0").removeprefix("tcp:").rpartition(":")
        self.address = host, int(port)
        return Cable(self.address, **options)

    def move(self, **options: Any) -> Cable:
        """Try to move the guest over a cable that may be cut; afterwards `here` is the machine that has it."""
        cable = self.lay(**options)
        try:
            self.here.migration.migrate(f"tcp:127.0.0.1:{cable.port}")
            status = self.here.migration.wait(PATIENCE_SECONDS)
            arrived = self.there.migration.incoming.wait_to_end(PATIENCE_SECONDS)
        finally:
            cable.close()
        assert arrived
        states = self.here.status, self.there.status
        if status is Status.COMPLETED:
            assert states == (RunState.POSTMIGRATE, RunState.RUNNING)
            assert self.there.migration.incoming.status is Status.COMPLETED
            self.here, self.there = self.there, self.here
        else:
            assert status is Status.FAILED
            assert says_why(self.here.migration.progress.error, SOURCE_ERRORS)
            assert states == (RunState.RUNNING, RunState.INMIGRATE)
            assert self.there.migration.incoming.status is Status.FAILED
            assert says_why(self.there.migration.incoming.error, DESTINATION_ERRORS)
        socket.create_server(self.address).close()  # somebody else can listen there now
        return cable

    def close(self) -> None:
        self.here.close()
        self.there.close()


def says_why(error: str | None, known: tuple[str, ...]) -> bool:
    """Whether this is one of the known errors, in one line; if not, who runs the test sees which it is."""
    assert error is not None
    assert re.fullmatch("|".join(known), error), error
    return True


@pytest.fixture
def pair() -> Iterator[Pair]:
    machines = Pair()
    yield machines
    machines.close()


def test_a_guest_moves_back_and_forth(pair: Pair) -> None:
    for _ in range(20):
        assert not pair.move().was_cut
        assert pair.ask() == pair.crc


def test_cancelling_comes_too_late_once_the_guest_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    say_go = Peer.say_go

    def cancel_first(peer: Peer, typed: bytes) -> None:
        after.migration.cancel()
        say_go(peer, typed)

    monkeypatch.setattr(Peer, "say_go", cancel_first)
    before, after = pair.there, pair.here
    pair.move()
    assert pair.here is before
    assert pair.ask() == pair.crc


@pytest.mark.parametrize(("end", "part"), [("forward", 0), ("forward", 0.5), ("back", 0), ("back", 0.5)])
def test_guest_goes_on_while_a_peer_stalls(pair: Pair, end: str, part: float) -> None:
    """It accepts and never reads, stops reading in the middle, reads everything and never answers, or only in part."""
    forward, back = pair.move().passed
    pair.write_memory(500)  # more than there is room for between the two
    before = pair.ask()
    cable = pair.lay(how="stall", **{end: int(part * {"forward": forward, "back": back}[end])})
    pair.here.migration.migrate(f"tcp:127.0.0.1:{cable.port}")
    assert not pair.here.migration.progress.wait_to_end(0.2)
    assert pair.here.status is RunState.RUNNING
    assert pair.ask() == before
    pair.here.migration.cancel()
    assert pair.here.migration.wait(PATIENCE_SECONDS) is Status.CANCELLED
    cable.close()
    assert pair.there.migration.incoming.wait_to_end(PATIENCE_SECONDS)
    assert (pair.here.status, pair.there.status) == (RunState.RUNNING, RunState.INMIGRATE)
    pair.move()
    assert pair.ask() == before


@pytest.mark.parametrize("limits", [{"forward": -1000}, {"back": BACK_BEFORE_LOADED}])
def test_guest_is_taken_back_if_the_peer_stalls_while_it_stands_still(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    monkeypatch.setattr(outgoing, "SWITCHOVER_SECONDS", 0.2)
    forward, _back = pair.move().passed
    cable = pair.lay(how="stall", **{end: count % forward for end, count in limits.items()})
    pair.here.migration.migrate(f"tcp:127.0.0.1:{cable.port}")
    assert pair.here.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert "has not taken the guest within" in (pair.here.migration.progress.error or "")
    assert pair.here.status is RunState.RUNNING
    assert pair.ask() == pair.crc
    cable.close()
    assert pair.there.migration.incoming.wait_to_end(PATIENCE_SECONDS)
    assert pair.there.status is RunState.INMIGRATE


def test_guest_is_taken_back_from_a_command_that_does_not_end(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "SWITCHOVER_SECONDS", 0.2)
    pair.here.migration.migrate("exec:cat > /dev/null; exec sleep 1000")
    assert pair.here.migration.wait(PATIENCE_SECONDS) is Status.FAILED
    assert "has not taken the guest within" in (pair.here.migration.progress.error or "")
    assert pair.here.status is RunState.RUNNING
    assert pair.ask() == pair.crc


def ends_of_messages(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Move the guest, at rest: how many bytes have gone forward at the end of each message, and back; from 0 to all."""
    forward = {0}

    def noting(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_and_note(inbox: Any, function: Callable[..., Any]) -> Any:
            result = parse(inbox, function)
            forward.add(inbox.offset)
            return result

        return parse_and_note

    with monkeypatch.context() as patch:
        patch.setattr(incoming._Inbox, "parse", noting(incoming._Inbox.parse))
        pair.rest()
        passed = pair.move().passed
    forward |= {passed[0] - len(put_typed(b"")), passed[0]}
    return sorted(forward), [*range(0, passed[1], len(message(Said(Message.PONG)))), passed[1]]


def cut_everywhere(pair: Pair, cuts: list[dict[str, Any]]) -> Counter[str]:
    """Move the guest with each of these cuts; how many of them it has survived at which side, with all its memory."""
    moved: Counter[str] = Counter()
    for cut in cuts:
        before = pair.here
        pair.move(**cut)
        moved["stayed" if pair.here is before else "moved"] += 1
        assert pair.is_well(), cut
    return moved


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_exactly_one_side_runs_the_guest_after_a_cut_behind_any_message(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """And in the middle of any; and at every byte of the way back, of which there are few."""
    monkeypatch.setattr(incoming, "REDELIVERY_SECONDS", SHORT_REDELIVERY_SECONDS)
    forward, back = ends_of_messages(pair, monkeypatch)
    cuts = [{"forward": count, "how": how} for count in forward]
    cuts += [{"forward": (begin + end) // 2, "how": how} for begin, end in itertools.pairwise(forward)]
    cuts += [{"back": count, "how": how} for count in range(back[-1] + 1)]
    moved = cut_everywhere(pair, cuts)
    assert ends_of_messages(pair, monkeypatch) == (forward, back)  # the cuts were where they were to be
    print(f"{len(forward)} messages forward, {len(back)} back; cut there and at every byte back: {dict(moved)}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_exactly_one_side_runs_the_guest_wherever_the_connection_is_cut(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At random bytes in both directions, while the guest writes to its memory."""
    monkeypatch.setattr(incoming, "REDELIVERY_SECONDS", SHORT_REDELIVERY_SECONDS)
    dice = random.Random(20)
    pair.write_memory(20, 1)
    forward, back = pair.move().passed
    cuts: list[dict[str, Any]] = []
    for _ in range(RANDOM_CUTS):
        for direction, length in (("forward", forward), ("back", back)):
            cuts.append({direction: dice.randrange(length), "how": dice.choice(("end", "reset"))})
    moved = cut_everywhere(pair, cuts)
    assert b" 0 errors" in pair.command("dirty")
    print(f"{len(cuts)} cuts in about {forward} bytes forward and {back} back: {dict(moved)}")
