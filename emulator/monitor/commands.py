"""The monitor's commands: one table, whichever language calls them.

A command takes arguments that are already parsed and returns plain data; `show` turns the data into the text that a
person reads. A second front end calls `run` alone. Handlers run on the monitor's thread and reach the guest only
through `Machine.call`, so that a looping guest neither blocks the monitor nor is seen half way through a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from emulator.core.bus import AddressMap
from emulator.core.device import Device
from emulator.core.errors import MonitorError
from emulator.core.memory import RamBlock
from emulator.monitor import dump, views
from emulator.monitor.dump import Format
from emulator.version import VERSION

if TYPE_CHECKING:  # imported when snapshots are looked at
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

    def read_virtual(self, address: int, length: int) -> bytes:
        """Bytes as the guest sees them; raises MemoryAccessError."""


class Machine(Protocol):
    """What the monitor needs of a machine; everything but `board` and `cpu` may be used from any thread."""

    @property
    def status(self) -> str:
        """QEMU's run state name."""

    @property
    def board(self) -> Board:
        """Used through `call` only."""

    @property
    def cpu(self) -> Cpu:
        """Used through `call` only."""

    def call(self, function: Callable[[], T], /) -> T:
        """Run `function` on the machine's thread, between two blocks of guest code."""

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


@dataclass(frozen=True, slots=True)
class Context:
    """What commands work on; `quit` ends the emulator with an exit status, from any thread, and returns at once."""

    machine: Machine
    quit: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; `kind` is `format` for `/FMT`, `expression`, `string` for a word or what stands in quotes, `tag`
    for a string that names a snapshot, or `words` for what is left of the line. An optional one may be None.
    """

    name: str
    kind: Literal["format", "expression", "string", "tag", "words"]
    optional: bool = False

    def __str__(self) -> str:
        if self.kind == "format":
            return "/" + self.name
        return f"[{self.name}]" if self.optional else self.name


Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command; the first of `names` is the full one, `info status` belongs to `info`."""

    names: tuple[str, ...]
    help: str
    run: Callable[[Context, Arguments], Any]
    arguments: tuple[Argument, ...] = ()
    show: Callable[[Any], str] = str

    @property
    def usage(self) -> str:
        """The line that `help` shows for it."""
        return f"{'|'.join(self.names)} {' '.join(map(str, self.arguments))} -- {self.help}"


def lookup(name: str) -> Command:
    """The command called `name`, in full or by its short name; raises MonitorError."""
    command = _BY_NAME.get(name)
    if command is None:
        raise MonitorError(f"unknown command: '{name}'")
    return command


def _no_text(_result: None) -> str:
    return ""


def _status(context: Context, _arguments: Arguments) -> dict[str, object]:
    state = str(context.machine.status)
    return {"status": state, "running": state == "running"}


def _version(_context: Context, _arguments: Arguments) -> str:
    return VERSION


def _check_cpu(arguments: Arguments) -> None:
    index = arguments["vcpu"]
    if index not in (None, 0):
        raise MonitorError(f"CPU#{index} not available")


def _registers(context: Context, arguments: Arguments) -> dict[str, int]:
    _check_cpu(arguments)
    machine = context.machine
    return dict(machine.call(lambda: machine.cpu.registers()))


def _mtree(context: Context, _arguments: Arguments) -> list[dict[str, object]]:
    machine = context.machine

    def collect() -> list[dict[str, object]]:
        return [
            {
                "name": mapping.target.name,
                "start": mapping.base,
                "end": mapping.end - 1,
                "kind": ("rom" if mapping.target.readonly else "ram")
                if isinstance(mapping.target, RamBlock)
                else "i/o",
            }
            for mapping in machine.board.bus
        ]

    return machine.call(collect)


def _qtree(context: Context, _arguments: Arguments) -> list[dict[str, object]]:
    machine = context.machine

    def collect() -> list[dict[str, object]]:
        bases = {id(mapping.target): mapping.base for mapping in machine.board.bus}
        return [
            {
                "type": device.kind,
                "id": name,
                "properties": dict(device.properties()),
                "mmio": [
                    {"start": bases[id(region)], "size": region.size}
                    for region in device.regions
                    if id(region) in bases
                ],
            }
            for name, device in machine.board.devices.items()
        ]

    return machine.call(collect)


def _examine(machine: Machine, form: Format, read: dump.ReadBytes, address: int) -> str:
    if form.letter != "i":
        return dump.format_values(machine.call(lambda: dump.read_values(read, address, form)), form)
    from emulator.cpu.disasm import disassemble

    return dump.format_instructions(machine.call(lambda: dump.read_instructions(read, address, form)), disassemble)


