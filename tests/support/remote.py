"""A `Machine` in another process, at work for the test: functions are carried out there, and machines stay."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from emulator import Machine


class Remote:
    """A process with a machine; `call(function, ...)` returns what `function(machine, ...)` returns there."""

    def __init__(self, **options: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, options), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Its result; AssertionError with its error. The function is one that can be imported."""
        self.begin(function, *arguments)
        return self.result()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let it be carried out while others do something."""
        self._pipe.send((function, arguments))

    def result(self) -> Any:
        """What `begin` has led to."""
        result, error = self._pipe.recv()
        assert not error, error
        return result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def _serve(pipe: Connection, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Machine("virt", ram="16M", **options) as machine:
        while True:
            try:
                function, arguments = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send((function(machine, *arguments), ""))
            except Exception as error:
                pipe.send((None, f"{type(error).__name__}: {error}"))


def boot(machine: Machine) -> None:
    """Run the guest up to its prompt, and on."""
    from emulator import Serial

    machine.run(until=Serial("toy> "), timeout=60)
    machine.cont()


def listen(machine: Machine, uri: str) -> str:
    """Expect a guest."""
    return machine.migration.listen(uri)


def migrate(machine: Machine, uri: str) -> tuple[str, str | None, float]:
    """Send the guest away; how that ended, why, and the downtime in seconds."""
    machine.migration.migrate(uri)
    status = machine.migration.wait(60)
    return str(status), machine.migration.progress.error, machine.migration.progress.figures.downtime or 0.0


def wait_for_guest(machine: Machine) -> str:
    """Wait for the guest that is expected; the state of the machine then."""
    machine.migration.wait_for_guest(60)
    return str(machine.status)


def type_at(machine: Machine, text: str) -> None:
    """Type at the guest."""
    machine.serial.write(text)


def said(machine: Machine) -> bytes:
    """All that the guest has said here."""
    return machine.serial.output
