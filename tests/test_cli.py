import os
import re
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from emulator.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "firmware/prebuilt/toy.elf"
COMMAND = [sys.executable, "-m", "emulator"]
BARE = ["run", "-bios", "none", "-m", "16M", "-kernel", str(TOY)]


def mini_qemu(*args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], cwd=ROOT, input=given, capture_output=True, text=True, timeout=60, check=False
    )


Spawn = Callable[..., "pexpect.spawn[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children = []

    def start(*args: str) -> "pexpect.spawn[bytes]":
        child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], *args], cwd=str(ROOT), timeout=30)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def ended(child: "pexpect.spawn[bytes]") -> int | None:
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus is None
    status: int | None = child.exitstatus
    return status


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("frob", "No such command 'frob'."),
        ("-M virt", "-M: options come behind a command, as in: mini-qemu run -M ..."),
        ("run -frobnicate", "-frobnicate: invalid option"),
        ("run --frobnicate", "--frobnicate: invalid option"),
        ("run -seriel stdio", "-seriel: invalid option (did you mean -serial?)"),
        ("run -m128M", "-m128M: invalid option"),
        ("run disk.img", "unexpected argument 'disk.img'"),
        ("run -", "-: invalid option"),
        ("run --", "--: invalid option"),
        ("run -m", "-m: requires an argument"),
        ("run -drive file=x", "-drive is not supported yet"),
        ("run -device virtio-net", "-device is not supported yet"),
        ("run -bios none -snapshots /nowhere -loadvm x", "-loadvm x: there is no snapshot 'x' in '/nowhere'"),
        ("run -bios none -snapshots /dev/null -loadvm x", "-loadvm x: cannot read '/dev/null': Not a directory"),
        ("snapshot list -snapshots /dev/null", "cannot read '/dev/null': Not a directory"),
        ("snapshot delete -snapshots /nowhere x", "cannot read '/nowhere': No such file or directory"),
        ("snapshot delete", "Missing argument 'TAG...'."),
        ("snapshot frob", "No such command 'frob'."),
        ("run -netdev user,id=n", "-netdev is not supported yet"),
        ("run -s", "-s is not supported yet"),
        ("run -gdb tcp::1", "-gdb is not supported yet"),
        ("run -display gtk", "-display gtk: there is no display, only none is supported"),
        ("run -serial null -serial null", "-serial: the board has one serial port"),
        ("run -d frob", "-d frob: there is no log item 'frob'; there are in_asm, int, exec, mmio, guest_errors, unimp"),
        ("run -D /nowhere/log", "-D /nowhere/log: No such file or directory"),
        ("run -icount shift=99", "icount: shift 99 is not between 0 and 10"),
    ],
)
def test_mistake_is_one_line_and_status_1(args: str, message: str) -> None:
    done = mini_qemu(*args.split())
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"mini-qemu: {message}\n")


@pytest.mark.parametrize(
    "args",
    [
        "-M pc",
        "-cpu cortex-a53",
        "-m lots",
        "-m 0",
        "-m 9999T",
        "-smp 2",
        "-smp x",
        "-bios /nowhere",
        "-bios none -kernel /nowhere",
        "-bios none -dtb /nowhere",
        "-bios none -append x",
        "-bios none -serial frob",
        "-bios none -monitor unix:/nowhere/m,server=on,wait=off",
        "-bios none -serial stdio -monitor stdio",
    ],
)
def test_impossible_machine_is_one_line_and_status_1(args: str) -> None:
    done = mini_qemu("run", *args.split())
    assert done.returncode == 1
    assert done.stderr.startswith("mini-qemu: ")
    assert done.stderr.count("\n") == 1


def test_no_command_shows_the_help() -> None:
    done = mini_qemu()
    assert done.returncode == 1
    assert re.search(r"run +Run a guest", done.stderr)


@pytest.mark.parametrize("args", [["--version"], ["run", "-version"], ["run", "--version"]])
def test_version(args: list[str]) -> None:
    done = mini_qemu(*args)
    assert (done.returncode, done.stdout) == (0, f"mini-qemu {VERSION}\n")


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_lists_options_as_qemu_spells_them(flag: str) -> None:
    done = mini_qemu("run", flag)
    assert done.returncode == 0
    assert "-no-reboot " in done.stdout
    assert "--no-reboot" not in done.stdout


def test_start_imports_nothing_that_a_guest_does_not_need() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *BARE, "-monitor", "stdio"],
        cwd=ROOT,
        input="info status\nquit\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "VM status: running" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"click", "emulator"} <= imported
    assert not imported & {"asyncio", "capstone", "numpy", "prompt_toolkit", "rich"}


def test_guest_chooses_the_exit_status(spawn: Spawn) -> None:
    guest = spawn(*BARE)
    guest.expect_exact("toy> ")
    guest.send("poweroff 7\r")
    assert ended(guest) == 7