def _examine_virtual(context: Context, arguments: Arguments) -> str:
    machine = context.machine
    return _examine(machine, arguments["fmt"], machine.cpu.read_virtual, arguments["addr"])


def _examine_physical(context: Context, arguments: Arguments) -> str:
    machine = context.machine
    form: Format = arguments["fmt"]
    return _examine(machine, form, dump.physical_reader(machine.board.bus, form.size), arguments["addr"])


def _print(_context: Context, arguments: Arguments) -> str:
    return dump.format_number(arguments["expr"], arguments["fmt"].letter)


def _savevm(context: Context, arguments: Arguments) -> None:
    context.machine.savevm(arguments["tag"])


def _loadvm(context: Context, arguments: Arguments) -> None:
    context.machine.loadvm(arguments["tag"])


def _delvm(context: Context, arguments: Arguments) -> None:
    context.machine.snapshots.delete(arguments["tag"])


def _snapshots(context: Context, _arguments: Arguments) -> dict[str, Any]:
    directory = context.machine.snapshots
    snapshots, damaged = directory.examine()
    return {
        "directory": str(directory.path),
        "snapshots": [dataclasses.asdict(snapshot) for snapshot in snapshots],
        "damaged": {tag: str(error) for tag, error in damaged.items()},
    }


def _help(_context: Context, arguments: Arguments) -> str:
    name = arguments["cmd"]
    if name == "":
        return _usages(command for command in COMMANDS if " " not in command.names[0])
    return _info_help(_context, arguments) if name == "info" else lookup(name).usage


def _info_help(_context: Context, _arguments: Arguments) -> str:
    return _usages(command for command in COMMANDS if command.names[0].startswith("info "))


def _usages(commands: Iterable[Command]) -> str:
    return "\n".join(command.usage for command in commands)


def _action(method: Callable[[Context], None]) -> Callable[[Context, Arguments], None]:
    """A command without arguments that only does something."""
    return lambda context, _arguments: method(context)


_FORMAT = Argument("fmt", "format")
_ADDRESS = Argument("addr", "expression")
_TAG = Argument("tag", "tag")

COMMANDS: tuple[Command, ...] = (
    Command(("cont", "c"), "resume emulation", _action(lambda c: c.machine.cont()), show=_no_text),
    Command(("delvm",), "delete a VM snapshot from its tag", _delvm, (_TAG,), _no_text),
    Command(("help", "?"), "show the help", _help, (Argument("cmd", "words", optional=True),)),
    Command(
        ("info",),
        "show various information about the system state",
        _info_help,
        (Argument("subcommand", "words", optional=True),),
    ),
    Command(("info help",), "show the list of info commands", _info_help),
    Command(("info mtree",), "show memory tree", _mtree, show=views.show_mtree),
    Command(("info qtree",), "show device tree", _qtree, show=views.show_qtree),
    Command(
        ("info registers",),
        "show the cpu registers",
        _registers,
        (Argument("vcpu", "expression", optional=True),),
        views.show_registers,
    ),
    Command(("info snapshots",), "show the currently saved VM snapshots", _snapshots, show=views.show_snapshots),
    Command(("info status",), "show the current VM status (running|paused)", _status, show=views.show_status),
    Command(("info version",), "show the version of mini-qemu", _version),
    Command(("loadvm",), "restore a VM snapshot from its tag", _loadvm, (_TAG,), _no_text),
    Command(
        ("print", "p"),
        "print expression value (use $reg for CPU register access)",
        _print,
        (_FORMAT, Argument("expr", "expression")),
    ),
    Command(("quit", "q"), "quit the emulator", _action(lambda c: c.quit(0)), show=_no_text),
    Command(
        ("savevm",),
        "save a VM snapshot; without a tag it is named after the time",
        _savevm,
        (Argument("tag", "string", optional=True),),
        _no_text,
    ),
    Command(("stop", "s"), "stop emulation", _action(lambda c: c.machine.stop()), show=_no_text),
    Command(
        ("system_powerdown",), "send system power down event", _action(lambda c: c.machine.powerdown()), show=_no_text
    ),
    Command(("system_reset",), "reset the system", _action(lambda c: c.machine.reset()), show=_no_text),
    Command(("x",), "virtual memory dump starting at 'addr'", _examine_virtual, (_FORMAT, _ADDRESS)),
    Command(("xp",), "physical memory dump starting at 'addr'", _examine_physical, (_FORMAT, _ADDRESS)),
)
"""Every command, in the order in which `help` lists them."""

_BY_NAME = {name: command for command in COMMANDS for name in command.names}
