"""What of a machine is in a stream: its parts with state, in QEMU's order, and section `globalstate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from emulator.boards.machinetypes import WIRE_NAME, MachineType
from emulator.boards.virt import VirtBoard
from emulator.cpu.vcpu import Vcpu
from emulator.hw.fw_cfg import TABLE_SIZES
from emulator.migration.blocklist import TABLE
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Buffer, UInt8, UInt32, VBuffer
from emulator.migration.registry import Owner, Registry, Sent
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.vmstate import VMStateDescription
from emulator.runstate import RunState
from emulator.timekeeper import Timekeeper

Changes = Callable[[Sequence[Owner]], Iterable[Owner]]

RUNSTATE_SIZE, SHORT_RUNSTATE_SIZE = 100, 32
"""Bytes of the run state's name on the wire, the NUL at its end included: up to QEMU 8.2, and from then on."""
UNUSED_SIZE = RUNSTATE_SIZE - SHORT_RUNSTATE_SIZE - 2
OPTIONAL = ("virt_acpi_build",)
"""Sections that a QEMU without ACPI tables does not send."""

RUN_STATES = frozenset(
    (
        "debug inmigrate internal-error io-error paused postmigrate prelaunch finish-migrate restore-vm running "
        "save-vm shutdown suspended watchdog guest-panicked colo"
    ).split()
)
"""QEMU 7.2's names of run states."""


@dataclass(slots=True)
class GlobalState:
    """What the machine did when it was saved."""

    size: int = 0
    """Bytes of the name, the NUL included; nothing is made of it."""
    runstate: bytearray = field(default_factory=lambda: bytearray(RUNSTATE_SIZE))
    """The name; only its beginning counts if `is_split`."""
    has_vm_was_suspended: int = 1
    vm_was_suspended: int = 0
    unused: bytearray = field(default_factory=lambda: bytearray(UNUSED_SIZE))
    is_split: bool = False

    @property
    def name(self) -> str:
        """The run state's name."""
        return self.runstate.partition(b"\0")[0].decode("latin-1")

    def post_load(self, _version_id: int) -> None:
        """Refuse what is no run state."""
        if self.name not in RUN_STATES:
            raise FieldRangeError("runstate", self.name, "a run state of QEMU's")


def _runstate_size(state: GlobalState) -> int:
    return SHORT_RUNSTATE_SIZE if state.is_split else RUNSTATE_SIZE


def _is_split(state: GlobalState, _version_id: int) -> bool:
    return state.is_split


VMSTATE_GLOBALSTATE = VMStateDescription(
    "globalstate",
    GlobalState,
    version_id=1,
    minimum_version_id=1,
    fields=(
        UInt32("size", limit=RUNSTATE_SIZE + 1),
        VBuffer("runstate", _runstate_size),
        UInt8("has_vm_was_suspended", limit=2, field_exists=_is_split),
        UInt8("vm_was_suspended", limit=1, field_exists=_is_split),
        Buffer("unused", UNUSED_SIZE, field_exists=_is_split),
    ),
    derived=("is_split",),
)


class GlobalPart:
    """Section `globalstate` of a machine in this run state."""

    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"globalstate": VMSTATE_GLOBALSTATE}

    def __init__(self, status: RunState, *, is_split: bool = False) -> None:
        self._status = status
        self._is_split = is_split

    @property
    def state(self) -> GlobalState:
        """See Owner."""
        name = self._status.encode() + b"\0"
        state = self.fresh()
        state.size = len(name)
        state.runstate[: len(name)] = name
        return state

    def fresh(self) -> GlobalState:
        """See Owner."""
        return GlobalState(is_split=self._is_split)

    def check(self, state: GlobalState) -> None:
        """See Owner; every run state can be loaded."""

    def adopt(self, state: GlobalState) -> None:
        """See Owner; whether the guest goes on is for whoever loads to say."""


def was_running(loaded: Loaded) -> bool:
    """Whether the guest of a loaded stream ran when it was saved."""
    states = (state for _owner, state in loaded.states if isinstance(state, GlobalState))
    return any(state.name == RunState.RUNNING for state in states)


def reshaped(parts: Iterable[Owner], kind: MachineType) -> Iterator[Owner]:
    """The parts of a machine of the newest type as a machine of another type sends them."""
    *others, last = parts
    for part in others:
        comes_later = "fw_cfg" in part.vmstate and not kind.fw_cfg_first
        is_unknown = "virt_acpi_build" in part.vmstate and not kind.has_acpi
        if not (comes_later or is_unknown):
            yield part
    if not kind.fw_cfg_first:
        yield from (_without_tables(part) for part in others if "fw_cfg" in part.vmstate)
    yield last


def _without_tables(part: Owner) -> Owner:
    return Sent(part, replace(part.state, **dict.fromkeys(TABLE_SIZES, 0)))


def subject_of(
    timekeeper: Timekeeper,
    vcpu: Vcpu,
    board: VirtBoard,
    status: RunState,
    changed: Changes | None = None,
    *,
    kind: MachineType | None = None,
) -> Subject:
    """A stopped machine as streams see it; `status` is what it did before it was stopped.

    `changed` is what becomes of its parts in a stream that they are only sent in; `kind` is whose layout that has, if
    not the machine's own type's.
    """
    kind = kind or board.config.machine_type
    registry = Registry(kind.versions, optional=OPTIONAL)
    global_part = GlobalPart(status, is_split=kind.splits_globalstate)
    parts: tuple[Owner, ...] = (timekeeper, *vcpu.parts, *board.devices.values(), global_part)
    for part in parts if changed is None else changed(parts):
        registry.register(part)
    return Subject(
        WIRE_NAME,
        registry,
        [block for block in board.ram_blocks if kind.has_acpi or not block.name.startswith(TABLE)],
        announces_switchover=kind.announces_switchover,
        uuid=board.config.uuid,
    )
