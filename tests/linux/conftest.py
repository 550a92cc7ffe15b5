"""What these tests share: a Linux that has been booted once, and shells in it on a terminal."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import linuxguest
import pexpect
import pytest

from emulator import Machine, Serial

PATIENCE_SECONDS = 90
TAG = "shell"


@pytest.fixture(autouse=True)
def linux(request: pytest.FixtureRequest) -> None:
    """There is a Linux, for the tests that need one."""
    if request.node.get_closest_marker("linux") and not linuxguest.INITRD.exists():
        pytest.skip("no Linux: make test-linux fetches it, or set MINI_QEMU_LINUX to the directory that has it")


@pytest.fixture
def machine() -> Callable[..., Machine]:
    """A machine that will boot Linux."""

    def make(kind: str = "virt", **options: object) -> Machine:
        images = {"bios": "default", "kernel": linuxguest.KERNEL, "initrd": linuxguest.INITRD}
        return Machine(kind, ram=linuxguest.RAM, append=linuxguest.APPEND, **images, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of snapshots with one of Linux at its prompt."""
    directory = tmp_path_factory.mktemp("booted")
    images = {"bios": "default", "kernel": linuxguest.KERNEL, "initrd": linuxguest.INITRD}
    with Machine(ram=linuxguest.RAM, append=linuxguest.APPEND, snapshots=directory, **images) as machine:
        machine.run(until=Serial(linuxguest.PROMPT), timeout=PATIENCE_SECONDS)
        machine.savevm(TAG)
    return directory


class Terminal(pexpect.spawn):
    """`mini-qemu run` on a terminal."""

    def __init__(self, *options: str) -> None:
        super().__init__(sys.executable, ["-m", "emulator", "run", *options], timeout=PATIENCE_SECONDS)
        self.delaybeforesend = None

    def begin(self, command: str) -> None:
        """Give the shell a command, up to where it runs."""
        self.send(f"echo be''gin; {command}; echo e''nd $?\r")  # what is typed, and echoed, differs from what is said
        self.expect(rb"begin\r+\n")

    def end(self) -> str:
        """What the command has said, when it has succeeded."""
        self.expect(rb"end (\d+)\r+\n")
        said = re.sub(r"\r+\n", "\n", self.before.decode())
        assert int(self.match[1]) == 0, said
        self.expect_exact(linuxguest.PROMPT)
        return said

    def ask(self, command: str) -> str:
        """What a shell command says, which must succeed."""
        self.begin(command)
        return self.end()

    def wait_for_exit(self) -> int:
        """The exit status, when the process has ended by itself."""
        self.expect(pexpect.EOF)
        self.close()
        assert isinstance(self.exitstatus, int)
        return self.exitstatus


@pytest.fixture
def run() -> Iterator[Callable[..., Terminal]]:
    """Starts mini-qemu on a terminal."""
    started: list[Terminal] = []

    def start(*options: str) -> Terminal:
        started.append(Terminal(*options))
        return started[-1]

    yield start
    for terminal in started:
        if terminal.isalive():
            terminal.kill(signal.SIGKILL)
            terminal.wait()
        terminal.close()


@pytest.fixture
def shell(run: Callable[..., Terminal], booted: Path) -> Terminal:
    """Linux at its prompt, as it was when it had been booted."""
    terminal = run(*linuxguest.options(), "-snapshots", str(booted), "-loadvm", TAG)
    terminal.send("\r")
    terminal.expect_exact(linuxguest.PROMPT)
    return terminal
