"""What commands work on: as much of a machine as they need, and what all monitors of one machine share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from emulator.core.bus import AddressMap
from emulator.core.device import Device
from emulator.cpu.mmu import PageMap
from emulator.events import Events
from emulator.monitor.foreground import Foreground
from emulator.monitor.jobs import Jobs

if TYPE_CHECKING:  # imported when they are used
    from emulator.livemigration import LiveMigration
    from emulator.migration.snapshots import SnapshotDirectory

T = TypeVar("T")


class Board(Protocol):
    """What the monitor needs of a board."""

    @property
    def bus(self) -> AddressMap:
        """Physical addresses to RAM blocks and device regions."""

    @property
    def devices(self) -> Mapping[str, Device]:
        """The board's devices by name."""


class Cpu(Protocol):
    """What the monitor needs of a vCPU."""

    def registers(self) -> Mapping[str, int]:
        """Values by name, in the order in which they are shown; a register with two names has them as `x10/a0`."""

    @property
    def xlen(self) -> int:
        """Register width in bits."""

    def page_map(self) -> PageMap | None:
        """What its page tables map; None while addresses are not translated."""

    def read_virtual(self, address: int, length: int) -> bytes:
        """Bytes as the guest sees them; raises MemoryAccessError."""


class Machine(Protocol):
    """What the monitor needs of a machine; everything but `board` and `cpu` may be used from any thread."""

    @property
    def name(self) -> str:
        """The machine type."""

    @property
    def uuid(self) -> str:
        """Its identifier."""

    @property
    def status(self) -> str:
        """QEMU's run state name."""

    @property
    def events(self) -> Events:
        """What happens to it."""

    @property
    def board(self) -> Board:
        """Used through `call` only."""

    @property
    def cpu(self) -> Cpu:
        """Used through `call` only."""

    def call(self, function: Callable[[], T], /) -> T:
        """Run `function` on the machine's thread, between two blocks of guest code."""

    def post(self, function: Callable[[], None], /) -> None:
        """Have `function` run there soon."""

    def cont(self) -> None:
        """Let the guest run."""

    def stop(self) -> None:
        """Stop the guest."""

    def reset(self) -> None:
        """Reset the whole machine."""

    def powerdown(self) -> None:
        """Ask the guest to shut down."""

    def savevm(self, tag: str | None, /) -> str:
        """Save a snapshot, and return its name."""

    def loadvm(self, tag: str, /) -> None:
        """Go back to a snapshot."""

    @property
    def snapshots(self) -> SnapshotDirectory:
        """Where the snapshots are."""

    @property
    def migration(self) -> LiveMigration:
        """To another process and from one."""


@dataclass(frozen=True, slots=True)
class Context:
    """What commands work on; all monitors of a machine share one.

    `quit` ends the emulator with an exit status, from any thread, and returns at once. `chardevs` tells what the
    character devices are: QAPI's `ChardevInfo` of each. `user` is who waits for the command, where somebody can.
    """

    machine: Machine
    quit: Callable[[int], None]
    chardevs: Callable[[], list[dict[str, Any]]] = list
    jobs: Jobs = field(default_factory=Jobs)
    user: Foreground | None = None
