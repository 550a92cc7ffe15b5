"""A monitor session: the human monitor on a character port, in a thread of its own.

Three kinds of users look the same to a port. A terminal sends key presses and wants line editing, with echo, history
and completion. A pipe sends lines and wants plain text. On a socket both happen, so a session there begins plainly and
turns on line editing when the first input is not a whole line.

Line editing needs modules that take a third of a second to import: they are loaded when the first key arrives that
needs them, never for a monitor that nobody looks at.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.core.charport import CharPort
from emulator.monitor.foreground import Foreground
from emulator.monitor.hmp import GREETING, LINE_LIMIT, PROMPT, Hmp
from emulator.monitor.peers import PeerSession

if TYPE_CHECKING:
    from emulator.monitor.terminal import LineEditor


class Style(enum.Enum):
    """Who sits at the other end of the port."""

    TERMINAL = "terminal"
    PIPE = "pipe"
    SOCKET = "socket"


def no_size() -> tuple[int, int]:
    """Columns and rows of a terminal that cannot be asked."""
    return 80, 24


class Session(PeerSession):
    """Reads commands from `port` and writes their output to it, for one peer after the other, until `close`."""

    def __init__(
        self, hmp: Hmp, port: CharPort, style: Style, terminal_size: Callable[[], tuple[int, int]] = no_size
    ) -> None:
        super().__init__(port)
        self._hmp = hmp
        self._style = style
        self._terminal_size = terminal_size
        self._newline = "\n" if style is Style.PIPE else "\r\n"
        self._editor: LineEditor | None = None
        self._user = Foreground()

    def interrupt(self) -> bool:
        """Ctrl-C has been typed where it is a signal; whether a command has taken it."""
        return self._user.interrupt()

    def show(self) -> None:
        """See `PeerSession.show`."""
        self._user.show()
        super().show()

    def hide(self) -> None:
        """The monitor goes out of view: leave the terminal on a fresh line."""
        self._user.hide()
        with self._lock:
            if self._editor is not None:
                self._editor.hide()
            if self._came > self._left:
                self._write("\n")

    def _shown_again(self) -> None:
        if self._editor is not None:
            self._editor.redraw()
        else:
            self._write(PROMPT)

    def _interrupt(self) -> None:
        if self._closing:
            self._user.end()
        if self._editor is not None:
            self._editor.close()

    def _serve(self, peer: int) -> None:
        self._write(GREETING + "\n")
        if self._style is Style.TERMINAL:
            self._edit(peer, b"")
        else:
            self._write(PROMPT)
            self._read_lines(peer)

    def _read_lines(self, peer: int) -> None:
        line = bytearray()
        while (chunk := self._next_chunk(peer)) is not None:
            if self._style is Style.SOCKET and b"\n" not in chunk:
                self._write("\r")
                self._edit(peer, bytes(line) + chunk)
                return
            for piece in chunk.splitlines(keepends=True):
                # One byte beyond the limit is enough for Hmp to refuse the line.
                line += piece[: max(LINE_LIMIT + 2 - len(line), 0)]
                if piece.endswith((b"\n", b"\r")):
                    self._execute(line.decode(errors="replace").strip())
                    line.clear()

    def _execute(self, line: str) -> None:
        if self._closing:
            return
        if self._style is Style.PIPE:
            # Nobody typed where the answers go: without the command, they would be hard to tell apart.
            self._write(line + "\n")
        text = self._hmp.execute(line, self._user)
        self._write((text + "\n" if text else "") + ("" if self._closing else PROMPT))

    def _edit(self, peer: int, typed: bytes) -> None:
        from emulator.monitor.terminal import LineEditor

        editor = LineEditor(self._hmp, self._port, typed, self._terminal_size, self._user)
        with self._lock:
            self._editor = editor
            if self._closing or self._left >= peer:
                editor.close()
        editor.run()
        with self._lock:
            self._editor = None

    def _write(self, text: str) -> None:
        self._port.send(text.replace("\n", self._newline).encode())
