"""`mini-qemu demo`: the toy guest is booted, talked to and looked into, with a word about each step.

Everything goes through the public API, as a test of somebody's firmware would. Between two steps the guest is stopped.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import time
import zlib
from pathlib import Path

from rich.console import Console
from rich.text import Text

from emulator.conditions import Serial
from emulator.machine import Machine

TOY = Path(__file__).parent / "guests" / "toy.elf"

PROMPT = "toy> "
ERASED_LINE = re.compile(r"[^\n]*\r\x1b\[K")
"""A line that the guest takes back to print something in its place."""

PATIENCE_SECONDS = 20.0
KEYSTROKE_SECONDS = 0.03
"""Between two keys, on a terminal: a reader should see somebody type."""


def run_demo() -> int:
    """Show the toy guest on standard output; returns its exit status, or 1 if it does not answer in time."""
    console = Console(highlight=False)
    try:
        with Machine("virt", ram="16M", kernel=TOY) as machine:
            return _Demo(console, machine).play()
    except TimeoutError as late:
        console.print(Text(f"mini-qemu: {late}"))
        return 1


class _Demo:
    def __init__(self, console: Console, machine: Machine) -> None:
        self._console = console
        self._machine = machine
        self._shown = 0

    def play(self) -> int:
        machine = self._machine
        self._say("A virt board with one RISC-V hart and 16 MiB of RAM boots the toy guest in machine mode.")
        started = time.monotonic()
        self._until(PROMPT)
        milliseconds = (time.monotonic() - started) * 1000
        self._say(
            f"{milliseconds:.0f} ms from nothing to the prompt. The guest is stopped now, at 0x{machine.cpu.pc:x}."
        )
        self._ask("version")

        self._say("It asks for a timer interrupt every second. Its time is the board's virtual clock.")
        self._type("count")
        for number in (1, 2, 3):
            self._until(f"count {number}\r\n")
        self._ask("count stop")

        self._say("The guest adds up its own code.")
        self._check_sum(self._ask("crc"))

        self._say("While it had nothing to do the hart slept in wfi, and this process with it.")
        self._ask("wfi")

        self._say("A guest ends its machine through the test finisher. What it writes there becomes the exit status.")
        self._type("poweroff")
        machine.run(timeout=PATIENCE_SECONDS)
        self._show()
        status = machine.wait()
        self._say(f"Exit status {status}. The same guest at your own keyboard (Ctrl-A x quits):")
        self._console.out(f"{_command()} run -bios none -kernel {_short(TOY)}")
        return status

    def _check_sum(self, answer: str) -> None:
        said = re.search(r"crc32 of 0x([0-9a-f]+)\+0x([0-9a-f]+): ([0-9a-f]{8})", answer)
        assert said is not None
        outside = zlib.crc32(self._machine.read(int(said[1], 16), int(said[2], 16)))
        verdict = "the same" if outside == int(said[3], 16) else "which is NOT the same"
        self._say(f"Python reads the same memory from outside: {outside:08x}, {verdict}.")

    def _ask(self, command: str) -> str:
        """Type a command; returns all that comes until the next prompt."""
        before = self._shown
        self._type(command)
        self._until(PROMPT)
        return self._text_from(before)

    def _type(self, line: str) -> None:
        for key in line:
            if self._console.is_terminal:
                time.sleep(KEYSTROKE_SECONDS)
            self._machine.serial.write(key)
            self._until(key)
        self._machine.serial.write("\r")
        self._until("\r\n")

    def _until(self, text: str) -> None:
        self._machine.run(until=Serial(text), timeout=PATIENCE_SECONDS)
        self._show()

    def _show(self) -> None:
        """Print what is new. A prompt at its end waits until something follows: a remark may come before that."""
        text = self._text_from(self._shown).removesuffix(PROMPT)
        self._shown += len(text)
        self._console.out(ERASED_LINE.sub("", text).replace("\r\n", "\n"), end="")

    def _text_from(self, start: int) -> str:
        return self._machine.serial.output[start:].decode("ascii")

    def _say(self, remark: str) -> None:
        self._console.print()
        for line in textwrap.wrap(remark, self._console.width - 3):
            self._console.print(Text(f"# {line}", style="cyan"))


def _command() -> str:
    """How this user can spell `mini-qemu`."""
    return "mini-qemu" if shutil.which("mini-qemu") else _short(Path(sys.executable).with_name("mini-qemu"))


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
