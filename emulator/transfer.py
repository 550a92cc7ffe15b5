"""A machine's way into streams and out of them: saved and loaded, and handed from one process to another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from emulator.core.errors import ConfigError
from emulator.cpu.vcpu import MSIP, SEIP
from emulator.machinestate import subject_of, was_running
from emulator.migration import files, savevm
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.snapshots import SnapshotDirectory
from emulator.runner import MOVING, Runner
from emulator.runstate import RunState


class Transfer:
    """Saves, loads and moves what `runner` runs, a machine of type `name`; from any thread unless it says otherwise."""

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        self._name = name
        self._frozen: RunState | None = None
        """What the guest did before it was frozen."""

    # Saving and going back

    def save(self, path: Path) -> None:
        """See `Machine.save`."""

        def write() -> None:
            with self.held() as subject, files.replacing(path) as file:
                savevm.save(subject, file.write)

        self._runner.call(write)

    def load(self, path: Path) -> None:
        """See `Machine.load`."""

        def read() -> None:
            self._runner.check_not_moving()
            with ExitStack() as stack:
                subject = stack.enter_context(self.held())
                data, fd = stack.enter_context(files.mapped(path))
                self.take_over(stack.enter_context(savevm.load(subject, data, fd)), subject)

        self._runner.call(read)

    def savevm(self, snapshots: SnapshotDirectory, tag: str | None) -> str:
        """See `Machine.savevm`."""
        runner = self._runner

        def write() -> str:
            with self.held() as subject:
                return snapshots.save(
                    tag,
                    subject,
                    ram_size=runner.board.config.ram_size,
                    virtual_clock=runner.clock.now(),
                    icount=runner.vcpu.instructions if runner.time.icount else None,
                )

        return runner.call(write)

    def loadvm(self, snapshots: SnapshotDirectory, tag: str) -> None:
        """See `Machine.loadvm`."""

        def read() -> None:
            self._runner.check_not_moving()
            with self.held() as subject, snapshots.load(tag, subject) as loaded:
                self.take_over(loaded, subject)

        self._runner.call(read)

    # Leaving

    def freeze(self) -> Subject:
        """Stop the guest so that it can be moved; only `thaw` and `give_up` go on from there."""
        runner = self._runner

        def stop() -> Subject:
            if runner.status.ended or runner.status in MOVING:
                raise ConfigError(f"there is no guest to move: the machine is in state {runner.status}")
            with self.held() as subject:
                self._frozen, runner.status = runner.status, RunState.FINISH_MIGRATE  # `held` has told of the stop
                return subject

        return runner.call(stop)

    def thaw(self) -> None:
        """Undo `freeze`; harmless without one, or after `give_up`."""
        runner = self._runner

        def go_on() -> None:
            before, self._frozen = self._frozen, None
            if before is not None and runner.status is RunState.FINISH_MIGRATE:
                runner.status = before if before is not RunState.RUNNING else RunState.PAUSED
                runner.poll_input()
                if before is RunState.RUNNING:
                    runner.go_on()

        runner.call(go_on)

    def give_up(self) -> None:
        """The frozen guest runs elsewhere from now on."""

        def leave() -> None:
            self._frozen = None
            self._runner.status = RunState.POSTMIGRATE

        self._runner.call(leave)

    def throttle(self, percent: int) -> None:
        """Let the vCPU rest for so much of its time, 0 to 99 %."""
        self._runner.call(lambda: setattr(self._runner, "throttle", percent))

    # Coming

    def expect(self) -> None:
        """Wait for a guest that comes from elsewhere: there is nothing to run before."""
        self._runner.call(lambda: self._runner.stop(RunState.INMIGRATE))

    def subject(self) -> Subject:
        """The stopped machine as streams see it."""

        def look() -> Subject:
            with self.held() as subject:
                return subject

        return self._runner.call(look)

    def adopt(self, loaded: Loaded) -> bool:
        """Become a loaded machine, whose guest waits for `arrive`; whether it ran where it comes from."""

        def become() -> bool:
            with self.held() as subject:
                self.take_over(loaded, subject)
            return was_running(loaded)

        return self._runner.call(become)

    def arrive(self, *, running: bool) -> None:
        """The adopted guest is this machine's from now on, and goes on or is paused."""

        def begin() -> None:
            self._runner.status = RunState.PAUSED
            self._runner.poll_input()
            if running:
                self._runner.go_on()

        self._runner.call(begin)

    # On the machine's thread

    @contextmanager
    def held(self) -> Iterator[Subject]:
        """The machine as streams see it, whose guest stands still; see `Runner.held`."""
        runner = self._runner
        with runner.held():
            yield subject_of(self._name, runner.time, runner.vcpu, runner.board, runner.status)

    def take_over(self, loaded: Loaded, subject: Subject) -> None:
        """Become a loaded machine; what drives the hart's interrupt lines has the last word on them."""
        runner = self._runner
        loaded.adopt(subject)
        runner.board.restore_software_interrupts(runner.vcpu.env["mip"] & MSIP)
        for line, bit in runner.interrupt_lines():
            if line.level or bit != SEIP:  # the guest can set that one by itself
                runner.vcpu.set_line(bit, line.level)
        runner.revive()
        runner.poll_input()
