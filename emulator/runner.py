"""The machine's thread: it runs the guest, and everything that the guest can see is touched there alone.

Work for it comes from elsewhere with `call` and `post`, and is done between two blocks of guest code, whether the guest
runs, sleeps or is stopped. What begins with "on the machine's thread" is to be called by such work.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from emulator.boards.virt import VirtBoard
from emulator.core.clock import NS_PER_SECOND
from emulator.core.errors import ConfigError
from emulator.core.irq import IrqLine
from emulator.core.latch import Latch
from emulator.cpu.vcpu import MEIP, MSIP, MTIP, SEIP, Vcpu
from emulator.events import Events
from emulator.kicker import Kicker
from emulator.runstate import RunState
from emulator.timekeeper import Timekeeper

T = TypeVar("T")

MOVING = (RunState.FINISH_MIGRATE, RunState.INMIGRATE)
"""States in which only the migration can let the guest go on."""

THROTTLE_SLICE_NS = 10_000_000
"""How long a throttled vCPU runs between two rests."""


class Runner:
    """Runs one board's guest; until `start` there is neither, and work waits.

    With `reboot` a guest that asks for a reset gets it; otherwise that ends the machine.
    """

    def __init__(self, timekeeper: Timekeeper, events: Events, *, reboot: bool) -> None:
        self.time = timekeeper
        self.clock = timekeeper.clock
        self.events = events
        self.status = RunState.PRELAUNCH
        """The run state; changed on the machine's thread."""
        self.exit_status: int | None = None
        """What the guest or `end` ended the machine with; None while it has not ended."""
        self.failure: BaseException | None = None
        """What has ended the machine's thread, and should not have."""
        self.ended = Latch()
        self.on_end: Callable[[], None] = lambda: None
        """Called on the machine's thread when the machine has ended, and when it is closed."""
        self.goal: tuple[int, Callable[[], None]] | None = None
        """How many instructions are to have run, and what is called on the machine's thread then."""
        self.throttle = 0
        """For how much of its time the vCPU rests, 0 to 99 %."""
        self._reboot = reboot
        self._calls: deque[Callable[[], None]] = deque()
        self._has_ended = False
        """Whether the thread looks at no more calls."""
        self._wake = threading.Condition()
        self._closing = False
        self._reset_wanted = False
        self._thread: threading.Thread | None = None

    def start(self, board: VirtBoard, vcpu: Vcpu) -> None:
        """Wire the hart to the board, reset both and start the thread; the guest waits for `go_on`."""
        self.board, self.vcpu = board, vcpu
        for line, bit in self.interrupt_lines():
            line.connect(functools.partial(vcpu.set_line, bit))
        self.reset()
        with ExitStack() as undo:  # a signal's exception may come at any point
            self._kicker = Kicker(vcpu.stop, lambda: vcpu.running)
            undo.callback(self._kicker.close)
            self.clock.on_first_deadline = self._schedule
            self._thread = threading.Thread(target=self._main, name="machine", daemon=True)
            self._thread.start()
            undo.pop_all()

    def close(self) -> None:
        """End the guest and the thread, whatever they are at."""
        self._closing = True
        if self._thread is not None:
            self._kick()
            self._thread.join()
            self._announce_end()
            self._kicker.close()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the machine's thread and return its result, or raise its error; from any thread."""
        assert self._thread is not None
        if threading.current_thread() is self._thread:
            return function()
        if self._closing:
            raise ConfigError("the machine has been closed")
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(answer)
        if self._has_ended and not self._closing:
            self._run_calls()
        while True:
            try:
                return future.result(timeout=1)
            except TimeoutError:
                is_alive = self._thread.is_alive()
                if future.done():
                    return future.result()  # it has ended just now, or the error is its own
                if not is_alive:
                    raise ConfigError("the machine has been closed") from None

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the machine's thread soon; from any thread, returns at once."""
        self._calls.append(function)
        self._kick()

    # On the machine's thread: the guest's run state

    def check_not_moving(self) -> None:
        """Raise ConfigError while the guest is between two machines: it must not become another one meanwhile."""
        if self.status in MOVING:
            raise ConfigError(f"the guest is being moved: the machine is in state {self.status}")

    def go_on(self) -> None:
        """Let the guest run; harmless if it runs or has ended. Raises ConfigError while it is being moved."""
        self.check_not_moving()
        if self.status.ended or self.status is RunState.RUNNING:
            return
        self.status = RunState.RUNNING
        self.poll_input()
        self.time.start()
        self._schedule()
        self.events.emit("RESUME")

    def stop(self, status: RunState = RunState.PAUSED) -> None:
        """Stop the guest, and be in this state from now on."""
        self.time.stop()
        was_running = self.status is RunState.RUNNING
        self.status = status
        if was_running and status is not RunState.SHUTDOWN:
            self.events.emit("STOP")

    @contextmanager
    def held(self) -> Iterator[None]:
        """The guest stands between two instructions, and its time with it; raises ConfigError if that is impossible."""
        if self.vcpu.running:
            raise ConfigError("not in the middle of an instruction: use `post` inside of a callback")
        if self.failure is not None:
            raise ConfigError("the machine has failed, and can neither be saved nor go back")
        if self._reset_wanted:
            self.reset("guest-reset")
        self.time.stop()
        if self.status is RunState.RUNNING:
            self.events.emit("STOP")
        try:
            yield
        finally:
            if self.status is RunState.RUNNING:
                self.time.start()
                self._schedule()
                self.events.emit("RESUME")

    def poll_input(self) -> None:
        """Give the guest what has been typed; what is typed while it moves waits for whoever has it in the end."""
        if self.status not in (*MOVING, RunState.POSTMIGRATE):
            self.board.poll_input()

    def revive(self) -> None:
        """Undo the end, if there was one: the guest is paused."""
        if self.status.ended:
            self.status = RunState.PAUSED
            self.exit_status = None
            self.ended.clear()

    def end(self, status: int, reason: str) -> None:
        """End the machine, for one of the reasons of QAPI's `ShutdownCause`; harmless if it has ended."""
        if not self.status.ended:
            self.exit_status = status
            self.stop(RunState.SHUTDOWN)
            self.events.emit("SHUTDOWN", _cause(reason))
            self._announce_end()

    def guest_exit(self, status: int) -> None:
        """The guest has told the finisher to end the machine."""
        self.end(status, "guest-panic" if status else "guest-shutdown")
        self.vcpu.stop_here()

    def guest_reset(self) -> None:
        """The guest wants to be reset, when its present instruction is through."""
        if self._reboot:
            self._reset_wanted = True
        else:
            self.end(0, "guest-reset")
        self.vcpu.stop_here()

    def reset(self, reason: str | None = None) -> None:
        """Reset for one of the reasons of QAPI's `ShutdownCause`; without one, nobody is told."""
        self._reset_wanted = False
        board = self.board
        board.reset()
        self.vcpu.reset()
        for line, bit in self.interrupt_lines():
            self.vcpu.set_line(bit, line.level)
        self.vcpu.env["pc"] = board.reset_address
        board.poll_input()
        if reason is not None:
            self.events.emit("RESET", _cause(reason))

    def interrupt_lines(self) -> tuple[tuple[IrqLine, int], ...]:
        """The lines from the board to the hart, each with its bit in `mip`."""
        lines = self.board.lines[0]
        return (lines.msip, MSIP), (lines.mtip, MTIP), (lines.meip, MEIP), (lines.seip, SEIP)

    # The thread itself

    def _main(self) -> None:
        try:
            while not self._closing:
                self.vcpu.engine.clear_stop()
                self._run_calls()
                if self._reset_wanted:
                    self.reset("guest-reset")
                if self.status is not RunState.RUNNING:
                    self._sleep(None)
                    continue
                if self.goal is not None and self.vcpu.instructions >= self.goal[0]:
                    self.goal[1]()
                    continue
                self.clock.run_expired()
                if self._calls or self.status is not RunState.RUNNING:
                    continue
                if self.vcpu.halted and not self.vcpu.wakes:
                    self._idle()
                elif self.throttle:
                    self._run_throttled()
                else:
                    self._schedule()
                    self.vcpu.run(self._budget())
        except BaseException as failure:
            self.failure = failure
            self.stop(RunState.INTERNAL_ERROR)
            self._announce_end()
        try:
            self._run_calls()
        finally:
            self._has_ended = True
        self._run_calls()  # what came in between

    def _run_calls(self) -> None:
        """Run what has been posted, in its order; when the thread has ended, another one may be at it as well."""
        while True:
            try:
                function = self._calls.popleft()
            except IndexError:
                return
            function()

    def _run_throttled(self) -> None:
        """Run for a while, and rest as long as the throttle says; timers and callers wait for neither."""
        begun = time.monotonic_ns()
        deadline = self.time.host_deadline()
        slice_end = (begun + THROTTLE_SLICE_NS) / NS_PER_SECOND
        self._kicker.schedule(slice_end if deadline is None else min(deadline, slice_end))
        self.vcpu.run(self._budget())
        self._sleep((time.monotonic_ns() - begun) * self.throttle // (100 - self.throttle))

    def _budget(self) -> int:
        """Instructions until the next deadline; 0 (no end) when they are not counted."""
        if self.time.icount is None:
            return 0
        left = self.time.instructions_left()
        budget = 1 << 30 if left is None else left
        if self.goal is not None:
            budget = min(budget, self.goal[0] - self.vcpu.instructions)
        return max(budget, 1)

    def _idle(self) -> None:
        """Wait in `wfi` for the next deadline or for somebody to call."""
        deadline = self.clock.next_deadline()
        if self.time.icount is None:
            self._sleep(None if deadline is None else deadline - self.clock.now())
        elif deadline is None:
            self._sleep(None)
        else:
            left = deadline - self.clock.now()
            self.time.idle(left if not self.time.icount.sleep else min(self._sleep(left), left))

    def _sleep(self, ns: int | None) -> int:
        """Sleep for `ns` of host time, or until kicked; returns how long it took, at least `ns` if not kicked."""
        started = time.monotonic_ns()
        with self._wake:
            if self._calls or self._closing:
                return 0
            notified = self._wake.wait(None if ns is None else max(ns, 0) / NS_PER_SECOND)
        elapsed = time.monotonic_ns() - started
        return elapsed if notified or ns is None else max(elapsed, ns)

    def _kick(self) -> None:
        if self._thread is None:
            return
        with self._wake:
            self._wake.notify()
        if threading.current_thread() is self._thread:
            self.vcpu.stop_here()
        else:
            self._kicker.kick()

    def _schedule(self) -> None:
        if self.time.icount is None and self.status is RunState.RUNNING:
            self._kicker.schedule(self.time.host_deadline())

    def _announce_end(self) -> None:
        self.ended.set()
        self.on_end()


def _cause(reason: str) -> dict[str, object]:
    return {"guest": reason.startswith("guest-"), "reason": reason}
