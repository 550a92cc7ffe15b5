"""Arithmetic in monitor commands: `x/4xw $sp+8*4`, `print/x ($a0 & 0xff) * 2`.

The grammar is QEMU's, whose operators bind, from tight to loose: unary `+ - ~`; `* / %`; `& | ^`, which are equals and
bind tighter than `+ -`, unlike in C. Operands are decimal, octal (`0...`) and hexadecimal (`0x...`) numbers, a
character in single quotes without escapes, a register `$name`, and parentheses. Values are signed 64-bit and wrap.

The text comes from a person or a socket, so nesting is bounded; the length of a line is bounded by its reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from emulator.core.bits import mask, sign_extend
from emulator.core.errors import MonitorError

DEPTH_LIMIT = 64
"""How deep parentheses and unary operators may nest."""

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_REGISTER = re.compile(r"\$[A-Za-z0-9_.]*")

ReadRegister = Callable[[str], "int | None"]


def evaluate(text: str, start: int, read_register: ReadRegister) -> tuple[int, int]:
    """Evaluate the expression at `text[start:]`.

    `read_register` maps a name without the dollar sign to a value, or to None if there is no such register. Returns
    the value, -2**63 to 2**63-1, and the index of the first character behind the expression and its trailing blanks.
    Raises MonitorError.
    """
    parser = _Parser(text, start, read_register)
    value = parser.sum()
    return value, parser.position


def skip_blanks(text: str, position: int) -> int:
    """The index of the first character from `position` on that is not white space."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _divide(left: int, right: int) -> int:
    """Quotient towards zero, as C divides."""
    if right == 0:
        raise MonitorError("division by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> int:
    return left - right * _divide(left, right)


_LEVELS: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"+": lambda a, b: a + b, "-": lambda a, b: a - b},
    {"&": lambda a, b: a & b, "|": lambda a, b: a | b, "^": lambda a, b: a ^ b},
    {"*": lambda a, b: a * b, "/": _divide, "%": _remainder},
)
"""The binary operators, loosest level first."""

_UNARY: dict[str, Callable[[int], int]] = {"+": lambda a: a, "-": lambda a: -a, "~": lambda a: ~a}


class _Parser:
    """Recursive descent over one expression; `position` always stands on a character that is not blank."""

    def __init__(self, text: str, start: int, read_register: ReadRegister) -> None:
        self.text = text
        self.position = skip_blanks(text, start)
        self.read_register = read_register
        self.depth = 0

    def sum(self) -> int:
        return self._binary(0)

    def _binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self._unary()
        value = self._binary(level + 1)
        while (operator := _LEVELS[level].get(self._peek())) is not None:
            self._advance(1)
            value = sign_extend(operator(value, self._binary(level + 1)), 64)
        return value

    def _unary(self) -> int:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise MonitorError("expression is nested too deeply")
        character = self._peek()
        if character in _UNARY:
            self._advance(1)
            value = sign_extend(_UNARY[character](self._unary()), 64)
        elif character == "(":
            self._advance(1)
            value = self.sum()
            if self._peek() != ")":
                raise MonitorError("')' expected")
            self._advance(1)
        else:
            value = self._operand(character)
        self.depth -= 1
        return value

    def _operand(self, character: str) -> int:
        if character == "":
            raise MonitorError("unexpected end of expression")
        if character == "'":
            return self._character()
        if character == "$":
            return self._register()
        number = _NUMBER.match(self.text, self.position)
        if number is None:
            raise MonitorError(f"invalid char '{character}' in expression")
        self._advance(len(number[0]))
        digits = number[0]
        # The length is looked at first: converting thousands of decimal digits is slow, and refused by Python.
        if len(digits) > 24 or (value := int(digits, _base(digits))) > mask(64):
            raise MonitorError("number too large")
        return sign_extend(value, 64)

    def _character(self) -> int:
        quoted = self.text[self.position : self.position + 3]
        if len(quoted) < 3 or quoted[2] != "'":
            raise MonitorError("missing terminating ' character")
        self._advance(3)
        return ord(quoted[1])

    def _register(self) -> int:
        name = _REGISTER.match(self.text, self.position)
        assert name is not None  # the caller saw the dollar sign
        value = self.read_register(name[0][1:])
        if value is None:
            raise MonitorError("unknown register")
        self._advance(len(name[0]))
        return sign_extend(value, 64)

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _advance(self, count: int) -> None:
        self.position = skip_blanks(self.text, self.position + count)


def _base(digits: str) -> int:
    if digits[:2].lower() == "0x":
        return 16
    return 8 if digits.startswith("0") else 10