def test_option_takes_two_dashes_as_well(spawn: Spawn) -> None:
    guest = spawn("run", "--nographic", "--bios", "none", "--kernel", str(TOY), "--no-reboot")
    guest.expect_exact("toy> ")
    guest.send("reboot\r")
    assert ended(guest) == 0


def test_monitor_shares_the_terminal(spawn: Spawn) -> None:
    guest = spawn(*BARE, "-nographic")
    guest.expect_exact("toy> ")
    guest.send("\x01c")
    guest.expect_exact(f"mini-qemu {VERSION} monitor - type 'help' for more information")
    guest.expect_exact("(qemu) ")
    guest.send("info stat\t\r")
    guest.expect_exact("VM status: running")
    guest.send("stop\rinfo status\r")
    guest.expect_exact("VM status: paused")
    guest.send("x/2i $pc\r")
    guest.expect(rb"0x00000000800[0-9a-f]{5}:  [0-9a-f]+ +[a-z.]+")
    guest.send("cont\r")
    guest.send("\x01cversion\r")
    guest.expect_exact("toy> ")
    guest.send("\x01c")
    guest.expect_exact("(qemu) ")
    guest.send("quit\r")
    assert ended(guest) == 0


def test_ctrl_a_b_sends_the_uart_a_break(spawn: Spawn) -> None:
    guest = spawn(*BARE, "-nographic", "-S")
    guest.send("\x01b\x01c")
    guest.expect_exact("(qemu) ")
    guest.send("xp/xb 0x10000005\r")
    guest.expect_exact("0000000010000005: 0x71")  # LSR: nothing to send, a break, data ready


def test_ctrl_a_x_quits(spawn: Spawn) -> None:
    guest = spawn(*BARE, "-nographic")
    guest.expect_exact("toy> ")
    guest.send("\x01x")
    assert ended(guest) == 0


def test_ctrl_c_reaches_the_guest_through_the_shared_terminal(spawn: Spawn) -> None:
    guest = spawn(*BARE, "-nographic")
    guest.expect_exact("toy> ")
    guest.send("\x03")
    guest.expect_exact("toy> ")
    guest.send("poweroff\r")
    assert ended(guest) == 0


@pytest.mark.parametrize(
    ("args", "prompt"),
    [("-serial stdio", "toy> "), ("-monitor stdio", "(qemu) "), ("-nographic -serial none", "(qemu) ")],
)
def test_ctrl_c_ends_a_plain_terminal_and_gives_it_back(spawn: Spawn, args: str, prompt: str) -> None:
    guest = spawn(*BARE, *args.split())
    before = termios.tcgetattr(guest.child_fd)
    guest.expect_exact(prompt)
    assert termios.tcgetattr(guest.child_fd) != before
    guest.send("\x03")
    guest.expect_exact("mini-qemu: terminating on signal 2")
    guest.expect(pexpect.EOF)
    assert guest.before == b"\r\n"
    assert termios.tcgetattr(guest.child_fd) == before
    assert ended(guest) == 128 + signal.SIGINT


def test_sigterm_ends_it_while_it_waits_for_a_client(tmp_path: Path) -> None:
    command = [*COMMAND, *BARE, "-serial", f"unix:{tmp_path / 's'},server=on"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "waiting for connection" in child.stderr.readline()
        child.terminate()
        assert child.wait(timeout=30) == 128 + signal.SIGTERM
        assert child.stderr.read() == "mini-qemu: terminating on signal 15\n"
    assert not (tmp_path / "s").exists()


def test_signal_is_announced_in_one_piece_and_when_the_console_is_closed(tmp_path: Path) -> None:
    command = [*COMMAND, *BARE, "-serial", f"unix:{tmp_path / 's'}"]
    reader, errors = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(30)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=errors) as child,
            errors,
            reader,
            listener.accept()[0] as console,
        ):
            console.settimeout(30)
            assert console.recv(1)
            fill(errors)  # from here on an announcement waits until somebody reads
            child.terminate()
            while console.recv(4096):
                pass
            while not (said := reader.recv(4096)):
                pass
            assert said == b"mini-qemu: terminating on signal 15\n"
            assert child.wait(timeout=30) == 128 + signal.SIGTERM


def fill(connection: socket.socket) -> None:
    """Send empty messages until there is room for no more."""
    connection.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            connection.send(b"")
    connection.setblocking(True)  # again, also for the process that shares it


def test_terminal_that_has_gone_does_not_change_the_exit_status() -> None:
    terminal, its_end = os.openpty()
    command = [*COMMAND, *BARE, "-monitor", "stdio"]
    with subprocess.Popen(command, cwd=ROOT, stdin=its_end, stdout=its_end, stderr=its_end) as child:
        os.close(its_end)
        seen = b""
        while b"(qemu) " not in seen:
            seen += os.read(terminal, 4096)
        os.close(terminal)
        child.send_signal(signal.SIGHUP)
        assert child.wait(timeout=30) == 128 + signal.SIGHUP


