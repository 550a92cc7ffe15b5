"""The human monitor: a line of text to a command and back, with QEMU's syntax and QEMU's error messages.

No input or output happens here: `Hmp` takes a line and returns the text to show, and says what could complete a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from emulator.core.errors import EmulatorError, MonitorError
from emulator.cpu.env import F_NAMES, X_NAMES
from emulator.monitor.arguments import BOOLEAN, FORMAT, INTEGER, STRING, TAG, WORDS, Argument, Flag, OneOf, Option
from emulator.monitor.commands import HMP_COMMANDS, Command, lookup
from emulator.monitor.context import Context
from emulator.monitor.dump import COUNT_LIMIT, LETTERS, SIZES, Format
from emulator.monitor.expression import evaluate, skip_blanks
from emulator.monitor.foreground import Foreground
from emulator.version import VERSION

PROMPT = "(qemu) "
GREETING = f"mini-qemu {VERSION} monitor - type 'help' for more information"
LINE_LIMIT = 4096
"""The longest line in characters."""

_NAME = re.compile(r"[^\s/]*")
_WORD = re.compile(r"\S+")
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_COUNT = re.compile(r"[0-9]*")
_REGISTERS = ("pc", "fp", *X_NAMES, *F_NAMES, *(f"{bank}{number}" for bank in "xf" for number in range(32)))
"""Register names to complete. They come from no machine, as a key press must not wait for a guest."""


class Hmp:
    """One user of the monitor; as in QEMU, a format letter and size stay in force until others are given."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._letter = "x"
        self._size = 4

    def execute(self, line: str, user: Foreground | None = None) -> str:
        """Carry out `line` and return the text to show, without a newline at its end; never raises for bad input.

        A command that takes long can draw for `user`, who waits for it; without one it goes on by itself.
        """
        if len(line) > LINE_LIMIT:
            return f"line is longer than {LINE_LIMIT} characters"
        if not line.strip():
            return ""
        try:
            typed, command, position = _find_command(line)
        except MonitorError as error:
            return str(error)
        try:
            arguments = self._parse(command, line, position)
        except EmulatorError as error:
            return f'{error}\nTry "help {typed}" for more information'
        try:
            return command.show(command.run(replace(self._context, user=user), arguments))
        except MonitorError as error:
            return str(error)
        except EmulatorError as error:
            return f"Error: {error}"

    def complete(self, line: str) -> list[str]:
        """Every word that could stand in place of the last, unfinished word of `line`, which may be empty."""
        words = line.lstrip().split(" ")
        typed = words[-1]
        before = [word for word in words[:-1] if word]
        if before and before[0] in ("help", "?"):
            before = before[1:]
        if not before:
            return _matching(typed, (name for command in HMP_COMMANDS for name in command.names if " " not in name))
        if before == ["info"]:
            subcommands = (command.names[0] for command in HMP_COMMANDS if command.names[0].startswith("info "))
            return _matching(typed, (name.removeprefix("info ") for name in subcommands))
        command = next((command for command in HMP_COMMANDS if before[0] in command.names), None)
        if command is not None and len(before) == 1 and command.arguments:
            kind = command.arguments[0].kind
            if kind is TAG:
                return _matching(typed, self._tags())
            if isinstance(kind, OneOf):
                return _matching(typed, kind.values)
        start, dollar, register = typed.rpartition("$")
        if dollar:
            return [start + dollar + name for name in _matching(register, _REGISTERS)]
        return []

    def _parse(self, command: Command, line: str, position: int) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        for argument in command.arguments:
            position = skip_blanks(line, position)
            try:
                arguments[argument.name], position = self._parse_argument(command, argument, line, position)
            except _StringExpectedError as error:
                raise MonitorError(f"{error}{_last_name(command)}: string expected") from None
        if line[position:].strip():
            raise MonitorError(f"{_last_name(command)}: extraneous characters at the end of line")
        return arguments

    def _parse_argument(self, command: Command, argument: Argument, line: str, position: int) -> tuple[Any, int]:
        kind = argument.kind
        if kind is FORMAT:
            return self._parse_format(line, position)
        if kind is WORDS:
            return " ".join(line[position:].split()), len(line)
        if isinstance(kind, Flag):
            return _parse_flag(command, kind, line, position)
        if isinstance(kind, Option):
            return _parse_option(kind, line, position)
        if argument.optional and position == len(line):
            return None, position
        if kind in (STRING, TAG) or isinstance(kind, OneOf):
            return _parse_string(line, position)
        if kind is BOOLEAN:
            return _parse_switch(line, position)
        assert kind is INTEGER, f"no command line has a {kind}"
        return evaluate(line, position, self._read_register)

    def _parse_format(self, line: str, position: int) -> tuple[Format, int]:
        count, letter, size = 1, self._letter, self._size
        if line[position : position + 1] == "/":
            count, position = _parse_count(line, position + 1)
            while position < len(line) and not line[position].isspace():
                character = line[position]
                if character in LETTERS:
                    letter = character
                elif character in SIZES:
                    size = SIZES[character]
                else:
                    raise MonitorError(f"invalid char in format: '{character}'")
                position += 1
            self._letter = letter
            if letter != "i":
                self._size = size
        return Format(count, letter, size), position

    def _tags(self) -> list[str]:
        """Those tags that can be typed without quotes."""
        with suppress(EmulatorError):
            return [tag for tag in self._context.machine.snapshots.tags() if " " not in tag and tag[0] != '"']
        return []

    def _read_register(self, name: str) -> int | None:
        if name == "fp":
            name = "s0"
        machine = self._context.machine
        for names, value in machine.call(lambda: machine.cpu.registers()).items():
            if name in names.split("/"):
                return value
        return None


