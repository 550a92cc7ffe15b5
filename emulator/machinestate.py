"""What of a machine is in a stream: its parts with state, in QEMU's order, and section `globalstate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from emulator.boards.virt import VirtBoard
from emulator.cpu.state import VERSION_7_2
from emulator.cpu.vcpu import Vcpu
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Buffer, UInt32
from emulator.migration.registry import Owner, Registry
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.vmstate import VMStateDescription
from emulator.runstate import RunState
from emulator.timekeeper import Timekeeper

SECTION_VERSIONS = {"cpu": VERSION_7_2}
"""What is sent in another version than the newest that is known here: the machine is QEMU 7.2's."""

RUNSTATE_SIZE = 100
"""Bytes of the run state's name on the wire, the NUL at its end included."""

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

    def post_load(self, _version_id: int) -> None:
        """Refuse what is no run state."""
        name = self.runstate.partition(b"\0")[0].decode("latin-1")
        if name not in RUN_STATES:
            raise FieldRangeError("runstate", name, "a run state of QEMU's")


VMSTATE_GLOBALSTATE = VMStateDescription(
    "globalstate",
    GlobalState,
    version_id=1,
    minimum_version_id=1,
    fields=(UInt32("size", limit=RUNSTATE_SIZE + 1), Buffer("runstate", RUNSTATE_SIZE)),
)


class GlobalPart:
    """Section `globalstate` of a machine in this run state."""

    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"globalstate": VMSTATE_GLOBALSTATE}

    def __init__(self, status: RunState) -> None:
        self._status = status

    @property
    def state(self) -> GlobalState:
        """See Owner."""
        name = self._status.encode() + b"\0"
        return GlobalState(len(name), bytearray(name.ljust(RUNSTATE_SIZE, b"\0")))

    def fresh(self) -> GlobalState:
        """See Owner."""
        return GlobalState()

    def check(self, state: GlobalState) -> None:
        """See Owner; every run state can be loaded."""

    def adopt(self, state: GlobalState) -> None:
        """See Owner; whether the guest goes on is for whoever loads to say."""


def was_running(loaded: Loaded) -> bool:
    """Whether the guest of a loaded stream ran when it was saved."""
    states = (state for _owner, state in loaded.states if isinstance(state, GlobalState))
    return any(state.runstate.startswith(RunState.RUNNING.encode() + b"\0") for state in states)


def subject_of(name: str, timekeeper: Timekeeper, vcpu: Vcpu, board: VirtBoard, status: RunState) -> Subject:
    """A stopped machine of type `name` as streams see it; `status` is what it did before it was stopped."""
    registry = Registry(SECTION_VERSIONS)
    parts: tuple[Owner, ...] = (timekeeper, *vcpu.parts, *board.devices.values(), GlobalPart(status))
    for part in parts:
        registry.register(part)
    return Subject(name, registry, board.ram_blocks, board.config.uuid)
