"""QMP's JSON as it arrives: bytes in pieces of any size to values, one after the other.

Messages need no line ends between them, so braces and brackets are counted. What a client gets for malformed input is
what QEMU would say. As in QEMU, strings may stand in single quotes, and after a mistake reading goes on at the next
character that has a meaning of its own; a byte 0xff, or a control character, always ends what has been left unfinished.
Sizes and nesting are limited far below QEMU's limits, as no command needs as much; of a message beyond them the rest is
passed over, and costs no memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from emulator.core.errors import MonitorError

SIZE_LIMIT = 1 << 18
"""Bytes of one message."""
TOKEN_LIMIT = 1 << 14
NESTING_LIMIT = 100
WORD_LIMIT = 1 << 9
"""Bytes of a number or keyword."""

_TOO_LARGE = "JSON token size limit exceeded"
_BLANKS = re.compile(rb"[ \t\r\n]*")
_WORD = re.compile(rb"[a-zA-Z0-9_.+-]+")
_STRINGS = {
    quote: re.compile(rb"(?:[^%s\\\x00-\x1f\xfe\xff]+|\\[^\x00-\x1f\xfe\xff])*" % quote) for quote in (b'"', b"'")
}
"""What may stand behind each kind of quote, up to the closing one."""
_LOST = re.compile(rb"[^{}\[\]:,\x00-\x1f\xfe\xff]*")
"""What is passed over after a mistake."""
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_KEYWORD = re.compile(rb"[a-z]+")
_KEYWORDS = {b"true": True, b"false": False, b"null": None}
_ESCAPE = re.compile(r'\\(?s:.)|"')
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1


class JsonError(MonitorError):
    """A message that is no JSON, or too large."""


class JsonReader:
    """Takes a client's bytes apart."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        """What does not make a whole token yet."""
        self._lost = False
        self._tokens: list[bytes] = []
        """What of the message has arrived in whole tokens."""
        self._size = 0
        self._depth = 0
        self._too_large = False
        self._scanned = 0
        """How much of the buffer is known to belong to an unfinished string."""

    def feed(self, data: bytes) -> Iterator[Any]:
        """Every value that is complete now, and in the place of what is none a JsonError."""
        buffer = self._buffer
        buffer += data
        start = 0
        while True:
            if self._lost:
                start = _end(_LOST, buffer, start)
                self._lost = start == len(buffer)
            start = _end(_BLANKS, buffer, start)
            if start == len(buffer):
                break
            try:
                end = self._token_end(start)
                if end is None:
                    if len(buffer) - start > SIZE_LIMIT:
                        start, self._lost = len(buffer), True
                        self._forget()
                        raise JsonError(_TOO_LARGE)
                    break
                token = bytes(buffer[start:end])
                start = end
                self._take(token)
                if self._depth <= 0:
                    tokens = self._tokens
                    self._forget()
                    if tokens:
                        yield _Parser(tokens).value()
            except _StrayError as stray:
                text = buffer[start : min(stray.end, start + WORD_LIMIT)].decode(errors="replace")
                start, self._lost = stray.end, True
                self._forget()
                yield JsonError(f"JSON parse error, stray '{text}'")
            except JsonError as error:
                yield error
        del buffer[:start]

    def _token_end(self, start: int) -> int | None:
        """Where the token that begins at `start` ends; None if the rest of it has not arrived."""
        buffer = self._buffer
        first = bytes(buffer[start : start + 1])
        if first in b"{}[]:,":
            return start + 1
        if first in _STRINGS:
            end = _end(_STRINGS[first], buffer, max(self._scanned, start + 1))
            if buffer[end : end + 1] == first:
                self._scanned = 0
                return end + 1
            if end == len(buffer) or buffer[end:] == b"\\":
                self._scanned = end - start  # nothing stands before the token once this call of feed is over
                return None
            raise _StrayError(end + 2 if buffer[end : end + 1] == b"\\" else end + 1)
        word = _WORD.match(buffer, start)
        if word is None:
            raise _StrayError(start + 1)
        if word.end() - start > WORD_LIMIT:
            raise _StrayError(word.end())
        if word.end() == len(buffer):
            return None
        if not _NUMBER.fullmatch(word[0]) and not _KEYWORD.fullmatch(word[0]):
            raise _StrayError(word.end())
        return word.end()

    def _take(self, token: bytes) -> None:
        """Keep `token`, unless it belongs to a message beyond the limits; raises JsonError when it gets there."""
        self._depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        if self._too_large:
            return
        self._tokens.append(token)
        self._size += len(token)
        for beyond, what in (
            (self._size > SIZE_LIMIT, _TOO_LARGE),
            (len(self._tokens) > TOKEN_LIMIT, "JSON token count limit exceeded"),
            (self._depth > NESTING_LIMIT, "JSON nesting depth limit exceeded"),
        ):
            if beyond:
                depth = max(self._depth, 0)
                self._forget()
                self._depth, self._too_large = depth, depth > 0
                raise JsonError(what)

    def _forget(self) -> None:
        self._tokens = []
        self._size = self._depth = self._scanned = 0
        self._too_large = False


