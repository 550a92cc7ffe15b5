"""Standard input and output that are pipes, files and nothing; each in a process of its own."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess

import pytest

PIPE = subprocess.PIPE

ECHO = """
done = threading.Event()
def echo():
    data = port.receive(1 << 16)
    port.send(data)
    if b"q" in data:
        done.set()
port.on_input = echo
chardev = open_chardev("stdio", port, loop)
done.wait()
chardev.close()
loop.close()
"""

SHOUT = """
chardev = open_chardev("stdio", port, loop)
for number in range(200_000):
    port.send(b"%07d\\n" % number)
chardev.close()
loop.close()
"""


def test_pipes_both_ways(spawn):
    child = spawn(ECHO, stdin=PIPE, stdout=PIPE)
    out, _ = child.communicate(b"some input, quit", timeout=20)
    assert out == b"some input, quit"
    assert child.returncode == 0


@pytest.mark.parametrize("stdin", ["null", "empty pipe", "closed"])
def test_end_of_input_is_normal_and_output_goes_on(spawn, stdin):
    options = {"null": {"stdin": subprocess.DEVNULL}, "empty pipe": {"stdin": PIPE}, "closed": {}}[stdin]
    if stdin == "closed":
        options["preexec_fn"] = lambda: os.close(0)
    child = spawn(SHOUT, stdout=PIPE, stderr=PIPE, **options)
    out, err = child.communicate(timeout=60)
    assert len(out) == 1_600_000
    assert out.endswith(b"0199999\n")
    assert (err, child.returncode) == (b"", 0)


def test_input_from_a_file_is_held_back_until_the_guest_reads(spawn, tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 300_000 + b"q")
    with (tmp_path / "in").open("rb") as source:
        child = spawn(ECHO, stdin=source, stdout=PIPE)
        out, _ = child.communicate(timeout=60)
    assert out == b"x" * 300_000 + b"q"


def test_output_to_a_file_is_appended_where_the_file_stands(spawn, tmp_path):
    with (tmp_path / "out").open("wb", buffering=0) as target:
        target.write(b"before\n")
        child = spawn(SHOUT, stdin=subprocess.DEVNULL, stdout=target)
        assert child.wait(60) == 0
        target.write(b"after\n")
    data = (tmp_path / "out").read_bytes()
    assert data.startswith(b"before\n0000000\n")
    assert data.endswith(b"0199999\nafter\n")
    assert len(data) == 1_600_000 + 13


def test_reader_that_leaves_early_kills_nothing(spawn):
    child = spawn(SHOUT, stdin=subprocess.DEVNULL, stdout=PIPE, stderr=PIPE)
    assert child.stdout.readline() == b"0000000\n"
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait(60) == 0


def test_close_waits_for_a_slow_reader_of_a_pipe(spawn):
    child = spawn(SHOUT, stdin=subprocess.DEVNULL, stdout=PIPE)
    got = b""
    while piece := os.read(child.stdout.fileno(), 1000):
        got += piece
    assert len(got) == 1_600_000


def test_closed_output_is_discarded(spawn):
    child = spawn(SHOUT, stdin=subprocess.DEVNULL, stderr=PIPE, preexec_fn=lambda: os.close(1))
    assert child.stderr.read() == b""
    assert child.wait(60) == 0


@pytest.mark.parametrize("ends", ["pipe", "tty", "socket"])
def test_shared_descriptions_are_never_made_non_blocking(spawn, ends, terminal, reads):
    if ends == "pipe":
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
    elif ends == "tty":
        (in_write, in_read), (out_read, out_write) = terminal, terminal
    else:
        pair = socket.socketpair()
        in_read = out_write = pair[0].fileno()
        in_write = out_read = pair[1].fileno()
    child = spawn(ECHO, stdin=in_read, stdout=out_write)
    os.write(in_write, b"hello\n")
    reads.until(out_read, b"hello")
    for fd in (in_read, out_write):
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    os.write(in_write, b"q\n")
    assert child.wait(20) == 0
    for fd in (in_read, out_write):
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    if ends == "pipe":
        for fd in (in_read, in_write, out_read, out_write):
            os.close(fd)
    elif ends == "socket":
        for end in pair:
            end.close()


def test_only_one_device_has_stdio(spawn):
    child = spawn(
        """
from emulator.core.errors import ChardevError
first = open_chardev("stdio", port, loop)
try:
    open_chardev("stdio", CharPort("other"), loop)
except ChardevError as error:
    port.send(str(error).encode())
first.close()
second = open_chardev("stdio", port, loop)
port.send(b"; again\\n")
second.close()
""",
        stdin=subprocess.DEVNULL,
        stdout=PIPE,
    )
    out, _ = child.communicate(timeout=20)
    assert out == b"stdio is already in use by another character device; again\n"


def test_full_disk_is_said(spawn):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        child = spawn(
            """
said = threading.Event()
def announce(line):
    print(line, file=sys.stderr, flush=True)
    said.set()
chardev = open_chardev("stdio", port, loop, announce=announce)
port.send(b"x")
said.wait()
chardev.close()
""",
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=PIPE,
        )
        _, err = child.communicate(timeout=20)
    assert err == b"standard output: No space left on device; further output of serial0 is lost\n"
