"""Streams over real sockets, pipes, files and commands: whole, in order, and never in the way of who gives them up."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.core.errors import ChannelError
from emulator.migration.channel import Channel, connect, listen, parse_uri

T = TypeVar("T")
PATIENCE = 30
PATTERN = random.Random(1).randbytes(3 << 20)


def soon(act: Callable[[], T]) -> Future[T]:
    """What `act` does on a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def read_all(channel: Channel) -> bytes:
    data, piece = bytearray(), bytearray(1 << 16)
    while count := channel.read_into(memoryview(piece)):
        data += piece[:count]
    return bytes(data)


def iovec_of(*parts: memoryview) -> NDArray[np.uint64]:
    rows = [(np.frombuffer(part, np.uint8).ctypes.data, len(part)) for part in parts]
    return np.array(rows, np.uint64).reshape(-1, 2)


def open_descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Each test closes what it has opened, and the library what that needed."""
    before = open_descriptors()
    yield
    if Path("/proc/self/fd").exists():
        assert open_descriptors() <= before


@contextlib.contextmanager
def pair(kind: str, folder: Path) -> Iterator[tuple[Channel, Channel]]:
    """A channel to write to, and the one at which that arrives."""
    if kind == "fd-pipe":
        read, write = os.pipe()
        sender, listener = connect(parse_uri(f"fd:{write}")), listen(parse_uri(f"fd:{read}"))
    elif kind == "fd-socket":
        ours, theirs = socket.socketpair()
        sender, listener = connect(parse_uri(f"fd:{ours.detach()}")), listen(parse_uri(f"fd:{theirs.detach()}"))
    elif kind == "exec":
        fifo = folder / "fifo"
        os.mkfifo(fifo)
        listener = listen(parse_uri(f"exec:cat {shlex.quote(str(fifo))}"))
        sender = connect(parse_uri(f"exec:cat > {shlex.quote(str(fifo))}"))
    else:
        uri = {"tcp": "tcp:127.0.0.1:0", "tcp6": "tcp:[::1]:0", "unix": f"unix:{folder / 'socket'}"}[kind]
        listener = listen(parse_uri(uri))
        sender = connect(listener.address)
    receiver = listener.accept()
    try:
        yield sender, receiver
    finally:
        for channel in (sender, receiver):
            channel.shutdown()
            channel.close()
        listener.close()


SOCKETS = ("tcp", "unix", "fd-socket")
STREAMS = (*SOCKETS, "fd-pipe", "exec")


@pytest.mark.parametrize("kind", STREAMS)
def test_everything_arrives_in_order(kind: str, tmp_path: Path) -> None:
    with pair(kind, tmp_path) as (sender, receiver):
        arrived = soon(lambda: read_all(receiver))
        sender.write(b"")
        sender.write(b"first")
        sender.write(memoryview(np.arange(4, dtype=np.uint32)))
        sender.write(bytearray(PATTERN))
        sender.close()
        expected = b"first" + np.arange(4, dtype=np.uint32).tobytes() + PATTERN
        assert arrived.result(PATIENCE) == expected
        assert sender.two_way == receiver.two_way == (kind in SOCKETS)
        sender.close()


def test_ipv6_address(tmp_path: Path) -> None:
    with contextlib.suppress(ChannelError), pair("tcp6", tmp_path) as (sender, receiver):
        sender.write(b"x")
        assert receiver.read_into(memoryview(bytearray(2))) == 1


@pytest.mark.parametrize("kind", SOCKETS)
def test_both_ways_at_the_same_time(kind: str, tmp_path: Path) -> None:
    with pair(kind, tmp_path) as ends, ThreadPoolExecutor() as threads:

        def read_pattern(channel: Channel) -> bytes:
            data = bytearray(len(PATTERN))
            done = 0
            while done < len(data):
                done += channel.read_into(memoryview(data)[done:])
            return bytes(data)

        reads = [threads.submit(read_pattern, end) for end in ends]
        writes = [threads.submit(end.write, PATTERN) for end in ends]
        assert all(read.result(PATIENCE) == PATTERN for read in reads)
        assert all(write.result(PATIENCE) is None for write in writes)


@pytest.mark.parametrize("kind", STREAMS)
def test_scattered_memory_arrives_as_one_stream(kind: str, tmp_path: Path) -> None:
    """More rows than a call takes, of all lengths, none and a MiB among them, which the system cuts where it likes."""
    numbers = random.Random(2)
    memory = memoryview(bytearray(PATTERN))
    lengths = [0, 0, 1 << 20, *(numbers.choice((0, 1, 8, 4096, 5000)) for _ in range(5000)), 0, 300_000, 0]
    parts = [memory[start : start + length] for length in lengths for start in (numbers.randrange(1 << 20),)]
    iovec = iovec_of(*parts)
    before = iovec.copy()
    with pair(kind, tmp_path) as (sender, receiver):
        arrived = soon(lambda: read_all(receiver))
        sender.writev(iovec[:0])
        sender.writev(iovec)
        sender.writev(iovec[::-1])
        sender.close()
        assert arrived.result(PATIENCE) == b"".join(parts) + b"".join(parts[::-1])
    assert (iovec == before).all()


def test_rows_of_another_form_are_the_callers_mistake(tmp_path: Path) -> None:
    with pair("unix", tmp_path) as (sender, _):
        for rows in (np.zeros((1, 2), np.int64), np.zeros(2, np.uint64), np.zeros((1, 3), np.uint64)):
            with pytest.raises(ValueError, match="expected rows"):
                sender.writev(rows)  # type: ignore[arg-type]


def test_memory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pair("unix", tmp_path) as (sender, _), pytest.raises(ChannelError, match="Bad address"):
        sender.writev(np.array([(1, 10)], np.uint64))


# Giving up


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("how", ["write", "writev"])
def test_shutdown_frees_a_blocked_writer(kind: str, how: str, tmp_path: Path) -> None:
    """Nobody reads: the writer is stuck in the system, whenever it is freed, or not even in it yet."""
    memory = memoryview(bytearray(64 << 20))
    with pair(kind, tmp_path) as (sender, receiver):
        stuck = soon(lambda: sender.write(memory) if how == "write" else sender.writev(iovec_of(memory)))
        assert receiver.read_into(memoryview(bytearray(1)))
        sender.shutdown()
        sender.shutdown()
        with pytest.raises(ChannelError, match="was shut down"):
            stuck.result(PATIENCE)
        with pytest.raises(ChannelError):
            sender.write(b"x")
        sender.close()
        sender.close()
        sender.shutdown()


@pytest.mark.parametrize("kind", STREAMS)
def test_shutdown_frees_a_blocked_reader(kind: str, tmp_path: Path) -> None:
    with pair(kind, tmp_path) as (_, receiver):
        started = threading.Event()

        def read() -> int:
            started.set()
            return receiver.read_into(memoryview(bytearray(1)))

        stuck = soon(read)
        started.wait(PATIENCE)
        receiver.shutdown()
        with contextlib.suppress(ChannelError):
            assert stuck.result(PATIENCE) == 0


@pytest.mark.parametrize("kind", [*SOCKETS, "fd-pipe"])
@pytest.mark.parametrize("how", ["write", "writev"])
def test_a_peer_that_is_gone_is_an_error_for_the_writer(kind: str, how: str, tmp_path: Path) -> None:
    memory = memoryview(bytearray(32 << 20))
    with pair(kind, tmp_path) as (sender, receiver):
        receiver.close()
        with pytest.raises(ChannelError, match="the peer has closed the connection"):
            sender.write(memory) if how == "write" else sender.writev(iovec_of(memory))


def test_a_socket_raises_no_signal_whatever_its_disposition(tmp_path: Path) -> None:
    """A program that emulates may have given SIGPIPE back its default."""
    program = """if True:
        import signal, socket, numpy as np
        from emulator.migration.channel import ChannelError, connect, parse_uri
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        theirs.close()
        channel = connect(parse_uri(f"fd:{ours.detach()}"))
        memory = np.zeros(1, np.uint8)
        for write, data in (channel.write, b"x"), (channel.writev, np.array([(memory.ctypes.data, 1)], np.uint64)):
            try:
                write(data)
            except ChannelError as error:
                print(error)
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path.parent)
    assert result.stdout.count("the peer has closed the connection") == 2, result.stderr


