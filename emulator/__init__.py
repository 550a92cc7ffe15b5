"""mini-qemu: QEMU's RISC-V `virt` board in Python.

The public names; each is imported when it is first used, so that a small tool does not pay for the whole machine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.conditions import Condition, Elapsed, Instructions, Serial
    from emulator.core.errors import EmulatorError
    from emulator.machine import Machine
    from emulator.runstate import RunState
    from emulator.timekeeper import Icount

__all__ = ["Condition", "Elapsed", "EmulatorError", "Icount", "Instructions", "Machine", "RunState", "Serial"]

_HOMES = {
    "Condition": "conditions",
    "Elapsed": "conditions",
    "EmulatorError": "core.errors",
    "Icount": "timekeeper",
    "Instructions": "conditions",
    "Machine": "machine",
    "RunState": "runstate",
    "Serial": "conditions",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'emulator' has no attribute '{name}'")
    return getattr(importlib.import_module(f"emulator.{_HOMES[name]}"), name)
