"""`mini-qemu run -incoming`: a process waits for a guest, which comes from another process or out of a file."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "firmware/prebuilt/toy.elf"
COMMAND = [sys.executable, "-m", "emulator", "run", "-bios", "none", "-m", "16M"]
SECONDS = 30

Spawn = Callable[..., "pexpect.spawn[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children = []

    def start(*args: str) -> pexpect.spawn[bytes]:
        child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], *args], cwd=str(ROOT), timeout=SECONDS)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


class Monitor:
    """Who talks to a human monitor that connects to a socket in the file system."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(SECONDS)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connected: socket.socket | None = None

    def ask(self, line: str) -> str:
        """Carry out a line; what the monitor says to it."""
        if self._connected is None:
            self._connected = self._listener.accept()[0]
            self._connected.settimeout(SECONDS)
            self._answer(self._connected)
        self._connected.sendall(f"{line}\n".encode())
        return self._answer(self._connected)

    def close(self) -> None:
        self._listener.close()
        if self._connected is not None:
            self._connected.close()

    @staticmethod
    def _answer(connected: socket.socket) -> str:
        said = b""
        while not said.endswith(b"(qemu) "):
            piece = connected.recv(4096)
            assert piece, f"the monitor has gone after {said!r}"
            said += piece
        return said.decode().replace("\r\n", "\n").removesuffix("(qemu) ").strip("\n")


Start = Callable[..., tuple["pexpect.spawn[bytes]", Monitor]]


@pytest.fixture
def start(spawn: Spawn, tmp_path: Path) -> Iterator[Start]:
    """Starts a machine, with its serial port on the terminal; its terminal and its monitor."""
    monitors: list[Monitor] = []

    def run(*args: str) -> tuple[pexpect.spawn[bytes], Monitor]:
        path = tmp_path / f"monitor{len(monitors)}"
        monitors.append(Monitor(path))
        return spawn("-serial", "stdio", "-monitor", f"unix:{path}", *args), monitors[-1]

    yield run
    for monitor in monitors:
        monitor.close()


def status_of(child: pexpect.spawn[bytes]) -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    print(child.before)  # its last words, should the status be another one
    status: int | None = child.exitstatus
    return status


def address(child: pexpect.spawn[bytes]) -> str:
    child.expect(rb"mini-qemu: waiting for a guest at (tcp:127\.0\.0\.1:\d+)\r\n")
    return child.match[1].decode()  # type: ignore[index, union-attr]


def test_guest_goes_on_counting_in_the_other_process(start: Start) -> None:
    target, here = start("-incoming", "tcp:127.0.0.1:0")
    where = address(target)
    source, there = start("-kernel", str(TOY))
    source.expect_exact("toy> ")
    source.send("count\r")
    source.expect_exact("count 1\r")
    assert there.ask(f"migrate {where}") == ""
    assert there.ask("info status") == "VM status: paused (postmigrate)"
    source.kill(signal.SIGTERM)
    assert status_of(source) == 128 + signal.SIGTERM
    counted = 1 + len(re.findall(rb"count \d+\r", source.before or b""))
    target.expect(rb"count (\d+)\r")
    assert isinstance(target.match, re.Match)
    assert int(target.match[1]) == counted + 1
    assert here.ask("info status") == "VM status: running"
    target.send("poweroff 7\r")
    assert status_of(target) == 7


def test_guest_that_arrives_stays_paused_with_capital_s(start: Start) -> None:
    target, here = start("-S", "-incoming", "tcp:127.0.0.1:0")
    where = address(target)
    source, there = start("-kernel", str(TOY))
    source.expect_exact("toy> ")
    assert here.ask("info status") == "VM status: paused (inmigrate)"
    there.ask(f"migrate {where}")
    assert here.ask("info status") == "VM status: paused"
    here.ask("cont")
    target.send("version\r")
    target.expect_exact("toy guest 1.0")


