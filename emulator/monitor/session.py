"""A monitor session: the human monitor on a character port, in a thread of its own.

Three kinds of users look the same to a port. A terminal sends key presses and wants line editing, with echo, history
and completion. A pipe sends lines and wants plain text. On a socket both happen, so a session there begins plainly and
turns on line editing when the first input is not a whole line.

Line editing needs modules that take a third of a second to import: they are loaded when the first key arrives that
needs them, never for a monitor that nobody looks at.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.core.charport import INPUT_LIMIT, CharPort
from emulator.monitor.hmp import GREETING, LINE_LIMIT, PROMPT, Hmp

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


class Session:
    """Reads commands from `port` and writes their output to it, for one peer after the other, until `close`.

    Its public methods may be called from any thread.
    """

    def __init__(
        self, hmp: Hmp, port: CharPort, style: Style, terminal_size: Callable[[], tuple[int, int]] = no_size
    ) -> None:
        self._hmp = hmp
        self._port = port
        self._style = style
        self._terminal_size = terminal_size
        self._newline = "\n" if style is Style.PIPE else "\r\n"
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        self._closing = False
        self._came = 0
        """How many peers have come so far."""
        self._left = 0
        """How many of them have left; that much, and not just a flag, because the next may come at once."""
        self._last_words: dict[int, bytes] = {}
        """What each of those who left had sent and nobody had read, so that it does not mix with the next one's."""
        self._editor: LineEditor | None = None
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        """The monitor comes into view: greet a new peer, or show the prompt to one that is there already."""
        with self._lock:
            if self._closing:
                return
            if self._came == self._left:
                self._came += 1
                self._start()
            elif self._editor is not None:
                self._editor.redraw()
            else:
                self._write(PROMPT)

    def hide(self) -> None:
        """The monitor goes out of view: leave the terminal on a fresh line."""
        with self._lock:
            if self._came > self._left:
                self._write("\n")

    def hang_up(self) -> None:
        """The peer has left: carry out what it has sent, and greet the next one."""
        with self._lock:
            if self._left == self._came:
                return
            self._left = self._came
            self._last_words[self._left] = self._port.receive(INPUT_LIMIT)
            if self._editor is not None:
                self._editor.close()
        self._arrived.set()

    def end(self) -> None:
        """Read and prompt no more; a command that runs now goes on. Returns at once."""
        with self._lock:
            self._closing = True
            if self._editor is not None:
                self._editor.close()
        self._arrived.set()

    def close(self) -> None:
        """Like `end`, and wait for the command that runs now, but not for long; harmless when repeated."""
        self.end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    def _start(self) -> None:
        self._port.on_input = self._arrived.set
        self._arrived.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        served = 0
        while not self._closing:
            self._arrived.clear()
            if self._came > served:
                served += 1
                self._serve(served)
            else:
                self._arrived.wait()

    def _serve(self, peer: int) -> None:
        self._write(GREETING + "\n")
        if self._style is Style.TERMINAL:
            self._edit(peer, b"")
        else:
            self._write(PROMPT)
            self._read_lines(peer)
        with self._lock:
            self._last_words.pop(peer, None)

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

    def _next_chunk(self, peer: int) -> bytes | None:
        """Wait for input; None when the peer has left and all that it sent is done, or when the session ends."""
        while not self._closing:
            self._arrived.clear()
            with self._lock:
                left = self._left >= peer
                chunk = self._last_words.pop(peer, b"") if left else self._port.receive(INPUT_LIMIT)
            if chunk:
                return chunk
            if left:
                return None
            self._arrived.wait()
        return None

    def _execute(self, line: str) -> None:
        if self._closing:
            return
        if self._style is Style.PIPE:
            # Nobody typed where the answers go: without the command, they would be hard to tell apart.
            self._write(line + "\n")
        text = self._hmp.execute(line)
        self._write((text + "\n" if text else "") + ("" if self._closing else PROMPT))

    def _edit(self, peer: int, typed: bytes) -> None:
        from emulator.monitor.terminal import LineEditor

        editor = LineEditor(self._hmp, self._port, typed, self._terminal_size)
        with self._lock:
            self._editor = editor
            if self._closing or self._left >= peer:
                editor.close()
        editor.run()
        with self._lock:
            self._editor = None

    def _write(self, text: str) -> None:
        self._port.send(text.replace("\n", self._newline).encode())
