"""The machine's run states, by QEMU's names."""

from __future__ import annotations

import enum


class RunState(enum.StrEnum):
    """What the machine as a whole is doing (QEMU's QAPI type `RunState`, as far as it applies)."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    FINISH_MIGRATE = "finish-migrate"
    INMIGRATE = "inmigrate"
    POSTMIGRATE = "postmigrate"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal-error"

    @property
    def ended(self) -> bool:
        """Whether the guest can never run again."""
        return self in (RunState.SHUTDOWN, RunState.INTERNAL_ERROR)