# Listening


def test_port_zero_becomes_the_port_that_was_taken() -> None:
    listener = listen(parse_uri("tcp:127.0.0.1:0"))
    assert listener.address.port > 0
    with pytest.raises(ChannelError, match=f"cannot listen on tcp:127.0.0.1:{listener.address.port}: Address already"):
        listen(listener.address)
    listener.close()
    listen(listener.address).close()


def test_listening_everywhere_must_be_asked_for() -> None:
    with pytest.raises(ChannelError, match="spell out the address"):
        listen(parse_uri("tcp::0"))


def test_one_listener_serves_one_connection_after_another(tmp_path: Path) -> None:
    listener = listen(parse_uri(f"unix:{tmp_path / 'socket'}"))
    for number in range(3):
        sender = connect(listener.address)
        receiver = listener.accept()
        sender.write(bytes([number]))
        sender.close()
        assert read_all(receiver) == bytes([number])
        receiver.close()
    listener.close()


@pytest.mark.parametrize("uri", ["tcp:127.0.0.1:0", "unix:{}/socket"])
def test_closing_frees_who_waits_for_a_connection(uri: str, tmp_path: Path) -> None:
    listener = listen(parse_uri(uri.format(tmp_path)))
    waiting = soon(listener.accept)
    listener.close()
    listener.close()
    with pytest.raises(ChannelError, match="is closed"):
        waiting.result(PATIENCE)
    with pytest.raises(ChannelError, match="is closed"):
        listener.accept()
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_connection_can_have_an_end(tmp_path: Path) -> None:
    listener = listen(parse_uri(f"unix:{tmp_path / 'socket'}"))
    with pytest.raises(ChannelError, match="nobody has connected"):
        listener.accept(timeout=0.01)
    listener.close()


