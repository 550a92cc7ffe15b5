"""The monitors' commands: one table, whichever language calls them.

A command takes arguments that are already parsed and returns plain data, which QMP sends as it is; `show` turns the
data into the text that the human monitor shows. Handlers run on the monitor's thread and reach the guest only through
`Machine.call`, so that a looping guest neither blocks a monitor nor is seen half way through a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from emulator.core.errors import MonitorError
from emulator.migration.settings import CAPABILITIES, PARAMETERS, Parameter
from emulator.migration.status import Status
from emulator.monitor import information, migration, migrationviews, views
from emulator.monitor.arguments import (
    BOOLEAN,
    FORMAT,
    INTEGER,
    SIZE,
    STRING,
    TAG,
    WORDS,
    Argument,
    Arguments,
    Flag,
    Kind,
    ListOf,
    OneOf,
    Option,
    OrNull,
    Struct,
)
from emulator.monitor.context import Context


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the human monitor, of QMP, or of both.

    The first of `names` is the human monitor's full one, `info status` belongs to `info`; a command without `names` is
    not there, one without `qmp` not in QMP.
    """

    names: tuple[str, ...]
    help: str
    run: Callable[[Context, Arguments], Any]
    arguments: tuple[Argument, ...] = ()
    show: Callable[[Any], str] = str
    qmp: str = ""

    @property
    def usage(self) -> str:
        """The line that `help` shows for it."""
        return f"{'|'.join(self.names)} {' '.join(map(str, self.arguments))} -- {self.help}"


def lookup(name: str) -> Command:
    """The human monitor's command called `name`, in full or by its short name; raises MonitorError."""
    command = _BY_NAME.get(name)
    if command is None:
        raise MonitorError(f"unknown command: '{name}'")
    return command


def _no_text(_result: None) -> str:
    return ""


def _cont(context: Context, _arguments: Arguments) -> None:
    if context.machine.status == "inmigrate":  # as in QEMU: that is what the guest is to do when it has come
        context.machine.migration.autostart = True
    else:
        context.machine.cont()


def _stop(context: Context, _arguments: Arguments) -> None:
    if context.machine.status == "inmigrate":
        context.machine.migration.autostart = False
    else:
        context.machine.stop()


def _savevm(context: Context, arguments: Arguments) -> None:
    context.machine.savevm(arguments["tag"])


def _loadvm(context: Context, arguments: Arguments) -> None:
    context.machine.loadvm(arguments["tag"])


def _delvm(context: Context, arguments: Arguments) -> None:
    context.machine.snapshots.delete(arguments["tag"])


def _save_snapshot(context: Context, tag: str) -> None:
    if tag in context.machine.snapshots.tags():
        raise MonitorError(f"Snapshot '{tag}' already exists")
    context.machine.savevm(tag)


def _load_snapshot(context: Context, tag: str) -> None:
    context.machine.loadvm(tag)


def _delete_snapshot(context: Context, tag: str) -> None:
    if tag in context.machine.snapshots.tags():  # that there is none is no error in QEMU either
        context.machine.snapshots.delete(tag)


def _snapshot_job(kind: str, work: Callable[[Context, str], None]) -> Callable[[Context, Arguments], None]:
    """A command that begins a job of QAPI's type `kind`, in which `work` gets the name of the snapshot."""

    def begin(context: Context, arguments: Arguments) -> None:
        context.jobs.start(context.machine, arguments["job-id"], kind, lambda: work(context, arguments["tag"]))

    return begin


def _jobs(context: Context, _arguments: Arguments) -> list[dict[str, Any]]:
    return context.jobs.query(context.machine)


def _dismiss_job(context: Context, arguments: Arguments) -> None:
    context.jobs.dismiss(context.machine, arguments["id"])


def _help(_context: Context, arguments: Arguments) -> str:
    name = arguments["cmd"]
    if name == "":
        return _usages(command for command in HMP_COMMANDS if " " not in command.names[0])
    return _info_help(_context, arguments) if name == "info" else lookup(name).usage


def _info_help(_context: Context, _arguments: Arguments) -> str:
    return _usages(command for command in HMP_COMMANDS if command.names[0].startswith("info "))


def _parameter_kind(parameter: Parameter) -> Kind:
    return SIZE if isinstance(parameter.default, int) else OrNull()


def _usages(commands: Iterable[Command]) -> str:
    return "\n".join(command.usage for command in commands)


