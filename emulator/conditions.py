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
        self._serial, self._met = serial, met
        self._looked_to = serial.searched
        serial.watch(self._look)
        return self._found()

    def end(self, machine: Machine) -> None:
        """See Condition.end."""
        machine.serial.unwatch(self._look)

    def _look(self) -> None:
        self._found()

    def _found(self) -> bool:
        end = self._serial.find(self.pattern, max(self._serial.searched, self._looked_to))
        # What may still be the beginning of the pattern is looked at again.
        self._looked_to = max(self._serial.sent - len(self.pattern), 0)
        if end is None:
            return False
        self._serial.searched = end
        self._met()
        return True


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
