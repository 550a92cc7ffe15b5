"""A machine's way into streams and out of them: saved and loaded, and handed from one process to another."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from emulator import qemupeer
from emulator.core.errors import ConfigError
from emulator.cpu.vcpu import MSIP, SEIP
from emulator.machinestate import Changes, subject_of, was_running
from emulator.migration import files, savevm
from emulator.migration.registry import Registry
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.snapshots import SnapshotDirectory
from emulator.runner import MOVING, Runner
from emulator.runstate import RunState


class Transfer:
    """Saves, loads and moves what `runner` runs; from any thread unless it says otherwise.

    `timer_fix` is what becomes of the guest's timer on its way to a QEMU: see `Machine`.
    """

    def __init__(self, runner: Runner, timer_fix: str) -> None:
        self.runner = runner
        self._timer_fix = timer_fix
        self._frozen: RunState | None = None
        """What the guest did before it was frozen."""

    # Saving and going back

    def save(self, path: Path) -> None:
        """See `Machine.save`."""

        def write() -> None:
            with self.held(self._changes()) as subject, files.replacing(path) as file:
                savevm.save(subject, file.write)

        self.runner.call(write)

    def load(self, path: Path) -> None:
        """See `Machine.load`."""

        def read() -> None:
            self.runner.check_not_moving()
            with ExitStack() as stack:
                subject = stack.enter_context(self.held())
                data, fd = stack.enter_context(files.mapped(path))
                self.take_over(stack.enter_context(savevm.load(subject, data, fd)), subject)

        self.runner.call(read)

    def savevm(self, snapshots: SnapshotDirectory, tag: str | None) -> str:
        """See `Machine.savevm`."""
        runner = self.runner

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
            self.runner.check_not_moving()
            with self.held() as subject, snapshots.load(tag, subject) as loaded:
                self.take_over(loaded, subject)

        self.runner.call(read)

    # Leaving

    def freeze(self, *, for_qemu: bool = False) -> Subject:
        """Stop the guest so that it can be moved, to a QEMU or another; only `thaw` and `give_up` go on from there."""
        runner = self.runner

        def stop() -> Subject:
            if runner.status.ended or runner.status in MOVING:
                raise ConfigError(f"there is no guest to move: the machine is in state {runner.status}")
            with self.held(self._changes(for_qemu=for_qemu)) as subject:
                self._frozen, runner.status = runner.status, RunState.FINISH_MIGRATE  # `held` has told of the stop
                return subject

        return runner.call(stop)

    def thaw(self) -> None:
        """Undo `freeze`; harmless without one, or after `give_up`."""
        runner = self.runner

        def go_on() -> None:
            before, self._frozen = self._frozen, None
            if before is not None and runner.status is RunState.FINISH_MIGRATE:
                self._settle(before)

        runner.call(go_on)

    def give_up(self) -> None:
        """The frozen guest runs elsewhere from now on."""

        def leave() -> None:
            self._frozen = None
            self.runner.status = RunState.POSTMIGRATE

        self.runner.call(leave)

    def throttle(self, percent: int) -> None:
        """Let the vCPU rest for so much of its time, 0 to 99 %, from soon on."""
        self.runner.post(lambda: setattr(self.runner, "throttle", percent))

    # Coming

    def expect(self) -> None:
        """Wait for a guest that comes from elsewhere: there is nothing to run before."""
        self.runner.call(lambda: self.runner.stop(RunState.INMIGRATE))

    def subject(self) -> Subject:
        """The stopped machine as streams see it."""

        def look() -> Subject:
            with self.held() as subject:
                return subject

        return self.runner.call(look)

    def adopt(self, loaded: Loaded) -> bool:
        """Become a loaded machine, whose guest waits for `arrive`; whether it ran where it comes from."""

        def become() -> bool:
            with self.held() as subject:
                self.take_over(loaded, subject)
            return was_running(loaded)

        return self.runner.call(become)

    def arrive(self, *, running: bool) -> None:
        """The adopted guest is this machine's from now on, and goes on or is paused."""
        self.runner.call(lambda: self._settle(RunState.RUNNING if running else RunState.PAUSED))

    @property
    def registry(self) -> Registry:
        """The sections of the machine, which may run."""
        return self._subject().registry

    def _subject(self, changes: Changes | None = None) -> Subject:
        runner = self.runner
        return subject_of(runner.time, runner.vcpu, runner.board, runner.status, changes)

    # On the machine's thread

    @contextmanager
    def held(self, changes: Changes | None = None) -> Iterator[Subject]:
        """The machine as streams see it, whose guest stands still, with these changes; see `Runner.held`."""
        with self.runner.held():
            yield self._subject(changes)

    def _settle(self, status: RunState) -> None:
        """A guest that was between two machines is this one's: it runs, or is in that state."""
        self.runner.status = RunState.PAUSED if status is RunState.RUNNING else status
        self.runner.poll_input()
        if status is RunState.RUNNING:
            self.runner.go_on()

    def _changes(self, *, for_qemu: bool = False) -> Changes | None:
        """What is changed in a stream that is, or may be, for a QEMU."""
        if not (for_qemu or self._timer_fix == "on"):
            return None
        kind, cure = self.runner.board.config.machine_type, self._timer_fix != "off"
        return functools.partial(qemupeer.changed, kind=kind, cure_timer=cure)

    def take_over(self, loaded: Loaded, subject: Subject) -> None:
        """Become a loaded machine; what drives the hart's interrupt lines has the last word on them."""
        runner = self.runner
        loaded.adopt(subject)
        runner.board.restore_software_interrupts(runner.vcpu.env["mip"] & MSIP)
        for line, bit in runner.interrupt_lines():
            if line.level or bit != SEIP:  # the guest can set that one by itself
                runner.vcpu.set_line(bit, line.level)
        runner.revive()
        runner.poll_input()
