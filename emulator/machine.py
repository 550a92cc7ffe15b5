"""The machine: a board, its vCPU, the clock and the run state, on a thread of its own.

One thread, the machine's, runs the guest and everything the guest can see: chips, timers, interrupt lines. Whoever is
elsewhere (a monitor, a chardev, the user of the API) hands it work with `call` or `post`. So nothing on the board needs
a lock. The thread itself is in `runner.py`, and what streams are made of and turned into in `transfer.py`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from emulator.boards.config import BoardConfig
from emulator.boards.machinetypes import machine_type
from emulator.boards.virt import Requests, VirtBoard
from emulator.conditions import Condition
from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.clock import NS_PER_SECOND
from emulator.core.errors import ConfigError
from emulator.core.uuids import NO_UUID, format_uuid, parse_uuid
from emulator.cpu.vcpu import Vcpu
from emulator.cpuview import CpuView
from emulator.events import Events
from emulator.runner import Runner
from emulator.runstate import RunState
from emulator.serial import SerialConsole
from emulator.sizes import parse_size
from emulator.timekeeper import Icount, Timekeeper

if TYPE_CHECKING:  # what saves and loads is imported when it is needed
    from emulator.livemigration import LiveMigration
    from emulator.migration.snapshots import SnapshotDirectory
    from emulator.transfer import Transfer

T = TypeVar("T")

TIMER_FIXES = ("auto", "on", "off")
CPUS = ("sifive-u54",)

DETERMINISTIC_SEED = bytes(32)
DETERMINISTIC_WALL_NS = 1_000_000_000 * NS_PER_SECOND
"""Wall-clock time at power-on when instructions are counted: 2001-09-09 01:46:40 UTC."""


class Machine:
    """A whole computer.

    `ram` is a size such as `"128M"`, or bytes. `kernel`, `bios`, `initrd` and `dtb` are files; `bios` may be `"none"`
    (start the kernel in machine mode) or `"default"` (OpenSBI). `port` is where the first UART's characters go; without
    one, `serial` keeps them for the program. `icount` is a shift or an `Icount`. `snapshots` is the directory of named
    snapshots. `uuid`, such as `"550e8400-e29b-41d4-a716-446655440000"`, tells the machine from others. `acpi` makes
    room for ACPI tables that a guest may bring along. `qemu_timer_fix` says whether streams are made for a QEMU, with a
    cure for the guest's timer (see `emulator.qemupeer`): `"auto"` does so when a migration has found one at the other
    end, `"on"` always, and `"off"` leaves the timer alone.

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
        acpi: bool = True,
        qemu_timer_fix: str = "auto",
    ) -> None:
        if qemu_timer_fix not in TIMER_FIXES:
            raise ConfigError(f"qemu-timer-fix={qemu_timer_fix}: use one of {', '.join(TIMER_FIXES)}")
        if cpu not in CPUS:
            raise ConfigError(f"unsupported CPU '{cpu}': use one of {', '.join(CPUS)}")
        if smp != 1:
            raise ConfigError(f"-smp {smp} is not supported yet: the machine has one hart")
        self.name = machine
        self._qemu_timer_fix = qemu_timer_fix
        self.icount = Icount(icount) if isinstance(icount, int) else icount
        self.serial = SerialConsole(port)
        self._time = Timekeeper(self.icount)
        self.clock = self._time.clock
        self.config = BoardConfig(
            ram_size=parse_size(ram),
            machine_type=machine_type(machine),
            acpi=acpi,
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
        self._runner = Runner(self._time, self.events, reboot=reboot)
        self._condition_met = threading.Event()
        self._runner.on_end = self._condition_met.set
        self._snapshots = _path(snapshots)
        self._board: VirtBoard | None = None
        self._transfer: Transfer | None = None
        self._migration: LiveMigration | None = None
        self._closing = False
        self._waiting = threading.Lock()
        self._building = threading.RLock()

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
            requests = Requests(self._runner.guest_exit, self._runner.guest_reset)
            board = VirtBoard(self.config, self.clock, self.serial.port, requests)
            undo.callback(board.close)
            self._vcpu = vcpu = Vcpu(board.bus, time=board.mtime, cycles=self._cycles, counting=self.icount is not None)
            undo.callback(vcpu.close)
            self._time.connect(lambda: vcpu.instructions, vcpu.count_from, lambda: vcpu.halted)
            undo.callback(self._time.disconnect)
            for rom in board.rom_devices:
                rom.device.on_mode_change = functools.partial(vcpu.map_rom_device, rom.base, rom.block)
            vcpu.trace()
            self.serial.port.on_input = lambda: self.post(self._runner.poll_input)
            self._runner.start(board, vcpu)
            self._board = board
            undo.pop_all()

    def close(self) -> None:
        """End the guest and free everything; harmless if done."""
        if self._closing:
            return
        if self._migration is not None:
            self._migration.close()
        self._closing = True
        self._runner.close()
        if self._board is not None:
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
        return self._runner.status

    @property
    def exit_status(self) -> int | None:
        """What the guest or `quit` ended the machine with; None while it has not ended."""
        return self._runner.exit_status

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
        return self.status

    def _run(self, until: Condition | None, timeout: float | None) -> bool:
        """Run until `until` holds or the guest ends; False if neither came in time."""
        self._condition_met.clear()
        begun = False

        def begin() -> None:
            nonlocal begun
            holds = until is not None and until.begin(self, self._met)
            begun = True
            if self.status.ended:
                self._met()
            elif not holds:
                self._runner.go_on()

        def end() -> None:
            if begun and until is not None:
                until.end(self)
            if begun and self.status is RunState.RUNNING:
                self._runner.stop()

        try:
            self.call(begin)
            return self._condition_met.wait(timeout)
        finally:
            self.call(end)

    def stop_after(self, count: int, met: Callable[[], None]) -> bool:
        """Call `met()` on the machine's thread when `count` more instructions have run."""
        if self.icount is None:
            raise ConfigError("instructions are counted only with icount")
        self._runner.goal = (self._vcpu.instructions + count, met)
        return False

    def cancel_stop_after(self) -> None:
        """Undo `stop_after`."""
        self._runner.goal = None

    def cont(self) -> None:
        """Let the guest run; from any thread."""
        self.power_on()
        self.call(self._runner.go_on)

    def stop(self) -> None:
        """Stop the guest between two instructions; from any thread.

        Raises ConfigError while the guest stands still to be moved: it would go on afterwards all the same.
        """

        def stop() -> None:
            if self.status is RunState.FINISH_MIGRATE:
                self._runner.check_not_moving()
            if self.status is RunState.RUNNING:
                self._runner.stop()

        self.on_stopping(True)
        try:
            self.call(stop)
        finally:
            self.on_stopping(False)

    def reset(self) -> None:
        """Reset every chip and the hart, and load the images anew; a running guest goes on from there.

        Raises ConfigError while the guest stands still to be moved, or is expected.
        """

        def now() -> None:
            self._runner.check_not_moving()
            self._runner.reset("host-qmp-system-reset")

        self.call(now)

    def powerdown(self) -> None:
        """Press the power button. The board has none that a guest could hear, as QEMU's has none."""
        self.call(lambda: self.events.emit("POWERDOWN"))

    def quit(self, status: int = 0, reason: str = "host-qmp-quit") -> None:
        """End the machine, for one of the reasons of QAPI's `ShutdownCause`; from any thread, returns at once."""
        self.post(lambda: self._runner.end(status, reason))

    def wait(self) -> int:
        """Block until the machine has ended; returns its exit status."""
        self._runner.ended.wait()
        self._raise_failure()
        if self.exit_status is None:
            raise ConfigError("the machine has been closed")
        return self.exit_status

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the machine's thread and return its result, or raise its error; from any thread."""
        self.power_on()
        return self._runner.call(function)

    def post(self, function: Callable[[], None]) -> None:
        """Have `function` run on the machine's thread soon; from any thread, returns at once."""
        self._runner.post(function)

    # Saving and going back

    def save(self, path: str | Path) -> None:
        """Write the whole machine to a stream file, as QEMU's `migrate` to a file does; a running guest goes on.

        The file at `path` is replaced when the new one is complete. Raises FileError.
        """
        self.transfer.save(Path(path))

    def load(self, path: str | Path) -> None:
        """Become the machine in a stream file or a snapshot file; a running guest goes on from there, a stopped one
        stays stopped, and one that has ended is stopped.

        Raises FileError or StreamError, and then nothing has changed.
        """
        self.transfer.load(Path(path))

    @property
    def snapshots(self) -> SnapshotDirectory:
        """The directory of the machine's named snapshots, whose names and dates it lists."""
        from emulator.migration.snapshots import SnapshotDirectory, default_directory

        return SnapshotDirectory(self._snapshots or default_directory(self.name))

    def savevm(self, tag: str | None = None) -> str:
        """Save the machine as the snapshot `tag`, by default named after the time; returns the name.

        Raises SnapshotError or FileError; a snapshot of that name is then still the old one.
        """
        return self.transfer.savevm(self.snapshots, tag)

    def loadvm(self, tag: str) -> None:
        """Go back to the snapshot `tag`; otherwise as `load`."""
        self.transfer.loadvm(self.snapshots, tag)

    @property
    def transfer(self) -> Transfer:
        """What saves, loads and moves the machine: for what the package builds on it, see `migration` for the rest."""
        from emulator.transfer import Transfer

        with self._building:
            self.power_on()
            self._transfer = self._transfer or Transfer(self._runner, self._qemu_timer_fix)
            return self._transfer

    @property
    def migration(self) -> LiveMigration:
        """The machine's live migrations, to another process and from one."""
        from emulator.livemigration import LiveMigration

        with self._building:
            self._migration = self._migration or LiveMigration(self)
            return self._migration

    # Inside

    def _met(self) -> None:
        """The condition of `run` holds, or never will: stop the guest here, on the machine's thread."""
        if self.status is RunState.RUNNING:
            self._runner.stop()
            self._vcpu.stop_here()
        self._condition_met.set()

    def _raise_failure(self) -> None:
        if self._runner.failure is not None:
            raise self._runner.failure

    def _cycles(self) -> int:
        """Cycles and retired instructions: counted ones, or virtual time at 1 GHz."""
        return self._vcpu.instructions if self.icount is not None else self.clock.now()


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
