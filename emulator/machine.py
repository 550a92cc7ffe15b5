"""The machine: a board, its vCPU, the clock and the run state, on a thread of its own.

One thread, the machine's, runs the guest and everything the guest can see: chips, timers, interrupt lines. Whoever is
elsewhere (a monitor, a chardev, the user of the API) hands it work with `call` or `post`, which is done between two
blocks of guest code, whether the guest runs, sleeps or is stopped. So nothing on the board needs a lock.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from emulator.boards.config import BoardConfig
from emulator.boards.virt import Requests, VirtBoard
from emulator.conditions import Condition
from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.clock import NS_PER_SECOND
from emulator.core.errors import ConfigError
from emulator.core.irq import IrqLine
from emulator.core.uuids import NO_UUID, format_uuid, parse_uuid
from emulator.cpu.vcpu import MEIP, MSIP, MTIP, SEIP, Vcpu
from emulator.cpuview import CpuView
from emulator.events import Events
from emulator.kicker import Kicker
from emulator.runstate import RunState
from emulator.serial import SerialConsole
from emulator.sizes import parse_size
from emulator.timekeeper import Icount, Timekeeper

if TYPE_CHECKING:  # what saves and loads is imported when it is needed
    from emulator.livemigration import LiveMigration
    from emulator.migration.savevm import Loaded, Subject
    from emulator.migration.snapshots import SnapshotDirectory

T = TypeVar("T")

BOARDS = {"virt": VirtBoard}
CPUS = ("sifive-u54",)

MOVING = (RunState.FINISH_MIGRATE, RunState.INMIGRATE)
"""States in which only the migration can let the guest go on."""

THROTTLE_SLICE_NS = 10_000_000
"""How long a throttled vCPU runs between two rests."""

DETERMINISTIC_SEED = bytes(32)
DETERMINISTIC_WALL_NS = 1_000_000_000 * NS_PER_SECOND
"""Wall-clock time at power-on when instructions are counted: 2001-09-09 01:46:40 UTC."""


class Machine:
    """A whole computer.

    `ram` is a size such as `"128M"`, or bytes. `kernel`, `bios`, `initrd` and `dtb` are files; `bios` may be `"none"`
    (start the kernel in machine mode) or `"default"` (OpenSBI). `port` is where the first UART's characters go; without
    one, `serial` keeps them for the program. `icount` is a shift or an `Icount`. `snapshots` is the directory of named
    snapshots. `uuid`, such as `"550e8400-e29b-41d4-a716-446655440000"`, tells the machine from others.

    The board is built on first use, when every option has been given: errors in them are raised there.

    >>> with Machine("virt", ram="16M") as m:
    ...     m.load_kernel("firmware/prebuilt/toy.elf")
    ...     _ = m.run(until=Serial("toy> "), timeout=60)
    ...     hex(m.cpu.pc)[:6]
    '0x8000'
    """

    def __init__(
        self,
        machine: str = "virt",
        *,
        ram: int | str = "128M",
        cpu: str = "sifive-u54",
        smp: int = 1,
        bios: str = "none",
        kernel: str | Path | None = None,
        initrd: str | Path | None = None,
        append: str = "",
        dtb: str | Path | None = None,
        icount: int | Icount | None = None,
        reboot: bool = True,
        force_legacy_virtio: bool = True,
        port: CharPort | None = None,
        snapshots: str | Path | None = None,
        uuid: str = "",
    ) -> None:
        if machine not in BOARDS:
            raise ConfigError(f"unsupported machine type '{machine}': use one of {', '.join(BOARDS)}")
        if cpu not in CPUS:
            raise ConfigError(f"unsupported CPU '{cpu}': use one of {', '.join(CPUS)}")
        if smp != 1:
            raise ConfigError(f"-smp {smp} is not supported yet: the machine has one hart")
        self.name = machine
        self.icount = Icount(icount) if isinstance(icount, int) else icount
        self.serial = SerialConsole(port)
        self._time = Timekeeper(self.icount)
        self.clock = self._time.clock
        self.exit_status: int | None = None
        """What the guest or `quit` ended the machine with; None while it has not ended."""
        self.config = BoardConfig(
            ram_size=parse_size(ram),
            smp=smp,
            bios=bios,
            kernel=_path(kernel),
            initrd=_path(initrd),
            append=append,
            dtb=_path(dtb),
            force_legacy_virtio=force_legacy_virtio,
            rng_seed=DETERMINISTIC_SEED if self.icount else None,
            wall_base_ns=DETERMINISTIC_WALL_NS if self.icount else None,
            uuid=parse_uuid(uuid) if uuid else NO_UUID,
        )
        self.on_stopping: Callable[[bool], None] = lambda _stopping: None
        """Called with True before `stop` waits for the machine's thread, with False after: let go of it."""
        self.events = Events()
        """What happens to the machine: STOP, RESUME, RESET, SHUTDOWN, POWERDOWN, and what others tell with it."""
        self._reboot = reboot
        self._snapshots = _path(snapshots)
        self._status = RunState.PRELAUNCH
        self._board: VirtBoard | None = None
        self._failure: BaseException | None = None
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._ended = threading.Event()
        self._closing = False
        self._reset_wanted = False
        self._condition_met = threading.Event()
        self._waiting = threading.Lock()
        self._building = threading.RLock()
        self._goal: tuple[int, Callable[[], None]] | None = None
        self._frozen: RunState | None = None
        self._throttle = 0

    # Building

    def load_kernel(self, path: str | Path) -> None:
        """Choose the image to boot; before first use of the machine."""
        self._configure(kernel=_path(path))

    def _configure(self, **changes: object) -> None:
        if self._board is not None:
            raise ConfigError("the machine has been built: choose its images before its first use")
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]

    def power_on(self) -> None:
        """Build the board and start the machine's thread; the guest waits for `cont` or `run`. Harmless if done."""
        with self._building:
            if self._board is None:
                self._build()

    def _build(self) -> None:
        if self._closing:
            raise ConfigError("the machine has been closed")
        with ExitStack() as undo:  # a signal's exception may come at any point
            requests = Requests(self._guest_exit, self._guest_reset)
            board = VirtBoard(self.config, self.clock, self.serial.port, requests)
            undo.callback(board.close)
            self._vcpu = vcpu = Vcpu(board.bus, time=board.mtime, cycles=self._cycles, counting=self.icount is not None)
            undo.callback(vcpu.close)
            self._time.connect(lambda: vcpu.instructions, vcpu.count_from, lambda: vcpu.halted)
            undo.callback(self._time.disconnect)
            self._board = board
            undo.callback(setattr, self, "_board", None)
            for line, bit in self._lines():
                line.connect(functools.partial(self._vcpu.set_line, bit))
            for rom in board.rom_devices:
                rom.device.on_mode_change = functools.partial(self._vcpu.map_rom_device, rom.base, rom.block)
            self._vcpu.trace()
            self._reset_now()
            self._kicker = Kicker(self._vcpu.stop, lambda: self._vcpu.running)
            undo.callback(self._kicker.close)
            self.clock.on_first_deadline = self._schedule
            self.serial.port.on_input = lambda: self.post(self._poll_input)
            self._thread = threading.Thread(target=self._main, name="machine", daemon=True)
            self._thread.start()
            undo.pop_all()

    def close(self) -> None:
        """End the guest and free everything; harmless if done."""
        if self._closing:
            return
        if "migration" in self.__dict__:
            self.migration.close()
        self._closing = True
        if self._board is None:
            return
        self._kick()
        self._thread.join()
        self._announce_end()
        self._kicker.close()
        self._vcpu.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # What people look at

    @property
    def status(self) -> RunState:
        """The run state."""
        return self._status

    @property
    def uuid(self) -> str:
        """The machine's identifier; all zeros if it has been given none."""
        return format_uuid(self.config.uuid)

    @property
    def board(self) -> VirtBoard:
        """The board, built on first use."""
        self.power_on()
        assert self._board is not None
        return self._board

    @property
    def bus(self) -> AddressMap:
        """The physical address map."""
        return self.board.bus

    @property
    def cpu(self) -> CpuView:
        """The first hart, as seen from any thread."""
        self.power_on()
        return CpuView(self._vcpu, self.call)

    @property
    def virtual_time(self) -> int:
        """The virtual clock in ns."""
        return self.call(self.clock.now)

    @property
    def instructions(self) -> int:
        """Instructions run since power-on; 0 unless `icount` was given."""
        return self.call(lambda: self._vcpu.instructions)

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes of RAM or ROM at a physical address."""
        return self.call(lambda: self.bus.read_ram(address, length))

    def write(self, address: int, data: bytes) -> None:
        """Put `data` into RAM at a physical address; code that the guest has run there is read anew."""

        def put() -> None:
            self.bus.write_ram(address, data)
            self._vcpu.engine.flush()

        self.call(put)

    # Running

    def run(self, until: Condition | None = None, timeout: float | None = None) -> RunState:
        """Let the guest run until `until` holds, or until it ends, and stop it there; returns the run state.

        Raises TimeoutError, with the guest stopped, after `timeout` seconds of host time. One thread at a time.
        """
        self.power_on()
        if not self._waiting.acquire(blocking=False):
            raise ConfigError("the machine is run by another thread already")
        try:
            met = self._run(until, timeout)
        finally:
            self._waiting.release()
        self._raise_failure()
        if not met:
            raise TimeoutError(f"the guest did not reach {until} in {timeout} s; it said last: {self.serial.tail()!r}")
        return self._status

    def _run(self, until: Condition | None, timeout: float | None) -> bool:
        """Run until `until` holds or the guest ends; False if neither came in time."""
        self._condition_met.clear()
        begun = False

        def begin() -> None:
            nonlocal begun
            holds = until is not None and until.begin(self, self._met)
            begun = True
            if not holds:
                self._set_running()

        def end() -> None:
            if begun and until is not None:
                until.end(self)
            if begun and self._status is RunState.RUNNING:
                self._set_stopped(RunState.PAUSED)

        try:
            self.call(begin)
            return self._condition_met.wait(timeout)
        finally:
            self.call(end)

    def stop_after(self, count: int, met: Callable[[], None]) -> bool:
        """Call `met()` on the machine's thread when `count` more instructions have run."""
        if self.icount is None:
            raise ConfigError("instructions are counted only with icount")
        self._goal = (self._vcpu.instructions + count, met)
        return False

    def cancel_stop_after(self) -> None:
        """Undo `stop_after`."""
        self._goal = None

    def cont(self) -> None:
        """Let the guest run; from any thread."""
        self.power_on()
        self.call(self._set_running)

    def stop(self) -> None:
        """Stop the guest between two instructions; from any thread."""
        self.on_stopping(True)
        try:
            self.call(lambda: self._set_stopped(RunState.PAUSED) if self._status is RunState.RUNNING else None)
        finally:
            self.on_stopping(False)

    def reset(self) -> None:
        """Reset every chip and the hart, and load the images anew; a running guest goes on from there."""
        self.call(lambda: self._reset_now("host-qmp-system-reset"))

    def powerdown(self) -> None:
        """Press the power button. The board has none that a guest could hear, as QEMU's has none."""
        self.call(lambda: self.events.emit("POWERDOWN"))

    def quit(self, status: int = 0, reason: str = "host-qmp-quit") -> None:
        """End the machine, for one of the reasons of QAPI's `ShutdownCause`; from any thread, returns at once."""
        self.post(lambda: self._end(status, reason))

    def wait(self) -> int:
        """Block until the machine has ended; returns its exit status."""
        self._ended.wait()
        self._raise_failure()
        if self.exit_status is None:
            raise ConfigError("the machine has been closed")
        return self.exit_status

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the machine's thread and return its result, or raise its error; from any thread."""
        self.power_on()
        if threading.current_thread() is self._thread:
            return function()
        if self._closing:
            raise ConfigError("the machine has been closed")
        if not self._thread.is_alive():
            return function()
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(answer)
        while True:
            try:
                return future.result(timeout=1)
            except TimeoutError:
                if not self._thread.is_alive() and not future.done():
                    raise ConfigError("the machine has been closed") from None
                if future.done():
                    raise

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the machine's thread soon; from any thread, returns at once."""
        self._calls.append(function)
        self._kick()

    # Saving and going back

    def save(self, path: str | Path) -> None:
        """Write the whole machine to a stream file, as QEMU's `migrate` to a file does; a running guest goes on.

        The file at `path` is replaced when the new one is complete. Raises FileError.
        """
        from emulator.migration import files, savevm

        def write() -> None:
            with self._held() as subject, files.replacing(Path(path)) as file:
                savevm.save(subject, file.write)

        self.call(write)

    def load(self, path: str | Path) -> None:
        """Become the machine in a stream file or a snapshot file; a running guest goes on from there, a stopped one
        stays stopped, and one that has ended is stopped.

        Raises FileError or StreamError, and then nothing has changed.
        """
        from emulator.migration import files, savevm

        def read() -> None:
            with ExitStack() as stack:
                subject = stack.enter_context(self._held())
                data, fd = stack.enter_context(files.mapped(Path(path)))
                self._adopt(stack.enter_context(savevm.load(subject, data, fd)), subject)

        self.call(read)

    @property
    def snapshots(self) -> SnapshotDirectory:
        """The directory of the machine's named snapshots, whose names and dates it lists."""
        from emulator.migration.snapshots import SnapshotDirectory, default_directory

        return SnapshotDirectory(self._snapshots or default_directory(self.name))

    def savevm(self, tag: str | None = None) -> str:
        """Save the machine as the snapshot `tag`, by default named after the time; returns the name.

        Raises SnapshotError or FileError; a snapshot of that name is then still the old one.
        """

        def write() -> str:
            with self._held() as subject:
                return self.snapshots.save(
                    tag,
                    subject,
                    ram_size=self.config.ram_size,
                    virtual_clock=self.clock.now(),
                    icount=self._vcpu.instructions if self.icount else None,
                )

        return self.call(write)

    def loadvm(self, tag: str) -> None:
        """Go back to the snapshot `tag`; otherwise as `load`."""

        def read() -> None:
            with self._held() as subject, self.snapshots.load(tag, subject) as loaded:
                self._adopt(loaded, subject)

        self.call(read)

    # Moving

    @functools.cached_property
    def migration(self) -> LiveMigration:
        """The machine's live migrations, to another process and from one."""
        from emulator.livemigration import LiveMigration

        return LiveMigration(self)

    def freeze(self) -> Subject:
        """Stop the guest so that it can be moved; only `thaw` and `give_up` go on from there."""

        def stop() -> Subject:
            if self._status.ended or self._status in MOVING:
                raise ConfigError(f"there is no guest to move: the machine is in state {self._status}")
            with self._held() as subject:
                self._frozen, self._status = self._status, RunState.FINISH_MIGRATE  # _held has told of the stop
                return subject

        return self.call(stop)

    def thaw(self) -> None:
        """Undo `freeze`; harmless without one, or after `give_up`."""

        def go_on() -> None:
            before, self._frozen = self._frozen, None
            if before is not None and self._status is RunState.FINISH_MIGRATE:
                self._status = before if before is not RunState.RUNNING else RunState.PAUSED
                self._poll_input()
                if before is RunState.RUNNING:
                    self._set_running()

        self.call(go_on)

    def give_up(self) -> None:
        """The frozen guest runs elsewhere from now on."""

        def leave() -> None:
            self._frozen = None
            self._status = RunState.POSTMIGRATE

        self.call(leave)

    def expect(self) -> None:
        """Wait for a guest that comes from elsewhere: there is nothing to run before."""
        self.call(lambda: self._set_stopped(RunState.INMIGRATE))

    def subject(self) -> Subject:
        """The stopped machine as streams see it."""

        def look() -> Subject:
            with self._held() as subject:
                return subject

        return self.call(look)

    def adopt(self, loaded: Loaded) -> bool:
        """Become a loaded machine, whose guest waits for `arrive`; whether it ran where it comes from."""
        from emulator.machinestate import was_running

        def take_over() -> bool:
            with self._held() as subject:
                self._adopt(loaded, subject)
            return was_running(loaded)

        return self.call(take_over)

    def arrive(self, *, running: bool) -> None:
        """The adopted guest is this machine's from now on, and goes on or is paused."""

        def begin() -> None:
            self._status = RunState.PAUSED
            self._poll_input()
            if running:
                self._set_running()

        self.call(begin)

    def throttle(self, percent: int) -> None:
        """Let the vCPU rest for so much of its time, 0 to 99 %."""
        self.call(lambda: setattr(self, "_throttle", percent))

    @contextmanager
    def _held(self) -> Iterator[Subject]:
        """On the machine's thread: the guest stopped between two instructions, and its time with it."""
        from emulator.machinestate import subject_of

        if self._vcpu.running:
            raise ConfigError("not in the middle of an instruction: use `post` inside of a callback")
        if self._failure is not None:
            raise ConfigError("the machine has failed, and can neither be saved nor go back")
        if self._reset_wanted:
            self._reset_now("guest-reset")
        self._time.stop()
        if self._status is RunState.RUNNING:
            self.events.emit("STOP")
        try:
            yield subject_of(self.name, self._time, self._vcpu, self.board, self._status)
        finally:
            if self._status is RunState.RUNNING:
                self._time.start()
                self._schedule()
                self.events.emit("RESUME")

    def _adopt(self, loaded: Loaded, subject: Subject) -> None:
        """Take over a loaded machine; what drives the hart's interrupt lines has the last word on them."""
        loaded.adopt(subject)
        self.board.restore_software_interrupts(self._vcpu.env["mip"] & MSIP)
        for line, bit in self._lines():
            if line.level or bit != SEIP:  # the guest can set that one by itself
                self._vcpu.set_line(bit, line.level)
        if self._status.ended:
            self._status = RunState.PAUSED
            self.exit_status = None
            self._ended.clear()
        self._poll_input()

    def _poll_input(self) -> None:
        """Give the guest what has been typed; what is typed while it moves waits for whoever has it in the end."""
        if self._status not in (*MOVING, RunState.POSTMIGRATE):
            self.board.poll_input()

    # The machine's thread

    def _main(self) -> None:
        try:
            while not self._closing:
                self._vcpu.engine.clear_stop()
                while self._calls:
                    self._calls.popleft()()
                if self._reset_wanted:
                    self._reset_now("guest-reset")
                if self._status is not RunState.RUNNING:
                    self._sleep(None)
                    continue
                if self._goal is not None and self._vcpu.instructions >= self._goal[0]:
                    self._goal[1]()
                    continue
                self.clock.run_expired()
                if self._calls or self._status is not RunState.RUNNING:
                    continue
                if self._vcpu.halted and not self._vcpu.wakes:
                    self._idle()
                elif self._throttle:
                    self._run_throttled()
                else:
                    self._schedule()
                    self._vcpu.run(self._budget())
        except BaseException as failure:
            self._failure = failure
            self._set_stopped(RunState.INTERNAL_ERROR)
            self._announce_end()
        while self._calls:
            self._calls.popleft()()

    def _run_throttled(self) -> None:
        """Run for a while, and rest as long as the throttle says; timers and callers wait for neither."""
        begun = time.monotonic_ns()
        deadline = self._time.host_deadline()
        slice_end = (begun + THROTTLE_SLICE_NS) / NS_PER_SECOND
        self._kicker.schedule(slice_end if deadline is None else min(deadline, slice_end))
        self._vcpu.run(self._budget())
        self._sleep((time.monotonic_ns() - begun) * self._throttle // (100 - self._throttle))

    def _budget(self) -> int:
        """Instructions until the next deadline; 0 (no end) when they are not counted."""
        if self.icount is None:
            return 0
        left = self._time.instructions_left()
        budget = 1 << 30 if left is None else left
        if self._goal is not None:
            budget = min(budget, self._goal[0] - self._vcpu.instructions)
        return max(budget, 1)

    def _idle(self) -> None:
        """Wait in `wfi` for the next deadline or for somebody to call."""
        deadline = self.clock.next_deadline()
        if self.icount is None:
            self._sleep(None if deadline is None else deadline - self.clock.now())
        elif deadline is None:
            self._sleep(None)
        else:
            left = deadline - self.clock.now()
            self._time.idle(left if not self.icount.sleep else min(self._sleep(left), left))

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
        if self._board is None:
            return
        with self._wake:
            self._wake.notify()
        if threading.current_thread() is self._thread:
            self._vcpu.stop_here()
        else:
            self._kicker.kick()

    def _schedule(self) -> None:
        if self.icount is None and self._status is RunState.RUNNING:
            self._kicker.schedule(self._time.host_deadline())

    def _set_running(self) -> None:
        if self._status in MOVING:
            raise ConfigError(f"the guest is being moved: the machine is in state {self._status}")
        if self._status.ended or self._status is RunState.RUNNING:
            if self._status.ended:
                self._met()
            return
        self._status = RunState.RUNNING
        self._poll_input()
        self._time.start()
        self._schedule()
        self.events.emit("RESUME")

    def _set_stopped(self, status: RunState) -> None:
        self._time.stop()
        was_running = self._status is RunState.RUNNING
        self._status = status
        if was_running and status is not RunState.SHUTDOWN:
            self.events.emit("STOP")

    def _reset_now(self, reason: str | None = None) -> None:
        """Reset for one of the reasons of QAPI's `ShutdownCause`; without one, nobody is told."""
        self._reset_wanted = False
        board = self.board
        board.reset()
        self._vcpu.reset()
        for line, bit in self._lines():
            self._vcpu.set_line(bit, line.level)
        self._vcpu.env["pc"] = board.reset_address
        board.poll_input()
        if reason is not None:
            self.events.emit("RESET", _cause(reason))

    def _lines(self) -> tuple[tuple[IrqLine, int], ...]:
        lines = self.board.lines[0]
        return (lines.msip, MSIP), (lines.mtip, MTIP), (lines.meip, MEIP), (lines.seip, SEIP)

    def _guest_exit(self, status: int) -> None:
        self._end(status, "guest-panic" if status else "guest-shutdown")
        self._vcpu.stop_here()

    def _guest_reset(self) -> None:
        if self._reboot:
            self._reset_wanted = True
            self._vcpu.stop_here()
        else:
            self._end(0, "guest-reset")
            self._vcpu.stop_here()

    def _end(self, status: int, reason: str) -> None:
        if not self._status.ended:
            self.exit_status = status
            self._set_stopped(RunState.SHUTDOWN)
            self.events.emit("SHUTDOWN", _cause(reason))
            self._announce_end()

    def _announce_end(self) -> None:
        self._ended.set()
        self._condition_met.set()

    def _met(self) -> None:
        """The condition of `run` holds: stop the guest here, on the machine's thread."""
        if self._status is RunState.RUNNING:
            self._set_stopped(RunState.PAUSED)
            self._vcpu.stop_here()
        self._condition_met.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _cycles(self) -> int:
        """Cycles and retired instructions: counted ones, or virtual time at 1 GHz."""
        return self._vcpu.instructions if self.icount is not None else self.clock.now()


def _cause(reason: str) -> dict[str, object]:
    return {"guest": reason.startswith("guest-"), "reason": reason}


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
