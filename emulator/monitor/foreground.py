"""A command that takes long and the user who waits for it: a line that is drawn again and again, and Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

INTERVAL_SECONDS = 0.1
"""How often a command looks at its user, and draws."""


class Terminal(Protocol):
    """What a line editor offers while it does not read."""

    def write(self, text: str) -> None:
        """Show `text` as it is."""

    def columns(self) -> int:
        """How wide it is."""

    def take_ctrl_c(self) -> bool:
        """Whether Ctrl-C has been typed, once."""


class Foreground:
    """One monitor's user, seen from a command; `interrupt`, `hide`, `show` and `end` may be called from any thread.

    None of these waits for a line that is just being drawn: whoever draws may have to wait for the thread that calls.
    """

    def __init__(self) -> None:
        self._watching = False
        self._interrupted = threading.Event()
        self._ended = False
        self._visible = True
        self._line = ""
        self._in_place = True
        """Whether the next line belongs where the cursor is, and not below what somebody else has written there."""
        self._terminal: Terminal | None = None

    def attach(self, terminal: Terminal | None) -> None:
        """Draw on `terminal`, and hear Ctrl-C from it; without one, nobody could see one line take another's place."""
        self._terminal = terminal

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the block runs, Ctrl-C is the command's."""
        self._interrupted.clear()
        self._in_place = self._visible
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    @property
    def columns(self) -> int:
        """How long a line that is drawn may be."""
        return max(self._terminal.columns() - 1, 0) if self._terminal is not None else 0

    def draw(self, line: str) -> None:
        """Show `line` in place of the one before, cut to what fits; nothing if the user does not look."""
        if self._terminal is None:
            return
        self._line = line
        if self._visible and not self._ended:
            self._put(line[: self.columns])

    @property
    def has_drawn(self) -> bool:
        """Whether there is a line for `finish` to show."""
        return bool(self._line)

    def finish(self) -> None:
        """Show the last line whole, as it stays; if the monitor ends, take it away instead."""
        line, self._line = self._line, ""
        if not self._ended:
            self._put(line + "\r\n")
        elif self._in_place:
            self._put("")

    def _put(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(("\r\x1b[K" if self._in_place else "\r\n") + text)
        self._in_place = True

    @property
    def interrupted(self) -> bool:
        """Whether the user has typed Ctrl-C since the command began to watch."""
        return self._interrupted.is_set() or (self._terminal is not None and self._terminal.take_ctrl_c())

    @property
    def ended(self) -> bool:
        """Whether the monitor ends, and nobody waits any more."""
        return self._ended

    def interrupt(self) -> bool:
        """Let the command know of a Ctrl-C; False if none watches for it."""
        if self._watching:
            self._interrupted.set()
        return self._watching

    def hide(self) -> None:
        """The user looks at something else, which is not to be drawn over."""
        self._visible = False
        self._in_place = False

    def show(self) -> None:
        """The user looks at the monitor again."""
        self._visible = True

    def end(self) -> None:
        """The monitor ends."""
        self._ended = True
