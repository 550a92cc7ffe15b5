"""What `Machine.run` can wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.core.errors import ConfigError

if TYPE_CHECKING:
    from emulator.machine import Machine


class Condition:
    """Something that will hold at one moment of the guest's run; all calls come on the machine's thread."""

    def begin(self, machine: Machine, met: Callable[[], None]) -> bool:
        """Start to watch and call `met()` when it holds; True (after calling it) if it holds already."""
        raise NotImplementedError

    def end(self, machine: Machine) -> None:
        """Stop watching; called once after `begin`."""


class Serial(Condition):
    """The guest sends `text` on its first serial port, after what an earlier `Serial` has waited for."""

    def __init__(self, text: str | bytes) -> None:
        self.pattern = text.encode() if isinstance(text, str) else text

    def __repr__(self) -> str:
        return f"Serial({self.pattern!r})"

    def begin(self, machine: Machine, met: Callable[[], None]) -> bool:
        """See Condition.begin."""
        serial = machine.serial
        if not serial.records:
            raise ConfigError("what the guest sends goes to the port that the machine was given: watch it there")

        def found() -> bool:
            end = serial.find(self.pattern, max(serial.searched, looked_to[0]))
            looked_to[0] = max(serial.sent - len(self.pattern), 0)
            if end is None:
                return False
            serial.searched = end
            met()
            return True

        looked_to = [0]

        def look() -> None:
            found()

        if found():
            self._look = None
            return True
        self._look = look
        serial.watch(look)
        return False

    def end(self, machine: Machine) -> None:
        """See Condition.end."""
        if self._look is not None:
            machine.serial.unwatch(self._look)


class Elapsed(Condition):
    """`seconds` of virtual time have passed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"Elapsed({self.seconds})"

    def begin(self, machine: Machine, met: Callable[[], None]) -> bool:
        """See Condition.begin."""
        self._timer = machine.clock.timer("until", met)
        self._timer.arm(machine.clock.now() + int(self.seconds * 1e9))
        return False

    def end(self, machine: Machine) -> None:  # noqa: ARG002
        """See Condition.end."""
        self._timer.cancel()


class Instructions(Condition):
    """`count` more instructions have run; needs `icount`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __repr__(self) -> str:
        return f"Instructions({self.count})"

    def begin(self, machine: Machine, met: Callable[[], None]) -> bool:
        """See Condition.begin."""
        return machine.stop_after(self.count, met)

    def end(self, machine: Machine) -> None:
        """See Condition.end."""
        machine.cancel_stop_after()
