"""What mini-qemu can tell about a guest, by QEMU's `-d` item names.

Each item is a standard logger below `mini-qemu`, silent until it is asked for. A guest can cause any number of
messages, so callers on a hot path look at `enabled` first.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import IO

ITEMS = {
    "in_asm": "show guest code once for each block that is run for the first time",
    "int": "show interrupts and exceptions",
    "exec": "show each block of guest code before it runs",
    "mmio": "show each access to a device register",
    "guest_errors": "log when the guest does something invalid",
    "unimp": "log when the guest uses something that is not implemented",
}


class _Output(logging.StreamHandler[IO[str]]):
    """Where messages go; when it cannot be written any more, this is said once and logging ends."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        """See logging."""
        for item in ITEMS:
            logger(item).setLevel(logging.CRITICAL + 1)
        _root.removeHandler(self)
        with contextlib.suppress(OSError):
            print(f"mini-qemu: log: {sys.exc_info()[1]}; no more is logged", file=sys.stderr)


_root = logging.getLogger("mini-qemu")
_root.propagate = False
_root.addHandler(logging.NullHandler())


def logger(item: str) -> logging.Logger:
    """The logger of one `-d` item; it lets nothing through until `enable` names it."""
    log = _root.getChild(item)
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL + 1)
    return log


guest_errors = logger("guest_errors")
unimp = logger("unimp")
mmio = logger("mmio")
interrupts = logger("int")
in_asm = logger("in_asm")
executed = logger("exec")


def enabled(log: logging.Logger) -> bool:
    """Whether messages to this item go anywhere."""
    return log.isEnabledFor(logging.DEBUG)


def enable(items: list[str], path: str | None) -> None:
    """Let `items` through to the file at `path` (emptied first; OSError if that fails), or to standard error."""
    stream = sys.stderr if path is None else Path(path).open("w", encoding="utf-8")  # noqa: SIM115
    handler = _Output(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _root.addHandler(handler)
    for item in items:
        logger(item).setLevel(logging.DEBUG)
