"""The `mini-qemu` command: QEMU's options, parsed by click, made into a machine and its console.

Options are spelled as QEMU spells them, with one dash or two. A mistake is one line on standard error and exit status
1, never a traceback. Whatever a command needs beyond click is imported when it runs: a guest's first instruction should
not wait for modules that only another command uses.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from emulator.core.errors import ConfigError, EmulatorError
from emulator.signals import ENDING_SIGNALS, Terminated, noticed, terminate, terminate_on, undisturbed
from emulator.version import VERSION

if TYPE_CHECKING:
    from emulator.console import Console
    from emulator.machine import Machine
    from emulator.migration.snapshots import SnapshotDirectory

UNSUPPORTED = """
accel action add-fd async-teardown audio audiodev blockdev boot cdrom chardev chroot compat daemonize
debugcon device dfilter drive dump-vmstate echr enable-kvm enable-sync-profile fda fdb fsdev full-screen fw_cfg gdb
hda hdb hdc hdd iscsi k L mem-path mem-prealloc mon msg mtdblock name net netdev nic no-shutdown
no-user-config numa only-migratable option-rom overcommit parallel pflash pidfile plugin portrait preconfig
qmp-pretty readconfig rotate rtc runas s sandbox sd seed semihosting semihosting-config set singlestep snapshot
spice tpmdev trace usb usbdevice vga virtfs vnc watchdog-action
"""
"""Options of QEMU's, and of our own plans, that are not there yet: their users deserve a better word than "invalid"."""


class QemuCommand(click.Command):
    """A command whose options look like QEMU's: any number of letters behind one dash or two, never bundled."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; refuses what is no option of this command before click would guess at single letters."""
        options = {
            spelling.lstrip("-"): (parameter, parameter.opts[0])
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            for spelling in parameter.opts
        }
        spelled: list[str] = []
        rest = iter(args)
        for arg in rest:
            name = _option_name(arg)
            if name is None:
                raise click.UsageError(f"unexpected argument '{arg}'")
            if name not in options:
                raise click.UsageError(_refusal(arg, name, list(options)))
            parameter, spelling = options[name]
            spelled.append(spelling)
            if not parameter.is_flag:
                value = next(rest, None)
                if value is None:
                    raise click.UsageError(f"{arg}: requires an argument")
                spelled.append(value)
        return super().parse_args(ctx, spelled)


def _option_name(arg: str) -> str | None:
    for dashes in ("--", "-"):
        if arg.startswith(dashes):
            return arg[len(dashes) :]
    return None


def _refusal(arg: str, name: str, known: list[str]) -> str:
    unsupported = UNSUPPORTED.split()
    if name in unsupported:
        return f"-{name} is not supported yet"
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"{arg}: invalid option" + (f" (did you mean -{close[0]}?)" if close else "")