class _StrayError(Exception):
    """There is no token here; where to read on."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end


def _end(pattern: re.Pattern[bytes], buffer: bytearray, start: int) -> int:
    found = pattern.match(buffer, start)
    assert found is not None  # every pattern that is passed here matches the empty string
    return found.end()


class _Parser:
    """The value that a list of tokens stands for; raises JsonError."""

    def __init__(self, tokens: list[bytes]) -> None:
        self._tokens = iter(tokens)

    def value(self) -> Any:
        return self._value(self._next())

    def _next(self) -> bytes:
        return next(self._tokens, b"")

    def _value(self, token: bytes) -> Any:
        if token == b"{":
            return self._object()
        if token == b"[":
            return self._array()
        if token[:1] in (b'"', b"'"):
            return _string(token)
        if _NUMBER.fullmatch(token):
            return _number(token)
        if not _KEYWORD.fullmatch(token):
            raise JsonError("JSON parse error, expecting value")
        if token not in _KEYWORDS:
            raise JsonError(f"JSON parse error, invalid keyword '{token.decode()}'")
        return _KEYWORDS[token]

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        token = self._next()
        while token != b"}":
            if token[:1] not in (b'"', b"'"):
                raise JsonError("JSON parse error, key is not a string in object")
            key = _string(token)
            if self._next() != b":":
                raise JsonError("JSON parse error, missing : in object pair")
            value = self.value()
            if key in members:
                raise JsonError("JSON parse error, duplicate key")
            members[key] = value
            token = self._next()
            if token == b",":
                token = self._next()
                if token == b"}":
                    raise JsonError("JSON parse error, expecting value")
            elif token != b"}":
                raise JsonError("JSON parse error, expected separator in dict")
        return members

    def _array(self) -> list[Any]:
        elements: list[Any] = []
        token = self._next()
        while token != b"]":
            elements.append(self._value(token))
            token = self._next()
            if token == b",":
                token = self._next()
                if token == b"]":
                    raise JsonError("JSON parse error, expecting value")
            elif token != b"]":
                raise JsonError("JSON parse error, expected separator in list")
        return elements


def _string(token: bytes) -> str:
    try:
        body = token[1:-1].decode()
    except UnicodeDecodeError:
        raise JsonError("JSON parse error, invalid UTF-8 sequence in string") from None
    # Standard JSON knows neither a single quote behind a backslash nor a double one without.
    body = _ESCAPE.sub(lambda found: {r"\'": "'", '"': r"\""}.get(found[0], found[0]), body)
    try:
        text: str = json.loads(f'"{body}"')
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(error.object[error.start])
        raise JsonError(f"JSON parse error, \\u{surrogate:04x} is not a valid Unicode character") from None
    except ValueError:
        raise JsonError(f"JSON parse error, invalid escape sequence in '{body[:WORD_LIMIT]}'") from None
    return text


def _number(token: bytes) -> int | float:
    """As in QEMU, an integer that 64 bits cannot hold is a floating-point number."""
    if _INTEGER.fullmatch(token) and _INT64_MIN <= (number := int(token)) <= _UINT64_MAX:
        return number
    value = float(token)
    if not math.isfinite(value):
        raise JsonError("JSON parse error, the number is too large")
    return value
