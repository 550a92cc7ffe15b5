"""Line editing for the monitor: prompt_toolkit on a character port instead of on the process's own terminal.

The port may be the terminal in which the emulator was started, a pseudo-terminal or a socket, so nothing here touches
file descriptors, terminal modes or signals: bytes in, bytes out. Only `session.py` imports this module, and late.
"""

from __future__ import annotations

import asyncio
import codecs
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.input import Input
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from emulator.core.charport import INPUT_LIMIT, CharPort
from emulator.monitor.foreground import Foreground
from emulator.monitor.hmp import PROMPT, Hmp


class LineEditor:
    """Prompts for commands and runs them; `run` belongs to the monitor's thread, `hide`, `redraw`, `close` to any."""

    def __init__(
        self,
        hmp: Hmp,
        port: CharPort,
        typed: bytes,
        terminal_size: Callable[[], tuple[int, int]],
        user: Foreground,
    ) -> None:
        self._hmp = hmp
        self._port = port
        self._closing = False
        self._input = _PortInput(port, typed)
        self._user = user
        self._terminal_size = terminal_size
        self._loop = asyncio.new_event_loop()
        self._in_view = asyncio.Event()
        self._in_view.set()
        self._prompt: PromptSession[str] = PromptSession(
            # The renderer drops a trailing space without a style, and scripts wait for the whole prompt; the colour
            # itself is lost in one bit of colour depth.
            [("fg:ansiblue", PROMPT)],
            completer=_CommandCompleter(hmp),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
            reserve_space_for_menu=0,
            color_depth=ColorDepth.DEPTH_1_BIT,
            input=self._input,
            # Not every peer answers the question where its cursor is, and waiting for the answer delays the prompt.
            output=Vt100_Output(_PortWriter(port), lambda: _size(terminal_size), term="vt100", enable_cpr=False),
        )

    def run(self) -> None:
        """Prompt and execute until `close`."""
        self._user.attach(self)
        try:
            self._loop.run_until_complete(self._converse())
        finally:
            self._user.attach(None)
            self._loop.close()

    def hide(self) -> None:
        """Keep the last line that a command has drawn, and the prompt behind it, until `redraw`."""
        self._post(self._in_view.clear)

    def redraw(self) -> None:
        """Show the prompt and what has been typed so far once more."""
        self._post(self._redraw)

    def close(self) -> None:
        """Let `run` return as soon as no command runs."""
        self._closing = True
        self._input.deaf = True
        self._post(self._leave)

    async def _converse(self) -> None:
        while not self._closing:
            try:
                line = await self._prompt.prompt_async(handle_sigint=False, set_exception_handler=False)
            except (KeyboardInterrupt, EOFError):
                continue  # Ctrl-C and Ctrl-D drop the line, as there is nothing that they should end
            text = self._hmp.execute(line.strip(), self._user)
            await asyncio.sleep(0)  # for what has been posted meanwhile, which is not about the next prompt
            if self._user.has_drawn:
                await self._in_view.wait()
                self._user.finish()
            if text:
                self._port.send((text + "\n").replace("\n", "\r\n").encode())

    def write(self, text: str) -> None:
        """See `foreground.Terminal`."""
        self._port.send(text.encode())

    def columns(self) -> int:
        """See `foreground.Terminal`."""
        return self._terminal_size()[0]

    def take_ctrl_c(self) -> bool:
        """See `foreground.Terminal`; what was typed before it is forgotten."""
        return self._input.take_ctrl_c()

    def _post(self, function: Callable[[], None]) -> None:
        _call_soon(self._loop, function)

    def _redraw(self) -> None:
        self._in_view.set()
        self._prompt.app.renderer.reset()
        self._prompt.app.invalidate()

    def _leave(self) -> None:
        self._in_view.set()
        prompt = self._prompt.app.future
        if prompt is not None and not prompt.done():  # it may have been told before
            self._prompt.app.erase_when_done = True
            self._prompt.app.exit(exception=EOFError)


def _size(terminal_size: Callable[[], tuple[int, int]]) -> Size:
    columns, rows = terminal_size()
    return Size(rows=rows, columns=columns)


class _CommandCompleter(Completer):
    """Completes the last word before the cursor from the command table."""

    def __init__(self, hmp: Hmp) -> None:
        self._hmp = hmp

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
        line = document.text_before_cursor
        typed = len(line) - (line.rfind(" ") + 1)
        for word in self._hmp.complete(line):
            yield Completion(word, start_position=-typed)


class _PortWriter(io.StringIO):
    """The text stream that prompt_toolkit writes to: every flush is one message to the port."""

    def __init__(self, port: CharPort) -> None:
        super().__init__()
        self._port = port

    def flush(self) -> None:
        data = self.getvalue().encode()
        self.seek(0)
        self.truncate()
        if data:
            self._port.send(data)


class _PortInput(Input):
    """The keys that arrive at a port; what nobody has read yet waits in the port."""

    def __init__(self, port: CharPort, typed: bytes) -> None:
        self._port = port
        self._typed = typed
        self._read_again: Callable[[], None] = lambda: None
        self._keys: list[KeyPress] = []
        self.deaf = False
        """Whether to leave what comes from now on to the next reader of the port."""
        self._parser = Vt100Parser(self._keys.append)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def fileno(self) -> int:
        raise io.UnsupportedOperation("a character port has no file descriptor")

    def typeahead_hash(self) -> str:
        return f"port-{id(self._port)}"

    def read_keys(self) -> list[KeyPress]:
        if self.deaf:
            return []
        typed = self._typed + self._port.receive(INPUT_LIMIT)
        # What comes behind a line belongs to the next prompt, which does not know its history before it is shown.
        line_end = min((index for end in b"\r\n" if (index := typed.find(end)) >= 0), default=len(typed)) + 1
        self._typed = typed[line_end:]
        self._parser.feed(self._decoder.decode(typed[:line_end]))
        if self._typed:
            self._read_again()
        return self._take_keys()

    def take_ctrl_c(self) -> bool:
        """Whether Ctrl-C has been typed while no prompt reads keys."""
        self._typed += self._port.receive(INPUT_LIMIT)
        _forgotten, ctrl_c, rest = self._typed.rpartition(b"\x03")
        if ctrl_c:
            self._typed = rest
        return bool(ctrl_c)

    def flush_keys(self) -> list[KeyPress]:
        self._parser.flush()
        return self._take_keys()

    @property
    def closed(self) -> bool:
        return False

    def raw_mode(self) -> AbstractContextManager[None]:
        return nullcontext()

    def cooked_mode(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def attach(self, input_ready_callback: Callable[[], None]) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        previous = self._port.on_input
        self._read_again = lambda: _call_soon(loop, input_ready_callback)
        self._port.on_input = self._read_again
        # For what was typed while no one listened; one step later, as the prompt begins to load its history only now.
        loop.call_soon(self._read_again)
        try:
            yield
        finally:
            self._port.on_input = previous
            self._read_again = lambda: None

    @contextmanager
    def detach(self) -> Iterator[None]:
        previous = self._port.on_input
        self._port.on_input = lambda: None
        try:
            yield
        finally:
            self._port.on_input = previous
            self._read_again()

    def _take_keys(self) -> list[KeyPress]:
        keys = self._keys[:]
        self._keys.clear()
        return keys


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    # The session may have ended a moment ago, which closes the loop, and then there is nothing left to do.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)
