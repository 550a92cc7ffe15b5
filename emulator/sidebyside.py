"""Guests' consoles on one terminal: side by side where there is room, else line by line, each with its name."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

ERASED_LINE = re.compile(r"[^\n]*\r\x1b\[K")
"""A line that the guest takes back to print something in its place."""

ROOM_COLUMNS, ROOM_ROWS = 80, 20
"""The smallest terminal in which consoles stand side by side."""
MOST_LINES = 12


class Pane:
    """One console: a title, which may change, and `read`, which gives all that the guest has sent so far."""

    def __init__(self, name: str, title: str, read: Callable[[], bytes]) -> None:
        self.name = name
        self.title = title
        self._read = read
        self.printed = 0
        """Lines that have been printed, where consoles are not side by side."""

    @property
    def text(self) -> str:
        """What the console shows: lines that the guest has taken back are not there."""
        return ERASED_LINE.sub("", self._read().decode("ascii", "replace")).replace("\r\n", "\n").replace("\r", "")


class SideBySide:
    """Shows panes while a `with` block runs; `show` draws what is new, `say` puts a remark before it."""

    def __init__(self, console: Console, panes: Sequence[Pane]) -> None:
        self._console = console
        self._panes = panes
        room = console.width >= ROOM_COLUMNS and console.height >= ROOM_ROWS
        self._lines = min(MOST_LINES, console.height - ROOM_ROWS // 2)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and room else None

    def __enter__(self) -> SideBySide:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.show()
        if self._live is not None:
            self._live.stop()

    @property
    def drawn(self) -> bool:
        """Whether the consoles stand side by side, and somebody looks."""
        return self._live is not None

    def say(self, remark: str) -> None:
        """Print a remark in lines that fit."""
        self.show()
        self._console.print()
        for line in textwrap.wrap(remark, self._console.width - 3):
            self._console.print(Text(f"# {line}", style="cyan"))
        self.show()

    def show(self) -> None:
        """Draw the panes, or print those lines of theirs that are complete and new."""
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for pane in self._panes:
            lines = pane.text.split("\n")[:-1]
            for line in lines[pane.printed :]:
                self._console.out(f"{pane.name}| {line}")
            pane.printed = len(lines)

    def _table(self) -> Table:
        table = Table.grid(expand=True)
        for _ in self._panes:
            table.add_column(ratio=1)
        table.add_row(*(self._panel(pane) for pane in self._panes))
        return table

    def _panel(self, pane: Pane) -> Panel:
        width = self._console.width // len(self._panes) - 4
        lines = [piece for line in pane.text.split("\n") for piece in (textwrap.wrap(line, width) or [line])]
        text = Text("\n".join(lines[-self._lines :]), no_wrap=True, overflow="crop")
        return Panel(text, title=pane.title, title_align="left", height=self._lines + 2)
