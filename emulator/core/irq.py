"""An interrupt line: a level that one device drives and one sink watches.

The sink is called on edges only. A line is wiring, not state: what a device drives follows from its own state, so a
restored device says its level with `restore_level`, which moves the line without an edge.
"""

from __future__ import annotations

from collections.abc import Callable

IrqSink = Callable[[bool], None]


class IrqLine:
    """A level-sensitive line from a device's output to a sink such as an interrupt controller's input."""

    __slots__ = ("_level", "_sink", "name")

    def __init__(self, name: str = "irq") -> None:
        self.name = name
        self._level = False
        self._sink: IrqSink | None = None

    @property
    def level(self) -> bool:
        """Whether the line is asserted."""
        return self._level

    def connect(self, sink: IrqSink) -> None:
        """Let `sink(level)` hear every later change; a line has one sink at most."""
        if self._sink is not None:
            raise ValueError(f"interrupt line {self.name} is already connected")
        self._sink = sink

    def set(self, level: bool) -> None:
        """Drive the line; the sink hears of it only if the level changed."""
        if level != self._level:
            self._level = level
            if self._sink is not None:
                self._sink(level)

    def restore_level(self, level: bool) -> None:
        """Put the line where a restored device left it, without an edge: the sink restores its own state."""
        self._level = level
