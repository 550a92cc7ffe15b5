"""`mini-qemu demo`: a guest is booted, saved, moved to a second process while it counts, and taken back.

The first machine is in this process, used through the public API; the second is `mini-qemu run -incoming`, and gets its
commands at its monitor, as a user would give them.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from emulator.core.errors import EmulatorError, MonitorError
from emulator.machine import Machine
from emulator.migration.status import Status
from emulator.sidebyside import Pane, SideBySide
from emulator.sizes import show_size

TOY = Path(__file__).parent / "guests" / "toy.elf"

PROMPT = "toy> "
TAG = "counting"

PATIENCE_SECONDS = 20.0
KEYSTROKE_SECONDS = 0.03
"""Between two keys, on a terminal: a reader should see somebody type."""
FRAME_SECONDS = 0.05
END_SECONDS = 5.0
"""How long the second process may take to end when it is told to."""


def run_demo() -> int:
    """Show it on standard output; returns the guest's exit status, or 1 if something does not come about."""
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="mini-qemu-demo-") as directory:
            return _Demo(console, Path(directory)).play()
    except (TimeoutError, EmulatorError) as error:
        console.print(f"mini-qemu: {error}", markup=False)
        return 1


class _SecondProcess:
    """`mini-qemu run -incoming` with its serial port on pipes and its monitor on a socket in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "monitor"
        self.output = bytearray()
        self.arguments = ["-bios", "none", "-m", "16M", "-incoming", "tcp:127.0.0.1:0"]
        quiet = [
            "-serial",
            "stdio",
            "-monitor",
            f"unix:{self._socket},server=on,wait=off",
            "-snapshots",
            str(directory),
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emulator", "run", *self.arguments, *quiet],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process, which ends that one
        )
        self._reader = threading.Thread(target=self._read, name="second console", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    @property
    def number(self) -> int:
        """Its process id."""
        return self._process.pid

    def address(self) -> str:
        """Where it waits for a guest, as soon as it says so."""
        assert self._process.stderr is not None
        said = self._process.stderr.readline().decode(errors="replace").strip()
        where = re.search(r"waiting for a guest at (\S+)", said)
        if where is None:
            raise MonitorError(f"the second process does not wait for a guest: {said}")
        return where[1]

    def type(self, text: str) -> None:
        """Type at its guest."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def monitor(self, line: str) -> str:
        """Give its monitor a command; what it says to that."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect(str(self._socket))
            _until_prompt(client)
            client.sendall(f"{line}\n".encode())
            return _until_prompt(client)

    def ended(self) -> bool:
        """Whether its guest has ended it."""
        return self._process.poll() is not None

    @property
    def status(self) -> int:
        """Its exit status."""
        return self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while piece := self._process.stdout.read1(4096):  # type: ignore[attr-defined]
            self.output += piece


def _until_prompt(client: socket.socket) -> str:
    said = b""
    while not said.endswith(b"(qemu) "):
        piece = client.recv(4096)
        if not piece:
            raise MonitorError("the second process has closed its monitor")
        said += piece
    return said.decode().removesuffix("(qemu) ").strip()


class _Demo:
    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory

    def play(self) -> int:
        with (
            Machine("virt", ram="16M", kernel=TOY, snapshots=self._directory) as machine,
            _SecondProcess(self._directory) as second,
        ):
            here = Pane("here", "this process: running", lambda: machine.serial.output)
            there = Pane("there", f"process {second.number}: inmigrate", lambda: bytes(second.output))
            with SideBySide(self._console, (here, there)) as self._view:
                return self._story(machine, second, here, there)

    def _story(self, machine: Machine, second: _SecondProcess, here: Pane, there: Pane) -> int:
        say, until = self._view.say, self._until
        say("A virt board with one RISC-V hart and 16 MiB of RAM boots the toy guest in machine mode.")
        started = time.monotonic()
        machine.cont()
        until(lambda: PROMPT in here.text, "boot")
        say(
            f"{(time.monotonic() - started) * 1000:.0f} ms from nothing to the prompt. It counts seconds by its timer "
            "interrupt, and writes 20 MiB of memory a second, checking each page before it is overwritten."
        )
        self._type("count", machine.serial.write, here)
        self._type("dirty 20 8", machine.serial.write, here)
        until(lambda: _numbers(here)[-1:] == [2], "count")

        started = time.monotonic()
        machine.savevm(TAG)
        took, saved = (time.monotonic() - started) * 1000, _numbers(here)[-1]
        size = show_size((self._directory / f"{TAG}.snapshot").stat().st_blocks * 512)
        say(f"savevm: the whole machine is in a file, in {took:.0f} ms and {size} on disk. The guest runs on.")
        until(lambda: _numbers(here)[-1:] == [3], "count")

        where = second.address()
        say(f"A second process waits: mini-qemu run {' '.join(second.arguments)}")
        self._migrate(machine, where, here, there)
        until(lambda: len(_numbers(there)) >= 3, "count on in the second process")
        first, then = _numbers(here), _numbers(there)
        gapless = first + then == list(range(1, len(first + then) + 1))
        counted = f"{_row(first)} here, {_row(then)} there"
        say(f"{counted}: " + ("no number is missing, none came twice." if gapless else "which is NOT without a gap."))
        self._type("dirty check", second.type, there)
        until(lambda: "pages checked" in there.text, "check its memory")
        sound = "all pages checked, 0 errors" in there.text

        before = len(_numbers(there))
        if refusal := second.monitor(f"loadvm {TAG}"):
            raise MonitorError(f"the second process cannot load the snapshot: {refusal}")
        say(f"loadvm {TAG}, there: the second process goes back to what the first one saved, after number {saved}.")
        until(lambda: len(_numbers(there)) >= before + 2, "count again")
        again = _numbers(there)[before:] == [saved + 1, saved + 2]
        self._type("poweroff", second.type, there)
        until(second.ended, "switch itself off")
        status = second.status
        say(f"Exit status {status}. The same guest at your own keyboard (Ctrl-A x quits):")
        self._console.out(f"{_command()} run -bios none -kernel {_short(TOY)}")
        return status if gapless and sound and again else 1

    def _migrate(self, machine: Machine, where: str, here: Pane, there: Pane) -> None:
        machine.migration.settings.set({"downtime-limit": 30})
        machine.migration.migrate(where)
        if machine.migration.wait(PATIENCE_SECONDS) is not Status.COMPLETED:
            raise MonitorError(f"the guest could not be moved: {machine.migration.progress.error}")
        here.title, there.title = "this process: postmigrate", there.title.replace("inmigrate", "running")
        figures = machine.migration.progress.figures
        self._view.say(
            f"migrate {where}: {show_size(figures.transferred)} in {figures.total_time * 1000:.0f} ms, in "
            f"{_passes(figures.pass_count)} while it ran and one while it stood still, "
            f"for {(figures.downtime or 0) * 1000:.1f} ms."
        )

    def _type(self, line: str, write: Callable[[str], None], pane: Pane) -> None:
        """Type a line, and wait until the guest has taken it."""
        before = pane.text.count(line)
        for key in line:
            write(key)
            if self._view.drawn:
                time.sleep(KEYSTROKE_SECONDS)
                self._view.show()
        write("\r")
        self._until(lambda: pane.text.count(line) > before, f"take '{line}'")

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        """Show what happens until it `holds`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest did not {what} in {PATIENCE_SECONDS:g} s")
            time.sleep(FRAME_SECONDS)
            self._view.show()
        self._view.show()


def _numbers(pane: Pane) -> list[int]:
    """What a guest has counted on this console."""
    return [int(number) for number in re.findall(r"^count (\d+)$", pane.text, re.MULTILINE)]


def _passes(count: int) -> str:
    return "one pass" if count == 1 else f"{count} passes"


def _row(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def _command() -> str:
    """How this user can spell `mini-qemu`."""
    return "mini-qemu" if shutil.which("mini-qemu") else _short(Path(sys.executable).with_name("mini-qemu"))


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
