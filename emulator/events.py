"""What happens to a machine, told to whoever wants to know, under the names that QEMU's QAPI schema gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Listener = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event, such as `RESET`, and its data, such as `{"guest": True, "reason": "guest-reset"}`."""


class Events:
    """The listeners of one machine. They are called on its thread: they must not block, nor raise."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` from now on; from any thread."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Call `listener` no more, except for an event that is being told right now; harmless when repeated."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    def emit(self, name: str, data: Mapping[str, Any] | None = None) -> None:
        """Tell every listener; on the machine's thread."""
        for listener in tuple(self._listeners):
            listener(name, data or {})
