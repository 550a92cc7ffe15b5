"""The `file` chardev: output goes to a file, there is no input."""

from __future__ import annotations

import os

from emulator.chardev.base import Hooks, HostPort, StreamChardev, reason
from emulator.chardev.loop import IoLoop
from emulator.core.errors import ChardevError


class FileChardev(StreamChardev):
    """Writes to the file at `path`, created or emptied first; ChardevError if it cannot be opened."""

    drain_seconds = None

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks, path: str) -> None:
        super().__init__(port, loop, hooks)
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ChardevError(f"cannot open {path}: {reason(error)}") from error

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        return "file"

    def _begin(self) -> None:
        self._connect(None, self._file)

    def _target_failed(self, error: OSError) -> None:
        self._disconnect()
        self._hooks.announce(f"{self._path}: {reason(error)}; further output of {self.label} is lost")
