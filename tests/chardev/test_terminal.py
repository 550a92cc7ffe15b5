"""The user's terminal: raw while the emulator runs, as it was on every way out."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import termios

import pytest

RUN = """
mux = Mux([port], loop, on_quit=lambda: None)
def begin(spec):
    global chardev
    chardev = open_chardev(spec, mux if spec.startswith("mon:") else port, loop)
    port.send(b"ready")
    loop.run(lambda: None)
    chardev._output.wait_empty(20)
"""
FOREVER = "threading.Event().wait()\n"


def controlling():
    """In the child: let standard input be the controlling terminal of a session of its own."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def start(spawn, terminal, reads):
    """Start a program on the terminal, wait until it is raw, and return it with the modes from before."""

    def start(program, **options):
        master, slave = terminal
        before = termios.tcgetattr(slave)
        child = spawn(RUN + program, stdin=slave, stdout=slave, stderr=subprocess.PIPE, **options)
        reads.until(master, b"ready")
        return child, before

    return start


def test_raw_modes_leave_ctrl_c_to_the_system_or_to_the_guest(start, terminal):
    master, slave = terminal
    for spec, signals in (("stdio", True), ("mon:stdio", False)):
        child, before = start(f"port.on_input = lambda: os._exit(0)\nbegin('{spec}')\n" + FOREVER)
        iflag, oflag, _, lflag, _, _, cc = termios.tcgetattr(slave)
        assert not lflag & (termios.ECHO | termios.ICANON | termios.IEXTEN)
        assert not iflag & (termios.ICRNL | termios.IXON)
        assert oflag & termios.OPOST
        assert bool(lflag & termios.ISIG) == signals
        assert cc[termios.VMIN] in (1, b"\x01")
        os.write(master, b"x")
        assert child.wait(20) == 0
        termios.tcsetattr(slave, termios.TCSANOW, before)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("begin('stdio')\nchardev.close()\nloop.close()\n", 0),
        ("begin('mon:stdio')\nchardev.close()\nloop.close()\n", 0),
        ("begin('stdio')\nsys.exit(3)\n", 3),
        ("begin('stdio')\nraise RuntimeError('crash')\n", 1),
        ("begin('stdio')\ntry:\n    raise KeyboardInterrupt\nfinally:\n    chardev.close()\n", -signal.SIGINT),
    ],
)
def test_modes_are_restored_when_the_program_ends(start, terminal, program, status):
    child, before = start(program)
    assert child.wait(20) == status
    assert termios.tcgetattr(terminal[1]) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_modes_are_restored_by_fatal_signals_which_still_kill(start, terminal, number):
    child, before = start("begin('mon:stdio')\n" + FOREVER)
    assert termios.tcgetattr(terminal[1]) != before
    child.send_signal(number)
    assert child.wait(20) == -number
    assert termios.tcgetattr(terminal[1]) == before


def test_handler_of_the_program_is_left_alone(start, terminal):
    child, before = start(
        """
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
begin('stdio')
stop.wait()
chardev.close()
sys.exit(5)
"""
    )
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 5
    assert termios.tcgetattr(terminal[1]) == before


def test_ctrl_c_interrupts_under_stdio(start, terminal):
    child, before = start("begin('stdio')\n" + FOREVER, preexec_fn=controlling)
    os.write(terminal[0], b"\x03")
    assert child.wait(20) == -signal.SIGINT
    assert b"KeyboardInterrupt" in child.stderr.read()
    assert termios.tcgetattr(terminal[1]) == before


def test_ctrl_c_goes_to_the_guest_under_the_console(start, terminal, reads):
    child, before = start(
        """
seen = threading.Event()
port.on_input = seen.set
begin('mon:stdio')
seen.wait()
port.send(b"got %r" % port.receive(10))
chardev.close()
""",
        preexec_fn=controlling,
    )
    os.write(terminal[0], b"\x03\x1a\x1c")
    reads.until(terminal[0], b"\\x03")
    assert child.wait(20) == 0
    assert termios.tcgetattr(terminal[1]) == before


def test_ctrl_a_x_quits_though_the_guest_reads_nothing_and_the_terminal_shows_nothing(spawn, terminal, reads):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    child = spawn(
        """
from emulator.core.charport import INPUT_LIMIT
quits = threading.Event()
mux = Mux([port], loop, on_quit=quits.set)
chardev = open_chardev("mon:stdio", mux, loop)
port.send(b"ready")
loop.run(lambda: mux.feed(bytes(4 << 20)))
assert port.room == 0
print("full", file=sys.stderr, flush=True)
while not quits.is_set():
    port.send(bytes(1 << 16))
chardev.close()
loop.close()
""",
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    reads.until(master, b"ready")
    reads.until(child.stderr.fileno(), b"full")
    os.write(master, b"typed in vain \x01x")
    assert child.wait(20) == 0
    assert termios.tcgetattr(slave) == before


def test_a_terminal_that_vanishes_kills_nothing(spawn, reads):
    master, slave = os.openpty()
    child = spawn(
        RUN + "begin('stdio')\nfor _ in range(1000):\n    port.send(bytes(5000))\nchardev.close()\nsys.exit(7)\n",
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
    )
    reads.until(master, b"ready")
    os.close(slave)
    os.close(master)
    assert child.wait(60) == 7
    assert child.stderr.read() == b""


SHELL = """
import fcntl, subprocess, termios
for number in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP):
    signal.signal(number, signal.SIG_IGN)
before = termios.tcgetattr(0)
def default():
    for number in (signal.SIGTTOU, signal.SIGTTIN, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
job = subprocess.Popen([sys.executable, "-c", PROGRAM], process_group=0, preexec_fn=default, stdout=1, stderr=2)
os.tcsetpgrp(0, job.pid)
def until_stopped():
    _, status = os.waitpid(job.pid, os.WUNTRACED)
    return os.WIFSTOPPED(status) and os.WSTOPSIG(status)
def say(text):
    print(text, file=sys.stderr, flush=True)
assert until_stopped() == signal.SIGTSTP
os.tcsetpgrp(0, os.getpgrp())
say("stopped, as before: %s" % (termios.tcgetattr(0) == before))
sys.stdin.readline()
os.tcsetpgrp(0, job.pid)
os.kill(job.pid, signal.SIGCONT)
say("status %d" % os.waitstatus_to_exitcode(os.waitpid(job.pid, 0)[1]))
os.tcsetpgrp(0, os.getpgrp())
say("at the end, as before: %s" % (termios.tcgetattr(0) == before))
"""

JOB = """
seen = threading.Event()
port.on_input = seen.set
begin('stdio')
import termios
seen.wait()
assert not termios.tcgetattr(0)[3] & termios.ICANON
assert port.receive(1) == b'x'
chardev.close()
os._exit(9)
"""


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_makes_it_raw_again(spawn, prologue, terminal, reads):
    master, slave = terminal
    shell = spawn(
        f"PROGRAM = {prologue + RUN + JOB!r}\n" + SHELL,
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        preexec_fn=controlling,
    )
    reads.until(master, b"ready")
    os.write(master, b"\x1a")
    errors = shell.stderr.fileno()
    assert reads.until(errors, b"\n") == b"stopped, as before: True\n"
    os.write(master, b"fg\n")
    os.write(master, b"x")
    assert reads.until(errors, b"at the end, as before: True\n").startswith(b"status 9\n")
    assert shell.wait(20) == 0