def test_full_standard_error_does_not_change_the_exit_status() -> None:
    command = [*COMMAND, *BARE, "-serial", "stdio"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.read(1)
        child.terminate()
        assert child.wait(timeout=30) == 128 + signal.SIGTERM


def test_commands_from_a_pipe_are_answered_plainly() -> None:
    done = mini_qemu(*BARE, "-S", "-monitor", "stdio", given="info status\np/x $pc\nquit\n")
    assert done.returncode == 0
    assert done.stdout == (
        f"mini-qemu {VERSION} monitor - type 'help' for more information\n"
        "(qemu) info status\nVM status: paused (prelaunch)\n(qemu) p/x $pc\n0x1000\n(qemu) quit\n"
    )


def test_monitor_on_a_socket_serves_one_client_after_the_other(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "monitor"
    guest = spawn(*BARE, "-monitor", f"unix:{path},server=on,wait=off")
    guest.expect_exact("toy> ")
    for line, answer in (("stop", "(qemu) (qemu) "), ("info status", "VM status: paused")):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(f"{line}\n".encode())
            seen = ""
            while answer not in seen:
                seen += client.recv(4096).decode()
            assert seen.startswith("mini-qemu ")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"quit\n")  # and goes without waiting
    assert ended(guest) == 0


def test_log_goes_to_a_file(tmp_path: Path, spawn: Spawn) -> None:
    log = tmp_path / "log"
    guest = spawn(*BARE, "-d", "int,guest_errors", "-D", str(log))
    guest.expect_exact("toy> ")
    guest.send("crash\r")
    guest.expect_exact("toy> ")
    guest.send("poweroff\r")
    assert ended(guest) == 0
    assert log.read_text() != ""


def test_output_survives_a_reader_that_goes_away() -> None:
    read_end, write_end = os.pipe()
    with subprocess.Popen([*COMMAND, *BARE, "-serial", "stdio"], cwd=ROOT, stdout=write_end, stdin=-1) as child:
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)
        assert child.stdin is not None
        child.stdin.write(b"\rpoweroff 3\r")
        child.stdin.flush()
        assert child.wait(timeout=30) == 3


def test_guest_starts_in_a_snapshot_and_goes_on(tmp_path: Path, spawn: Spawn) -> None:
    kept = ["-snapshots", str(tmp_path)]
    guest = spawn(*BARE, *kept)
    guest.expect_exact("toy> ")
    guest.send("echo before\x01c")
    guest.expect_exact("(qemu) ")
    guest.send("savevm half\tsavevm typed\r")  # no tag to complete: the tab is dropped
    guest.expect_exact("(qemu) ")
    guest.send("savevm typed\rquit\r")
    assert ended(guest) == 0
    guest = spawn("run", "-bios", "none", "-m", "16M", *kept, "-loadvm", "typed")
    guest.send(" and after\r")
    guest.expect_exact(" and after")
    guest.expect_exact("toy> ")
    guest.send("poweroff 7\r")
    assert ended(guest) == 7


def test_guest_that_starts_in_a_snapshot_waits_with_capital_s(tmp_path: Path) -> None:
    kept = ["-snapshots", str(tmp_path), "-monitor", "stdio"]
    mini_qemu(*BARE, *kept, given="savevm a\nquit\n")
    done = mini_qemu(*BARE, *kept, "-loadvm", "a", "-S", given="info status\ncont\ninfo status\nquit\n")
    assert re.findall("VM status: .*", done.stdout) == ["VM status: paused (prelaunch)", "VM status: running"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-m 32M", r"ram riscv_virt_board\.ram at byte \S+: .* \(is -m the same as where this comes from, 16M\?\).*"),
        ("-m 16M -icount shift=3", ".* expected a machine with -icount shift=3, got a machine without -icount"),
        ("-m 16M -loadvm aa", r"there is no snapshot 'aa' in '.*' \(did you mean 'a'\?\)"),
        (
            "-m 16M -loadvm damaged",
            "stream at byte 0x3e8: expected a description of itself at the stream's end, got none",
        ),
    ],
)
def test_snapshot_that_does_not_fit_is_one_line_and_status_1(tmp_path: Path, options: str, message: str) -> None:
    kept = ["-snapshots", str(tmp_path)]
    mini_qemu(*BARE, *kept, "-monitor", "stdio", given="savevm a\nquit\n")
    (tmp_path / "damaged.snapshot").write_bytes((tmp_path / "a.snapshot").read_bytes()[:1000])
    done = mini_qemu("run", "-bios", "none", *kept, "-loadvm", "a", *options.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"mini-qemu: -loadvm \w+: {message}\n", done.stderr)


@pytest.mark.parametrize("args", [["-h"], ["run", "-h"], ["run", "-version"], ["snapshot", "-h"]])
def test_help_for_a_full_disk_is_one_line_and_status_1(args: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *args], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, "mini-qemu: standard output: No space left on device\n")


def test_mistake_with_standard_error_closed_says_nothing_on_standard_output() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "run", "-frobnicate"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
