"""The first serial port for programs: what the guest has said, and a way to answer."""

from __future__ import annotations

from collections.abc import Callable

from emulator.core.charport import CharPort

KEPT = 1 << 20
"""Bytes of output that are kept at least."""


class SerialConsole:
    """A guest's serial line. Output is kept here only while no chardev was given the port."""

    def __init__(self, port: CharPort | None = None) -> None:
        self.port = port or CharPort()
        self._kept = bytearray()
        self._dropped = 0
        self.searched = 0
        """Up to which byte, counted from power-on, a search has found what it waited for."""
        self._watchers: list[Callable[[], None]] = []
        self.records = port is None
        """Whether output is kept, as it is unless somebody else has the port."""
        if self.records:
            self.port.sink = self._record

    @property
    def output(self) -> bytes:
        """What the guest has sent: all of it, or the last mebibyte at least."""
        return bytes(self._kept)

    @property
    def sent(self) -> int:
        """How many bytes the guest has sent since power-on."""
        return self._dropped + len(self._kept)

    def write(self, data: str | bytes) -> None:
        """Type `data` at the guest; it waits here until the guest takes it."""
        self.port.feed(data.encode() if isinstance(data, str) else data)

    def find(self, pattern: bytes, start: int) -> int | None:
        """Where `pattern` ends in the output from byte number `start` on (counted from power-on), if it is there."""
        at = self._kept.find(pattern, max(start - self._dropped, 0))
        return None if at < 0 else self._dropped + at + len(pattern)

    def tail(self, length: int = 60) -> str:
        """The last characters of output, for messages."""
        return self._kept[-length:].decode("utf-8", "replace")

    def watch(self, seen: Callable[[], None]) -> None:
        """Call `seen()` on the machine's thread after each piece of output."""
        self._watchers.append(seen)

    def unwatch(self, seen: Callable[[], None]) -> None:
        """Undo `watch`."""
        self._watchers.remove(seen)

    def _record(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * KEPT:
            self._dropped += len(self._kept) - KEPT
            del self._kept[:-KEPT]
        for seen in self._watchers:
            seen()