def _action(method: Callable[[Context], None]) -> Callable[[Context, Arguments], None]:
    """A command without arguments that only does something."""
    return lambda context, _arguments: method(context)


_FORMAT = Argument("fmt", FORMAT)
_ADDRESS = Argument("addr", INTEGER)
_TAG = Argument("tag", TAG)
_JOB = Argument("job-id", STRING)
_URI = Argument("uri", STRING)
_DEVICES = Argument("devices", ListOf(STRING))

COMMANDS: tuple[Command, ...] = (
    Command(("cont", "c"), "resume emulation", _cont, show=_no_text, qmp="cont"),
    Command(("delvm",), "delete a VM snapshot from its tag", _delvm, (_TAG,), _no_text),
    Command(("help", "?"), "show the help", _help, (Argument("cmd", WORDS, optional=True),)),
    Command(
        ("info",),
        "show various information about the system state",
        _info_help,
        (Argument("subcommand", WORDS, optional=True),),
    ),
    Command(
        ("info chardev",),
        "show the character devices",
        information.chardevs,
        show=views.show_chardevs,
        qmp="query-chardev",
    ),
    Command(("info cpus",), "show infos for each CPU", information.cpus, show=views.show_cpus, qmp="query-cpus-fast"),
    Command(("info help",), "show the list of info commands", _info_help),
    Command(("info kvm",), "show KVM information", information.kvm, show=views.show_kvm, qmp="query-kvm"),
    Command(("info mem",), "show the active virtual memory mappings", information.page_map, show=views.show_page_map),
    Command(("info migrate",), "show migration status", migration.show_info, show=migrationviews.show_migration),
    Command(
        ("info migrate_capabilities",),
        "show current migration capabilities",
        migration.capabilities,
        show=migrationviews.show_capabilities,
        qmp="query-migrate-capabilities",
    ),
    Command(
        ("info migrate_parameters",),
        "show current migration parameters",
        migration.parameters,
        show=migrationviews.show_parameters,
        qmp="query-migrate-parameters",
    ),
    Command(("info mtree",), "show memory tree", information.mtree, show=views.show_mtree),
    Command(("info name",), "show the current VM name", information.name, show=views.show_name, qmp="query-name"),
    Command(("info qtree",), "show device tree", information.qtree, show=views.show_qtree),
    Command(
        ("info registers",),
        "show the cpu registers (-a: of all CPUs)",
        information.registers,
        (Argument("cpustate_all", Flag("a"), optional=True), Argument("vcpu", INTEGER, optional=True)),
        views.show_registers,
    ),
    Command(
        ("info snapshots",),
        "show the currently saved VM snapshots",
        information.snapshots,
        show=views.show_snapshots,
    ),
    Command(
        ("info status",),
        "show the current VM status (running|paused)",
        information.status,
        show=views.show_status,
        qmp="query-status",
    ),
    Command(("info uuid",), "show the current VM UUID", information.uuid, show=views.show_uuid, qmp="query-uuid"),
    Command(
        ("info version",),
        "show the version of mini-qemu",
        information.version,
        show=views.show_version,
        qmp="query-version",
    ),
    Command((), "forget a job that has concluded", _dismiss_job, (Argument("id", STRING),), qmp="job-dismiss"),
    Command(("loadvm",), "restore a VM snapshot from its tag", _loadvm, (_TAG,), _no_text),
    Command(
        ("migrate",),
        "migrate to URI (using -d to not wait for completion)",
        migration.migrate_in_foreground,
        (Argument("detach", Flag("d"), optional=True), Argument("file", Option("report")), _URI),
    ),
    Command(
        (),
        "migrate to a URI",
        migration.migrate,
        (_URI, *(Argument(name, BOOLEAN, optional=True) for name in ("blk", "inc", "detach", "resume"))),
        qmp="migrate",
    ),
    Command(
        ("migrate_cancel",), "cancel the current VM migration", migration.cancel, show=_no_text, qmp="migrate_cancel"
    ),
    Command(
        ("migrate_continue",),
        "continue migration from the given paused state",
        migration.go_on,
        (Argument("state", OneOf(tuple(Status))),),
        _no_text,
        qmp="migrate-continue",
    ),
    Command(
        ("migrate_incoming",),
        "continue an incoming migration from an -incoming defer",
        migration.incoming,
        (_URI,),
        _no_text,
        qmp="migrate-incoming",
    ),
    Command(
        ("migrate_pause",),
        "pause an ongoing migration (postcopy-only)",
        migration.pause,
        show=_no_text,
        qmp="migrate-pause",
    ),
    Command(
        ("migrate_set_capability",),
        "enable/disable the usage of a capability for migration",
        migration.set_capability,
        (Argument("capability", OneOf(tuple(CAPABILITIES))), Argument("state", BOOLEAN)),
        _no_text,
    ),
    Command(
        ("migrate_set_parameter",),
        "set the parameter for migration",
        migration.set_parameter,
        (Argument("parameter", OneOf(tuple(PARAMETERS))), Argument("value", STRING)),
        _no_text,
    ),
    Command(
        (),
        "enable/disable capabilities for migration",
        migration.set_capabilities,
        (Argument("capabilities", ListOf(Struct((Argument("capability", STRING), Argument("state", BOOLEAN))))),),
        qmp="migrate-set-capabilities",
    ),
    Command(
        (),
        "set parameters for migration",
        migration.set_parameters,
        tuple(Argument(name, _parameter_kind(one), optional=True) for name, one in PARAMETERS.items()),
        qmp="migrate-set-parameters",
    ),
    Command(
        ("object_add",),
        "create TLS credentials",
        migration.add_object_as_typed,
        (Argument("object", STRING),),
        _no_text,
    ),
    Command(
        (),
        "create TLS credentials",
        migration.add_object,
        (
            Argument("qom-type", OneOf(("tls-creds-x509",))),
            Argument("id", STRING),
            Argument("dir", STRING),
            Argument("endpoint", OneOf(("client", "server")), optional=True),
            Argument("verify-peer", BOOLEAN, optional=True),
        ),
        qmp="object-add",
    ),
    Command(
        ("object_del",),
        "destroy TLS credentials",
        migration.remove_object,
        (Argument("id", STRING),),
        _no_text,
        qmp="object-del",
    ),
    Command(
        ("print", "p"),
        "print expression value (use $reg for CPU register access)",
        information.print_value,
        (_FORMAT, Argument("expr", INTEGER)),
    ),
    Command((), "jobs that have not been dismissed", _jobs, qmp="query-jobs"),
    Command((), "how migration stands", migration.query, qmp="query-migrate"),
    Command((), "machine types", information.machines, qmp="query-machines"),
    Command(("quit", "q"), "quit the emulator", _action(lambda c: c.quit(0)), show=_no_text, qmp="quit"),
    Command(
        ("savevm",),
        "save a VM snapshot; without a tag it is named after the time",
        _savevm,
        (Argument("tag", STRING, optional=True),),
        _no_text,
    ),
    Command(
        (),
        "delete a snapshot, in a job",
        _snapshot_job("snapshot-delete", _delete_snapshot),
        (_JOB, _TAG, _DEVICES),
        qmp="snapshot-delete",
    ),
    Command(
        (),
        "go back to a snapshot, in a job",
        _snapshot_job("snapshot-load", _load_snapshot),
        (_JOB, _TAG, Argument("vmstate", STRING), _DEVICES),
        qmp="snapshot-load",
    ),
    Command(
        (),
        "save a snapshot under a new name, in a job",
        _snapshot_job("snapshot-save", _save_snapshot),
        (_JOB, _TAG, Argument("vmstate", STRING), _DEVICES),
        qmp="snapshot-save",
    ),
    Command(("stop", "s"), "stop emulation", _stop, show=_no_text, qmp="stop"),
    Command(
        ("system_powerdown",),
        "send system power down event",
        _action(lambda c: c.machine.powerdown()),
        show=_no_text,
        qmp="system_powerdown",
    ),
    Command(
        ("system_reset",),
        "reset the system",
        _action(lambda c: c.machine.reset()),
        show=_no_text,
        qmp="system_reset",
    ),
    Command(("x",), "virtual memory dump starting at 'addr'", information.examine_virtual, (_FORMAT, _ADDRESS)),
    Command(("xp",), "physical memory dump starting at 'addr'", information.examine_physical, (_FORMAT, _ADDRESS)),
)
"""Every command, in the order in which `help` lists them."""

HMP_COMMANDS = tuple(command for command in COMMANDS if command.names)
_BY_NAME = {name: command for command in HMP_COMMANDS for name in command.names}