def test_socket_file_of_a_dead_process_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listener = listen(parse_uri(f"unix:{path}"))
    with pytest.raises(ChannelError, match="Address already in use"):
        listen(parse_uri(f"unix:{path}"))
    connect(listener.address).close()
    listener.close()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ChannelError, match="Address already in use"):
        listen(parse_uri(f"unix:{path}"))
    assert path.read_text() == "mine"


# Connecting


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("unix:{}/none", "No such file"),
        ("unix:{}/" + "x" * 200, "too long"),
        ("file:{}/none/file", "No such file"),
        ("file:{}", "Is a directory"),
        ("fd:999999", "Bad file descriptor"),
        ("tcp:..:1", "cannot connect to tcp:..:1: that can be no host's name"),
    ],
)
def test_who_cannot_be_reached_is_named(uri: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=why) as caught:
        connect(parse_uri(uri.format(tmp_path)))
    assert str(caught.value).startswith("cannot connect to ")
    assert str(caught.value).isprintable()


def test_nobody_listens() -> None:
    listener = listen(parse_uri("tcp:127.0.0.1:0"))
    listener.close()
    with pytest.raises(ChannelError, match=f"cannot connect to tcp:127.0.0.1:{listener.address.port}: .*refused"):
        connect(listener.address)


def test_server_that_accepts_nobody_costs_no_more_than_the_timeout(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)

        def crowd() -> None:
            for _ in range(3):
                waiting.callback(connect(parse_uri(f"unix:{path}"), timeout=0.05).close)

        with pytest.raises(ChannelError, match="timed out"):
            crowd()


# Descriptors


def test_what_is_no_stream_is_refused_and_stays_open(tmp_path: Path) -> None:
    read, write = os.pipe()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    folder = os.open(tmp_path, os.O_RDONLY)
    for opened, fd, why in (
        (connect, read, "not open for writing"),
        (listen, write, "not open for reading"),
        (connect, datagram.fileno(), "no stream socket"),
        (listen, folder, "neither a socket nor a pipe nor a file"),
    ):
        with pytest.raises(ChannelError, match=why):
            opened(parse_uri(f"fd:{fd}"))
    datagram.close()
    for fd in (read, write, folder):
        os.close(fd)


def test_a_pipe_is_given_back_as_it_came() -> None:
    read, write = os.pipe()
    kept = os.dup(write)
    channel = connect(parse_uri(f"fd:{write}"))
    assert not os.get_blocking(kept)
    channel.close()
    assert os.get_blocking(kept)
    os.close(read)
    os.close(kept)