class _StringExpectedError(Exception):
    """There is no string; why, on a line of its own, if there is more to say."""


def _parse_flag(command: Command, flag: Flag, line: str, position: int) -> tuple[bool, int]:
    """Whether `-x` stands here, as a word of its own."""
    if line[position : position + 1] != "-":
        return False, position
    letter = line[position + 1 : position + 2]
    if any(
        f"--{argument.kind.word}" == _WORD.findall(line, position)[0]
        for argument in command.arguments
        if isinstance(argument.kind, Option)
    ):
        return False, position
    letters = {argument.kind.letter for argument in command.arguments if isinstance(argument.kind, Flag)}
    if letter not in letters or line[position + 2 : position + 3].strip():
        raise MonitorError(f"{_last_name(command)}: unsupported option {_WORD.findall(line, position)[0]}")
    return (True, position + 2) if letter == flag.letter else (False, position)


def _parse_option(option: Option, line: str, position: int) -> tuple[str | None, int]:
    """What stands behind `--word`; None if that does not stand here."""
    word = _WORD.match(line, position)
    if word is None or word[0] != f"--{option.word}":
        return None, position
    return _parse_string(line, skip_blanks(line, word.end()))


def _parse_switch(line: str, position: int) -> tuple[bool, int]:
    word = _WORD.match(line, position)
    if word is None or word[0] not in ("on", "off"):
        raise MonitorError("Expected 'on' or 'off'")
    return word[0] == "on", word.end()


def _parse_string(line: str, position: int) -> tuple[str, int]:
    """A word, or what stands between double quotes, where a backslash stands before a quote or another backslash."""
    if line[position : position + 1] == '"':
        return _parse_quoted(line, position + 1)
    word = _WORD.match(line, position)
    if word is None:
        raise _StringExpectedError
    return word[0], word.end()


def _parse_quoted(line: str, position: int) -> tuple[str, int]:
    text = ""
    while position < len(line) and line[position] != '"':
        if line[position] == "\\":
            position += 1
            escape = line[position : position + 1]
            if escape not in _ESCAPES:
                raise _StringExpectedError(f"unsupported escape code: '\\{escape}'\n")
            text += _ESCAPES[escape]
        else:
            text += line[position]
        position += 1
    if position == len(line):
        raise _StringExpectedError("unterminated string\n")
    return text, position + 1


def _last_name(command: Command) -> str:
    return "|".join(command.names).removeprefix("info ")


def _find_command(line: str) -> tuple[str, Command, int]:
    """The command's name as typed, its table row, and where its arguments begin."""
    start = skip_blanks(line, 0)
    name, position = _word(line, start)
    if name == "info":
        subcommand, end = _word(line, skip_blanks(line, position))
        if subcommand:
            name, position = f"info {subcommand}", end
    return name, lookup(name), position


def _word(line: str, start: int) -> tuple[str, int]:
    found = _NAME.match(line, start)
    assert found is not None  # the pattern matches the empty string
    return found[0], found.end()


def _parse_count(line: str, position: int) -> tuple[int, int]:
    digits = _COUNT.match(line, position)
    assert digits is not None  # the pattern matches the empty string
    if not digits[0]:
        return 1, position
    significant = digits[0].lstrip("0") or "0"
    if len(significant) > len(str(COUNT_LIMIT)) or int(significant) > COUNT_LIMIT:
        raise MonitorError(f"at most {COUNT_LIMIT} items can be shown at once")
    return int(significant), digits.end()


def _matching(start: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(start)})