CONTEXT = {"help_option_names": ["-h", "-help", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """The group of all commands; tells users of QEMU, who expect none, that options come behind one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            raise click.UsageError(f"{args[0]}: options come behind a command, as in: mini-qemu run {args[0]} ...")
        return super().parse_args(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="mini-qemu", message="%(prog)s %(version)s")
def cli() -> None:
    """Run RISC-V guests on QEMU's virt board.

    "mini-qemu run" starts a machine; "mini-qemu run -h" lists its options.
    """


@cli.command(cls=QemuCommand, context_settings=CONTEXT, options_metavar="[-option [VALUE]]...")
@click.option(
    "-M", "-machine", "machine", metavar="NAME", default="virt", help="The machine type, or help to list them."
)
@click.option("-cpu", metavar="NAME", default="sifive-u54", help="The CPU: sifive-u54.")
@click.option("-m", "memory", metavar="SIZE", default="128M", help="RAM, such as 128M or 2G. [128M]")
@click.option("-smp", metavar="N", default="1", help="Number of harts: 1.")
@click.option("-bios", metavar="FILE", default="default", help="Firmware image, or none, or default: OpenSBI.")
@click.option("-kernel", metavar="FILE", help="ELF or flat image that the firmware starts, or the CPU if -bios none.")
@click.option("-initrd", metavar="FILE", help="Initial RAM disk.")
@click.option("-append", metavar="STRING", default="", help="Command line of the kernel.")
@click.option("-dtb", metavar="FILE", help="Device tree to use in place of the board's own.")
@click.option("-serial", metavar="CHARDEV", multiple=True, help="Where the serial port goes, see above.")
@click.option("-monitor", metavar="CHARDEV", help="Where the monitor goes, see above.")
@click.option("-qmp", metavar="CHARDEV", multiple=True, help="Where a monitor for programs, QMP, goes.")
@click.option("-nographic", is_flag=True, help="There are no graphics anyway; see above what it means for consoles.")
@click.option("-display", metavar="none", default="none", help="Accepted for scripts written for QEMU.")
@click.option("-nodefaults", is_flag=True, help="No serial port and no monitor unless asked for.")
@click.option("-S", "stopped", is_flag=True, help="Do not start the guest: cont in the monitor does.")
@click.option("-no-reboot", is_flag=True, help="Exit when the guest resets the machine.")
@click.option("-icount", metavar="shift=N", help="Count instructions, 2^N ns each: every run is the same.")
@click.option(
    "-snapshots", metavar="DIR", help="Where savevm puts snapshots. [~/.local/state/mini-qemu/snapshots/virt]"
)
@click.option("-uuid", metavar="UUID", default="", help="The machine's own identifier, which its firmware can read.")
@click.option("-loadvm", metavar="TAG", help="Start in this snapshot.")
@click.option(
    "-incoming", metavar="URI", help="Wait for a guest from tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:N or file:PATH."
)
@click.option(
    "-object", "objects", metavar="TYPE,id=ID,...", multiple=True, help="tls-creds-x509: certificates for migrating."
)
@click.option("-global", "settings", metavar="DRIVER.PROP=VALUE", multiple=True, help="virtio-mmio.force-legacy=off")
@click.option("-d", "items", metavar="ITEM,...", help="Log these: int, in_asm, exec, mmio, guest_errors, unimp.")
@click.option("-D", "log_file", metavar="FILE", help="Log to FILE and not to standard error.")
@click.version_option(VERSION, "-version", "--version", prog_name="mini-qemu", message="%(prog)s %(version)s")
def run(**options: Any) -> int:
    """Run a guest; options are spelled as QEMU spells them.

    The exit status is the guest's own, when it ends itself through the test finisher.

    CHARDEV is stdio, null, file:PATH, pty, unix:PATH,server=on,wait=off or tcp:HOST:PORT,server=on,wait=off; behind
    mon: it carries the monitor as well, with these keys: Ctrl-A x quits, Ctrl-A c switches between guest and monitor,
    Ctrl-A h helps.

    Without -serial and -monitor both share this terminal, as if -serial mon:stdio had been given. If only -monitor is
    given, the serial port gets the terminal, unless the monitor has it. If only -serial is given, there is no monitor,
    but with -nographic the monitor gets the terminal, unless the serial port has it.

    With -incoming the guest is one that runs elsewhere, and comes with migrate there; what it is given here must be the
    same. -incoming defer waits until migrate_incoming in the monitor says where from.
    """
    from emulator import options as parse

    if options["machine"] == "help":
        return _print_machines()
    if options["display"] != "none":
        raise ConfigError(f"-display {options['display']}: there is no display, only none is supported")
    if len(options["serial"]) > 1:
        raise ConfigError("-serial: the board has one serial port")
    serial, monitor = parse.choose_consoles(
        options["serial"][0] if options["serial"] else None,
        options["monitor"],
        options["qmp"],
        nographic=options["nographic"],
        nodefaults=options["nodefaults"],
    )
    _enable_log(options["items"], options["log_file"])
    shift_sleep = None if options["icount"] is None else parse.parse_icount(options["icount"])
    machine = {
        **parse.parse_machine(options["machine"]),
        "cpu": options["cpu"],
        "ram": parse.parse_memory(options["memory"]),
        "smp": parse.parse_smp(options["smp"]),
        "reboot": not options["no_reboot"],
        "force_legacy_virtio": parse.parse_globals(options["settings"]),
        **{name: options[name] for name in ("bios", "kernel", "initrd", "append", "dtb", "snapshots", "uuid")},
    }
    if options["incoming"] is not None and options["loadvm"] is not None:
        raise ConfigError("-incoming and -loadvm both say where the guest comes from: use one of them")
    has_stdio = bool({"stdio", "mon:stdio"} & {serial, monitor, *options["qmp"]})
    if has_stdio and re.fullmatch("fd:0*[012]", options["incoming"] or ""):
        raise ConfigError(f"-incoming {options['incoming']}: standard input, output and error belong to the console")
    objects = [(f"-object {text}", *parse.parse_object(f"-object {text}", text)) for text in options["objects"]]
    start = _Start(options["stopped"], options["loadvm"], options["incoming"], objects)
    return _run(machine, shift_sleep, (serial, monitor, options["qmp"]), start)


@cli.group(context_settings={"help_option_names": ["-h", "--help"]})
def snapshot() -> None:
    """List, verify and delete the snapshots that savevm has saved."""


def _of_directory(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which directory of snapshots is meant."""
    chosen = click.option("-snapshots", "--snapshots", metavar="DIR", help="The directory, as behind run -snapshots.")
    machine = click.option(
        "-M", "-machine", "machine", metavar="NAME", default="virt", help="Whose default directory: virt."
    )
    return chosen(machine(command))


def _directory(snapshots: str | None, machine: str) -> SnapshotDirectory:
    from emulator.boards.machinetypes import machine_type
    from emulator.migration.snapshots import SnapshotDirectory, default_directory
    from emulator.options import parse_machine

    name = parse_machine(machine)["machine"]
    machine_type(name)
    if not snapshots:
        return SnapshotDirectory(default_directory(name))  # which may not be there yet
    path = Path(snapshots)
    try:
        path.stat()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    return SnapshotDirectory(path)


@snapshot.command("list")
@_of_directory
@click.option("-json", "--json", "as_json", is_flag=True, help="For scripts.")
def list_command(snapshots: str | None, machine: str, *, as_json: bool) -> None:
    """Show all snapshots, and which of them are damaged."""
    from emulator.snapshotcli import list_snapshots

    list_snapshots(_directory(snapshots, machine), as_json=as_json)


@snapshot.command()
@_of_directory
@click.argument("tags", nargs=-1, metavar="[TAG]...")
def verify(snapshots: str | None, machine: str, tags: tuple[str, ...]) -> int:
    """Tell which snapshots are damaged; exits with 1 if one is.

    Reads all of the file. Without a TAG, all snapshots are read.
    """
    from emulator.snapshotcli import verify_snapshots

    return verify_snapshots(_directory(snapshots, machine), tags)


@snapshot.command()
@_of_directory
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
def delete(snapshots: str | None, machine: str, tags: tuple[str, ...]) -> int:
    """Delete snapshots."""
    from emulator.snapshotcli import delete_snapshots

    return delete_snapshots(_directory(snapshots, machine), tags, _announce)


@cli.command(context_settings={"help_option_names": ["-h", "--help"]})
def demo() -> int:
    """Boot a small guest, save it, move it to a second process while it runs, and go back."""
    from emulator.demo import run_demo

    terminate_on(signal.SIGTERM, signal.SIGHUP)  # what has been started must be ended, whatever ends this
    return run_demo()


@cli.command("convert", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("-to", "--to", "to", metavar="MACHINE", default="virt", help="The machine type, as behind run -M. [virt]")
@click.option("-layout", "--layout", type=click.Choice(["classic", "mapped"]), help="Of RAM. [the same as in IN]")
@click.option(
    "-qemu-timer-fix", "--qemu-timer-fix", type=click.Choice(["on", "off"]), default="on", help="Cure the timer. [on]"
)
@click.option("-force", "--force", is_flag=True, help="Write OUT also if the guest would miss something.")
def convert_command(source: str, target: str, to: str, layout: str | None, qemu_timer_fix: str, *, force: bool) -> int:
    """Turn the migration stream or snapshot IN into one that another version of QEMU reads.

    What differs is listed. If the guest would miss some of it, OUT is not written.
    """
    from emulator.boards.machinetypes import machine_type
    from emulator.convert import convert

    terminate_on(signal.SIGTERM, signal.SIGHUP)  # an unfinished OUT must go, whatever ends this
    cure = qemu_timer_fix == "on"
    convert(Path(source), Path(target), machine_type(to), layout=layout, cure=cure, force=force, say=click.echo)
    return 0


@cli.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file")
@click.option("-diff", "--diff", "other", metavar="OTHER", help="Show only where the machine in OTHER differs.")
@click.option("-json", "--json", "as_json", is_flag=True, help="Write JSON, for scripts.")
@click.option("-v", "--verbose", is_flag=True, help="Cut nothing short, and list the ranges of RAM pages.")
def inspect(file: str, other: str | None, as_json: bool, verbose: bool) -> int:
    """Show what is in a migration stream or snapshot FILE, QEMU's own included.

    No machine is needed: fields are read by the description that the file carries. The exit status is 0, or 1 after an
    error, which may come when part of the file has been shown; with --diff it is 2 if the machines differ.
    """
    from emulator.inspection import diff_files, inspect_file

    if other is None:
        return inspect_file(Path(file), as_json=as_json, verbose=verbose)
    return diff_files(Path(file), Path(other), as_json=as_json, verbose=verbose)


def _print_machines() -> int:
    from emulator.boards.machinetypes import describe

    click.echo(describe())
    return 0


def _enable_log(items: str | None, path: str | None) -> None:
    from emulator.core import log
    from emulator.options import parse_log_items

    if items is None and path is None:
        return
    try:
        log.enable(parse_log_items(items) if items is not None else [], path)
    except OSError as error:
        raise ConfigError(f"-D {path}: {error.strerror}") from error


@dataclass(frozen=True)
class _Start:
    """How the guest begins."""

    stopped: bool
    loadvm: str | None
    incoming: str | None
    objects: list[tuple[str, str, dict[str, Any]]]
    """Certificates for migrating: the option that they come from, their id, and what else `add_credentials` wants."""


def _run(
    options: dict[str, Any],
    icount: tuple[int, bool] | None,
    consoles: tuple[str, str, tuple[str, ...]],
    start: _Start,
) -> int:
    """Build the machine, open its console, let it run to its end; returns its exit status."""
    from emulator.console import Console
    from emulator.core.charport import CharPort
    from emulator.machine import Machine
    from emulator.timekeeper import Icount

    terminate_on(*ENDING_SIGNALS)
    machine = Machine(icount=None if icount is None else Icount(*icount), port=CharPort(), **options)
    serial, monitor, qmp = consoles
    console = Console(machine, serial, monitor, _announce, qmp)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not console.interrupt():
            terminate(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        with noticed(), ExitStack() as stack:
            stack.callback(console.close)
            stack.callback(machine.close)
            stack.callback(console.end_sessions)
            try:
                _begin(machine, console, start)
                return machine.wait()
            except Terminated as reason:
                console.quit(128 + reason.number, "host-signal")
                raise
    except Terminated as reason:
        _announce(str(reason))  # only now: a line editor that ends clears what stands behind its prompt
        return 128 + reason.number


def _begin(machine: Machine, console: Console, start: _Start) -> None:
    """Let the guest run, or wait for it to come, with its console open."""
    for where, name, given in start.objects:
        try:
            machine.migration.add_credentials(name, **given)
        except EmulatorError as error:
            raise ConfigError(f"{where}: {error}") from error
    machine.power_on()
    if start.loadvm is not None:  # before anything is typed, which would be lost
        _loadvm(machine, start.loadvm)
    if start.incoming is not None:
        machine.transfer.expect()
    console.open_all()
    if start.incoming is not None:
        _expect(machine, console, start.incoming, stopped=start.stopped)
    elif not start.stopped:
        machine.cont()


def _loadvm(machine: Machine, tag: str) -> None:
    try:
        machine.loadvm(tag)
    except EmulatorError as error:
        raise ConfigError(f"-loadvm {tag}: {error}") from error


def _expect(machine: Machine, console: Console, uri: str, *, stopped: bool) -> None:
    """Let the guest come from `uri`, and end if it does not; with `defer`, from where the monitor says, as often as
    it takes.
    """
    migration = machine.migration
    migration.autostart = not stopped
    migration.on_dropped = lambda why: _announce(_one_line(str(why)))
    if uri == "defer":
        migration.on_refused = lambda reason: _announce(f"no guest has come: {_one_line(reason)}")
        return

    def refused(reason: str) -> None:
        _announce(f"-incoming {uri}: {_one_line(reason)}")
        console.quit(1)

    migration.on_refused = refused
    try:
        with undisturbed():
            where = migration.listen(uri)
    except EmulatorError as error:
        raise ConfigError(f"-incoming {uri}: {error}") from error
    if where != uri:
        _announce(f"waiting for a guest at {where}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _announce(line: str) -> None:
    if sys.stderr is None:  # closed by whoever started us; print would fall back to standard output
        return
    text = f"mini-qemu: {line}\n".encode(sys.stderr.encoding, "backslashreplace")
    # In one piece, so that nothing comes between, and not into a buffer: what a terminal that has gone does not take
    # would be written once more at exit, and change the exit status.
    with suppress(OSError):
        os.write(2, text)


def main() -> int:
    """The command's entry point: its exit status, with every error of the user's told in one line."""
    # NumPy is used for what needs no BLAS, whose threads would spin for 0.1 s just when a migration begins.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have letters that a terminal has not
    try:
        status = cli.main(prog_name="mini-qemu", standalone_mode=False)
        if sys.stdout is not None:  # None if whoever started us closed it
            sys.stdout.flush()  # what cannot be written shows here, not when the interpreter ends
    except click.exceptions.NoArgsIsHelpError as usage:
        usage.show()
        return 1
    except click.ClickException as error:
        _announce(_one_line(error.format_message()))
        return 1
    except EmulatorError as error:
        _announce(_one_line(str(error)))
        return 1
    except OSError as error:  # help and version may go to a full disk or to a reader that has left
        _announce(f"standard output: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail once more at exit
        return 1
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except Terminated as reason:
        return 128 + reason.number
    return status if isinstance(status, int) else 0