def test_descriptor_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sender = connect(parse_uri(f"fd:{os.open(path, os.O_CREAT | os.O_WRONLY)}"))
    sender.write(PATTERN)
    sender.close()
    receiver = listen(parse_uri(f"fd:{os.open(path, os.O_RDONLY)}")).accept()
    assert read_all(receiver) == PATTERN
    receiver.close()


# Files


@pytest.mark.parametrize("offset", [0, 0x1000, 12345])
def test_file_with_and_without_offset(offset: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xee" * 50_000)
    uri = parse_uri(f"file:{path},offset=0x{offset:x}")
    sender = connect(uri)
    sender.write(b"stream")
    sender.close()
    assert path.read_bytes() == b"\xee" * offset + b"stream"
    listener = listen(uri)
    receiver = listener.accept()
    assert read_all(receiver) == b"stream"
    receiver.close()
    with pytest.raises(ChannelError, match="one stream"):
        listener.accept()
    listener.close()


def test_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """It holds all of a guest's memory."""
    connect(parse_uri(f"file:{tmp_path / 'file'}")).close()
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_file_that_is_missing_when_listening(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"cannot listen on file:.*: No such file"):
        listen(parse_uri(f"file:{tmp_path / 'none'}"))


def test_disk_that_is_full_is_an_error(tmp_path: Path) -> None:
    """As good as: a limit on the size of files, which would send a signal, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    channel = connect(parse_uri(f"file:{tmp_path / 'file'}"))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        with pytest.raises(ChannelError, match=r"cannot write to file:.*: File too large"):
            channel.writev(iovec_of(memoryview(PATTERN)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
        channel.close()


def test_pipe_without_a_reader_does_not_hold_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ChannelError, match="cannot connect to file:"):
        connect(parse_uri(f"file:{tmp_path / 'fifo'}"))


# Commands


def test_command_has_finished_when_the_channel_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    channel = connect(parse_uri(f"exec:cat > '{path}.new' && mv '{path}.new' '{path}'"))
    channel.write(PATTERN)
    channel.close()
    assert path.read_bytes() == PATTERN


def test_command_that_fails_says_how() -> None:
    channel = connect(parse_uri("exec:cat > /dev/null; exit 3"))
    channel.write(PATTERN)
    with pytest.raises(ChannelError, match="exec:cat > /dev/null; exit 3 failed: exit status 3"):
        channel.close()
    channel.close()


def test_command_that_ends_early_says_how() -> None:
    channel = connect(parse_uri("exec:exit 4"))
    with pytest.raises(ChannelError, match="the command has ended, exit status 4"):
        channel.write(bytes(4 << 20))
    channel.shutdown()
    channel.close()


def test_command_is_read_from() -> None:
    receiver = listen(parse_uri("exec:printf abc; exit 0")).accept()
    assert read_all(receiver) == b"abc"
    receiver.close()
    receiver = listen(parse_uri("exec:printf abc; exit 5")).accept()
    assert read_all(receiver) == b"abc"
    with pytest.raises(ChannelError, match="exit status 5"):
        receiver.close()


def test_command_that_says_more_than_anybody_reads_has_not_failed() -> None:
    receiver = listen(parse_uri("exec:exec cat /dev/zero")).accept()
    assert receiver.read_into(memoryview(bytearray(10))) == 10
    receiver.close()


@pytest.mark.parametrize("command", ["exec sleep 1000", "trap '' TERM; while :; do sleep 1000; done"])
def test_command_that_was_given_up_is_not_waited_for(command: str, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    channel = connect(parse_uri(f"exec:{command.replace('while', f'echo > {path}; while')}"))
    if "trap" in command:
        path.read_text()  # it is deaf now
    closing = soon(channel.close)
    channel.shutdown()
    closing.result(PATIENCE)
    channel.close()


def test_commands_console_is_not_ours() -> None:
    """A command that reads its input or writes where the guest's console is would disturb that."""
    receiver = listen(parse_uri("exec:cat; echo $$ $(ps -o pgid= $$)")).accept()
    shell, group = read_all(receiver).split()
    assert shell == group != str(os.getpgrp()).encode()
    receiver.close()