def test_defer_waits_for_migrate_incoming_and_outlives_a_failure(start: Start, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no stream")
    target, here = start("-incoming", "defer")
    source, there = start("-kernel", str(TOY))
    source.expect_exact("toy> ")
    assert here.ask(f"migrate_incoming file:{garbage}") == ""
    target.expect_exact("mini-qemu: no guest has come: stream at byte 0x0: expected a migration stream")
    assert here.ask(f"migrate_incoming unix:{tmp_path / 'channel'}") == ""
    assert there.ask(f"migrate unix:{tmp_path / 'channel'}") == ""
    target.send("poweroff 3\r")
    assert status_of(target) == 3
    assert not (tmp_path / "channel").exists()


@pytest.mark.parametrize("way", ["exec:cat", "file"])
def test_guest_comes_out_of_a_file(start: Start, tmp_path: Path, way: str) -> None:
    saved = tmp_path / "saved"
    source, there = start("-kernel", str(TOY))
    source.expect_exact("toy> ")
    assert there.ask(f'migrate "exec:cat >{saved}"' if way == "exec:cat" else f"migrate file:{saved}") == ""
    target, _here = start("-incoming", f"exec:cat {saved}" if way == "exec:cat" else f"file:{saved}")
    target.send("poweroff 5\r")
    assert status_of(target) == 5


def test_snapshot_file_is_a_guest_as_well(start: Start, tmp_path: Path) -> None:
    source, there = start("-kernel", str(TOY), "-snapshots", str(tmp_path))
    source.expect_exact("toy> ")
    assert there.ask("savevm a") == ""
    target, _here = start("-incoming", f"file:{tmp_path / 'a.snapshot'}")
    target.send("poweroff 5\r")
    assert status_of(target) == 5


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("frob", "frob is not a migration address; there are tcp:HOST:PORT, .*"),
        ("tcp::1", "cannot listen on tcp::1: spell out the address, .*"),
        ("unix:/nowhere/socket", "cannot listen on unix:/nowhere/socket: No such file or directory"),
        ("file:/nowhere", "cannot listen on file:/nowhere: No such file or directory"),
        ("fd:99", "cannot listen on fd:99: Bad file descriptor"),
        ("exec:false", "exec:false failed: exit status 1"),
        ("exec:echo hello", "stream at byte 0x0: expected a migration stream, .*"),
    ],
)
def test_guest_that_does_not_come_is_one_line_and_status_1(uri: str, message: str) -> None:
    done = subprocess.run(
        [*COMMAND, "-serial", "null", "-incoming", uri],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"mini-qemu: -incoming {uri}: ({message})\n", done.stderr)


def test_guest_comes_from_one_place() -> None:
    done = subprocess.run(
        [*COMMAND, "-incoming", "defer", "-loadvm", "a"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "mini-qemu: -incoming and -loadvm both say where the guest comes from: use one of them\n",
    )


@pytest.mark.parametrize(
    ("consoles", "uri"),
    [("", "fd:0"), ("-serial stdio", "fd:1"), ("-monitor stdio", "fd:2"), ("-serial null -qmp stdio", "fd:00")],
)
def test_console_and_guest_do_not_come_from_one_descriptor(consoles: str, uri: str) -> None:
    done = subprocess.run(
        [*COMMAND, *consoles.split(), "-incoming", uri],
        input="x",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    message = "standard input, output and error belong to the console"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"mini-qemu: -incoming {uri}: {message}\n")


def test_guest_comes_from_standard_input_where_no_console_is(start: Start, tmp_path: Path) -> None:
    source, there = start("-kernel", str(TOY))
    source.expect_exact("toy> ")
    assert there.ask(f"migrate file:{tmp_path / 'saved'}") == ""
    options = ["-serial", "null", "-monitor", f"unix:{tmp_path / 'monitor'}", "-incoming", "fd:0"]
    here = Monitor(tmp_path / "monitor")
    with (tmp_path / "saved").open() as saved, subprocess.Popen([*COMMAND, *options], cwd=ROOT, stdin=saved) as child:
        while here.ask("info status") != "VM status: running":
            pass
        child.terminate()
    here.close()


def test_connection_that_breaks_off_ends_the_process(start: Start) -> None:
    target, _here = start("-incoming", "tcp:127.0.0.1:0")
    port = int(address(target).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        client.sendall(b"QEVM")
    target.expect_exact("mini-qemu: -incoming tcp:127.0.0.1:0: ")
    assert status_of(target) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_waiting_and_removes_the_socket(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    channel = tmp_path / "channel"
    target, here = start("-incoming", f"unix:{channel}")
    while f"unix:{channel}" not in here.ask("info migrate"):
        pass
    target.kill(number)
    target.expect_exact(f"mini-qemu: terminating on signal {int(number)}")
    assert status_of(target) == 128 + number
    assert not channel.exists()


def test_ctrl_c_in_a_foreground_migration_cancels_it_and_not_the_process() -> None:
    command = [*COMMAND, "-kernel", str(TOY), "-serial", "null", "-monitor", "stdio"]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdin is not None
        child.stdin.write(f"migrate tcp:127.0.0.1:{silent.getsockname()[1]}\ninfo migrate\ninfo status\nquit\n")
        child.stdin.flush()
        connection, _ = silent.accept()
        with connection:
            connection.recv(4)
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=SECONDS)
    assert child.returncode == 0
    assert "Migration status: cancelled" in said
    assert "VM status: running" in said


def test_line_of_a_foreground_migration_keeps_off_the_guest_and_the_last_words(spawn: Spawn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        guest = spawn("-kernel", str(TOY))
        guest.expect_exact("toy> ")
        guest.send("\x01c")
        guest.expect_exact("(qemu) ")
        guest.send(f"migrate tcp:127.0.0.1:{silent.getsockname()[1]}\r")
        guest.expect_exact("\x1b[Ksetup ")
        guest.send("\x01ccount\r")
        guest.expect_exact("count 1\r")
        guest.expect_exact("count 2\r")  # ten times as long as from one line to the next
        assert b"setup" not in guest.before
        guest.send("\x01c")
        guest.expect_exact("setup ")
        guest.send("\x01x")
        guest.expect(rb"mini-qemu: terminated\r+\n")
        assert status_of(guest) == 0
        assert guest.before == b"\r\x1b[K"
