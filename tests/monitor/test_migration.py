"""The monitors' commands for live migration, on two real machines in one process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emulator import Machine, Serial
from emulator.migration.settings import CAPABILITIES, PARAMETERS
from emulator.migration.status import Figures, Progress, Status
from emulator.monitor.context import Context
from emulator.monitor.foreground import Foreground
from emulator.monitor.hmp import Hmp
from emulator.monitor.migrationviews import progress_line
from emulator.monitor.qmp import Qmp
from emulator.monitor.session import Session, Style

TOY = Path(__file__).parents[2] / "firmware/prebuilt/toy.elf"
PATIENCE_SECONDS = 60

Execute = Callable[..., Any]


class QmpError(Exception):
    """An error reply; its text is the description."""


@pytest.fixture
def source(running_toy: Machine) -> Machine:
    return running_toy


@pytest.fixture
def target(empty_machine: Machine) -> Machine:
    """Waits for a guest, and for the monitor to say where it comes from."""
    empty_machine.transfer.expect()
    return empty_machine


@pytest.fixture
def hmp(source: Machine) -> Hmp:
    return Hmp(Context(source, source.quit))


@pytest.fixture
def execute(source: Machine) -> Execute:
    return qmp(source)


def qmp(machine: Machine) -> Execute:
    """What carries out a QMP command and returns what it returns; raises QmpError."""
    client = Qmp(Context(machine, machine.quit))

    def execute(command: str, **arguments: Any) -> Any:
        request = {"execute": command, "arguments": {name.replace("_", "-"): one for name, one in arguments.items()}}
        (reply,) = client.receive(json.dumps(request).encode())
        answer = json.loads(reply)
        if "error" in answer:
            raise QmpError(answer["error"]["desc"])
        return answer["return"]

    execute("qmp_capabilities")
    return execute


def listening(machine: Machine) -> str:
    return machine.migration.listen("tcp:127.0.0.1:0")


def silent() -> socket.socket:
    """A destination that connects and says nothing."""
    return socket.create_server(("127.0.0.1", 0))


def uri_of(server: socket.socket) -> str:
    return f"tcp:127.0.0.1:{server.getsockname()[1]}"


def labels(text: str) -> list[str]:
    return [line.partition(":")[0] for line in text.splitlines()]


# The human monitor


def test_machine_that_has_never_moved_has_no_status(hmp: Hmp) -> None:
    assert "status" not in hmp.execute("info migrate")


def test_migrate_returns_when_the_guest_runs_on_the_other_side(source: Machine, target: Machine) -> None:
    session = Hmp(Context(source, source.quit))

    assert session.execute(f"migrate {listening(target)}", Foreground()) == ""
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert session.execute("info status") == "VM status: paused (postmigrate)"
    assert str(target.status) == "running"
    said = session.execute("info migrate")
    assert "Migration status: completed" in said
    assert "guest given up: when the destination has said that it has loaded everything" in said
    assert re.search(r"^dirty log: \w+", said, re.MULTILINE)


def test_file_has_no_way_back_and_the_monitor_says_so(source: Machine, tmp_path: Path) -> None:
    session = Hmp(Context(source, source.quit))
    session.execute(f"migrate -d file:{tmp_path / 'stream'}")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    assert "guest given up: when everything has been written without an error" in session.execute("info migrate")


def test_failed_migration_says_why_and_the_guest_goes_on(hmp: Hmp) -> None:

    with silent() as server:
        closed = uri_of(server)
    said = hmp.execute(f"migrate {closed}", Foreground())
    assert said == f"Error: cannot connect to {closed}: Connection refused"
    assert f"Migration status: failed (cannot connect to {closed}: Connection refused)" in hmp.execute("info migrate")
    assert hmp.execute("info status") == "VM status: running"


def test_where_nobody_can_wait_migrate_goes_on_by_itself(hmp: Hmp, source: Machine, target: Machine) -> None:
    said = hmp.execute(f"migrate {listening(target)}")
    assert said == "terminal does not allow synchronous migration, continuing detached"
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED


def test_pause_before_switchover_waits_for_migrate_continue(hmp: Hmp, source: Machine, target: Machine) -> None:
    assert hmp.execute("migrate_set_capability pause-before-switchover on") == ""
    hmp.execute(f"migrate -d {listening(target)}")
    for status in (Status.SETUP, Status.ACTIVE):
        source.migration.progress.wait_while(status)
    assert hmp.execute("info status") == "VM status: paused (finish-migrate)"
    assert hmp.execute("migrate_continue device") == "Error: Migration not in expected state: pre-switchover"
    assert hmp.execute("migrate_set_capability events on") == "Error: There's a migration process in progress"
    assert hmp.execute(f"migrate {uri_of_nobody()}") == "Error: There's a migration process in progress"
    assert hmp.execute("migrate_continue pre-switchover") == ""
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED


def uri_of_nobody() -> str:
    return "tcp:127.0.0.1:1"


def test_what_is_typed_while_the_guest_stands_still_reaches_it_where_it_goes_on(
    hmp: Hmp, source: Machine, target: Machine
) -> None:
    hmp.execute("migrate_set_capability pause-before-switchover on")
    hmp.execute(f"migrate -d {listening(target)}")
    for status in (Status.SETUP, Status.ACTIVE):
        source.migration.progress.wait_while(status)
    source.serial.write("echo one\r")
    hmp.execute("migrate_continue pre-switchover")
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    target.stop()
    target.run(until=Serial("one\r\none\r\ntoy> "), timeout=PATIENCE_SECONDS)
    assert target.serial.output.startswith(b"echo one\r\n")


def test_cancel_before_the_switchover_lets_the_guest_go_on(hmp: Hmp, source: Machine, target: Machine) -> None:
    hmp.execute("migrate_set_capability pause-before-switchover on")
    hmp.execute(f"migrate -d {listening(target)}")
    for status in (Status.SETUP, Status.ACTIVE):
        source.migration.progress.wait_while(status)
    assert hmp.execute("migrate_cancel") == ""
    assert source.migration.wait(PATIENCE_SECONDS) is Status.CANCELLED
    assert hmp.execute("info status") == "VM status: running"


def test_cancel_of_nothing_is_harmless(hmp: Hmp) -> None:
    assert hmp.execute("migrate_cancel") == ""


def test_incoming_can_be_tried_again(target: Machine, source: Machine) -> None:
    waiting = Hmp(Context(target, target.quit))
    assert "no such" in waiting.execute("migrate_incoming file:/no/such").lower()
    assert waiting.execute("migrate_incoming tcp:127.0.0.1:0") == ""
    found = re.search(r"\t(tcp:127\.0\.0\.1:\d+)\n\]", waiting.execute("info migrate"))
    assert found is not None
    assert waiting.execute("migrate_incoming tcp:127.0.0.1:0") == (
        "Error: The incoming migration has already been started"
    )
    assert waiting.execute("migrate tcp:127.0.0.1:1").startswith("Error: ")
    source.migration.migrate(found[1])
    target.migration.wait_for_guest(PATIENCE_SECONDS)


def test_stop_while_waiting_keeps_the_guest_paused_and_cont_does_not(target: Machine, source: Machine) -> None:
    waiting = Hmp(Context(target, target.quit))
    waiting.execute("stop")
    assert waiting.execute("info status") == "VM status: paused (inmigrate)"
    source.migration.migrate(listening(target))
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert waiting.execute("info status") == "VM status: paused"


@pytest.mark.parametrize(
    ("name", "typed", "value"),
    [
        ("max-bandwidth", "100", 100 << 20),
        ("max-bandwidth", "100k", 100 << 10),
        ("max-bandwidth", "1.5G", 3 << 29),
        ("max-bandwidth", "0", 0),
        ("downtime-limit", "5", 5),
        ("downtime-limit", "0x10", 16),
        ("xbzrle-cache-size", "128M", 128 << 20),
        ("tls-creds", '"a b"', "a b"),
        ("tls-creds", '""', ""),
    ],
)
def test_parameter_is_set_as_typed(hmp: Hmp, source: Machine, name: str, typed: str, value: object) -> None:
    assert hmp.execute(f"migrate_set_parameter {name} {typed}") == ""
    assert source.migration.settings.parameters[name] == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("migrate_set_parameter frob 1", "migration parameter 'frob' is not supported"),
        ("migrate_set_parameter max-bandwidth lots", "'lots' is not a number"),
        ("migrate_set_parameter downtime-limit -1", "'-1' is not a number"),
        ("migrate_set_parameter downtime-limit 2000001", "expects 0 to 2000000"),
        ("migrate_set_parameter cpu-throttle-initial 100", "expects 1 to 99"),
        ("migrate_set_parameter xbzrle-cache-size 100M", "expects a power of two"),
        ("migrate_set_capability frob on", "migration capability 'frob' is not supported"),
        ("migrate_incoming tcp:127.0.0.1:0", "'-incoming' was not specified on the command line"),
        ("migrate_continue pre-switchover", "Migration not in expected state: none"),
        ("migrate_pause", "migrate-pause is currently only supported during postcopy-active state"),
        ("migrate frob", "frob is not a migration address"),
        ("migrate fd:1", "fd:1 was not given to mini-qemu for a migration"),
        ('migrate_set_parameter tls-creds "/a\\nb"', "parameter 'tls-creds' expects text that can be printed"),
        ("object_add rng-random,id=a", "object_add: only tls-creds-x509 is supported"),
        ("object_add tls-creds-x509,id=a,dir=/nowhere", "cannot use '/nowhere/ca-cert.pem': No such file or directory"),
        ("object_del a", "object 'a' not found"),
        ("migrate --report notes.txt tcp:127.0.0.1:1", "report 'notes.txt': the name must end in .html or .json"),
    ],
)
def test_mistake_is_one_line_and_nothing_has_changed(hmp: Hmp, source: Machine, line: str, words: str) -> None:
    before = dict(source.migration.settings.parameters), dict(source.migration.settings.capabilities)
    said = hmp.execute(line)
    assert said.startswith("Error: ")
    assert words in said
    assert "\n" not in said
    assert (source.migration.settings.parameters, source.migration.settings.capabilities) == before
    assert hmp.execute("info status") == "VM status: running"


def test_a_descriptor_of_its_own_is_not_for_streams(hmp: Hmp, source: Machine, tmp_path: Path) -> None:
    """Python marks all that it opens: they end with the process that has them."""
    fd = os.open(tmp_path / "stream", os.O_WRONLY | os.O_CREAT)
    assert hmp.execute(f"migrate -d fd:{fd}") == f"Error: fd:{fd} was not given to mini-qemu for a migration"
    assert source.migration.progress.status is Status.NONE
    os.set_inheritable(fd, True)  # as one that another program has handed on
    assert hmp.execute(f"migrate -d fd:{fd}") == ""
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED


def test_a_guest_that_is_being_moved_cannot_be_stopped(hmp: Hmp, source: Machine) -> None:
    """It would go on here all the same if it stayed, and there in any case."""
    source.migration.settings.enable({"pause-before-switchover": True})
    source.migration.migrate("exec:cat >/dev/null")
    source.migration.progress.wait_while(Status.SETUP)
    source.migration.progress.wait_while(Status.ACTIVE)
    assert hmp.execute("stop") == "Error: the guest is being moved: the machine is in state finish-migrate"
    source.migration.cancel()
    assert source.migration.wait(PATIENCE_SECONDS) is Status.CANCELLED


@pytest.mark.parametrize(
    ("line", "message", "topic"),
    [
        ("migrate", "migrate: string expected", "migrate"),
        ("migrate -x tcp:a:1", "migrate: unsupported option -x", "migrate"),
        ("migrate --report", "migrate: string expected", "migrate"),
        ("migrate_set_capability events", "Expected 'on' or 'off'", "migrate_set_capability"),
        ("migrate_set_capability events maybe", "Expected 'on' or 'off'", "migrate_set_capability"),
        ("migrate_set_parameter downtime-limit", "migrate_set_parameter: string expected", "migrate_set_parameter"),
    ],
)
def test_misuse_points_to_the_help(hmp: Hmp, line: str, message: str, topic: str) -> None:
    assert hmp.execute(line) == f'{message}\nTry "help {topic}" for more information'


def test_help_shows_the_options_of_migrate(hmp: Hmp) -> None:
    assert hmp.execute("help migrate").startswith("migrate [-d] [--report file] uri -- ")


def test_names_are_completed(hmp: Hmp) -> None:
    assert hmp.complete("migrate_set_parameter down") == ["downtime-limit"]
    assert hmp.complete("migrate_set_capability ") == sorted(CAPABILITIES)
    assert hmp.complete("migrate_continue pre") == ["pre-switchover"]


# QEMU's own answers


@pytest.mark.qemu("qemu-system-misc")
@pytest.mark.parametrize("command", ["info migrate_parameters", "info migrate_capabilities"])
def test_settings_are_shown_as_qemu_shows_them(hmp: Hmp, command: str) -> None:
    ours = hmp.execute(command).splitlines()
    known = {*PARAMETERS, *CAPABILITIES}
    assert ours == [line for line in qemu_says(command) if line.partition(":")[0] in known]


@pytest.mark.qemu("qemu-system-misc")
def test_finished_migration_is_shown_in_qemus_lines(hmp: Hmp, source: Machine) -> None:
    hmp.execute("migrate -d exec:cat>/dev/null")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    optional = {"precopy ram", "downtime ram"}  # shown if not 0, and QEMU's guest stands still from the start
    ours = [label for label in labels(hmp.execute("info migrate")) if label not in optional]
    theirs = labels("\n".join(qemu_says("migrate exec:cat>/dev/null", "info migrate")))
    internals = {"decompress-error-check", "clear-bitmap-shift"}
    assert ours == [one for one in theirs if one not in optional | internals] + ["dirty log", "guest given up"]


def qemu_says(*lines: str) -> list[str]:
    """The lines that QEMU's human monitor answers with."""
    done = subprocess.run(
        "qemu-system-riscv64 -M virt -m 16M -bios none -S -nodefaults -display none -monitor stdio".split(),
        input="\n".join([*lines, "quit", ""]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line for line in done.stdout.replace("\r", "").splitlines() if "(qemu)" not in line][1:]


# The progress line


def begin_session(machine: Machine, peer: Any, *, columns: int = 80) -> Session:
    """A monitor on a terminal, at its prompt."""
    session = Session(Hmp(Context(machine, machine.quit)), peer.port, Style.TERMINAL, lambda: (columns, 24))
    session.show()
    peer.expect(b"(qemu) ")
    return session


def test_ctrl_c_on_a_terminal_cancels(source: Machine, peer: Any) -> None:
    with silent() as server:
        session = begin_session(source, peer)
        peer.type(f"migrate {uri_of(server)}\r".encode())
        peer.expect(b"\r\x1b[Ksetup ")
        peer.type(b"forgotten\x03info status\r")
        peer.expect(b"cancelled")
        peer.expect(b"VM status: running")
        session.close()
    assert b"forgotten" not in peer.seen


def test_progress_line_tells_pass_rate_and_rest(source: Machine, target: Machine, peer: Any) -> None:
    source.migration.settings.set({"max-bandwidth": 100_000})
    session = begin_session(source, peer)
    peer.type(f"migrate {listening(target)}\r".encode())
    line = peer.expect(b"\r\x1b[K[") + peer.expect(b" left")
    assert re.search(rb"\[#*\.*\] pass 1  [\d.]+ \w+ sent  [\d.]+ \w+/s  dirty [\d.]+ \w+/s  [\d.]+ \w+ left", line)
    source.migration.settings.set({"max-bandwidth": 0})
    peer.expect(b"completed in ")
    peer.expect(b"(qemu) ")
    session.close()


def test_only_the_last_line_is_whole_on_a_narrow_terminal(source: Machine, target: Machine, peer: Any) -> None:
    session = begin_session(source, peer, columns=50)
    peer.type(f"migrate {listening(target)}\r".encode())
    peer.expect(b"completed in ")
    assert re.search(rb" and the switchover, \S+ ms of downtime\r\n$", peer.expect(b"\r\n"))
    peer.expect(b"(qemu) ")
    session.close()
    *drawn, _last = peer.seen.split(b"\r\x1b[K")[1:]
    assert drawn
    assert max(map(len, drawn)) == 49


def test_nothing_is_drawn_while_the_monitor_is_out_of_view(source: Machine, peer: Any) -> None:
    with silent() as server:
        session = begin_session(source, peer)
        for _ in range(2):
            peer.type(f"migrate {uri_of(server)}\r".encode())
            peer.expect(b"\r\x1b[Ksetup ")
            session.hide()
            peer.expect(b"\r\n")
            source.migration.cancel()
            source.migration.wait()
            session.show()
            assert peer.expect(b"cancelled") == b"\r\ncancelled"
            peer.expect(b"(qemu) ")
        session.close()


def test_line_goes_on_and_the_prompt_comes_once_when_the_monitor_is_in_view_again(source: Machine, peer: Any) -> None:
    with silent() as server:
        session = begin_session(source, peer)
        peer.type(f"migrate {uri_of(server)}\r".encode())
        peer.expect(b"\r\x1b[Ksetup ")
        session.hide()
        session.show()
        peer.expect(b"\r\nsetup ")
        peer.type(b"\x03")
        peer.expect(b"cancelled")
        peer.expect(b"(qemu) ")
        peer.type(b"info status\r")
        peer.expect(b"VM status: running")
        session.close()
    assert [line for line in screen(peer.seen) if "info status" in line] == ["(qemu) info status"]


def screen(sent: bytes) -> list[str]:
    """The lines that a terminal shows, if none of them is too long."""
    lines, column = [""], 0
    for count, move, character in re.findall(r"\x1b\[\??(\d*)(\w)|(.)", sent.decode(), re.DOTALL):
        line = lines[-1]
        if move in ("C", "D"):
            column += int(count) if move == "C" else -int(count)
        elif move in ("J", "K"):
            lines[-1] = line[:column]
        elif character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
        elif character:
            lines[-1] = line[:column].ljust(column) + character + line[column + 1 :]
            column += 1
    return lines


@pytest.mark.parametrize("columns", [40, 79, 200])
def test_bar_leaves_room_for_what_is_left(columns: int) -> None:
    progress = Progress()
    progress.begin()
    progress.change(Status.ACTIVE)
    progress.figures = Figures(total=64 << 30, transferred=123 << 28, bandwidth=94.2e6, expected_downtime=1.0)
    progress.figures.remaining = 64 << 30
    progress.figures.begin_pass(0)
    progress.figures.remaining = 3 << 30
    line = progress_line(progress, columns)
    bar = re.match(r"\[(#+\.*)\] pass 1  30.8 GiB sent  89.8 MiB/s  dirty 0 B/s  3 GiB left  down 1000 ms$", line)
    assert bar
    assert len(bar[1]) == {40: 6, 79: 6, 200: 20}[columns]
    assert line.index(" left") < 79


def test_monitor_that_ends_does_not_wait_for_the_migration(source: Machine, peer: Any) -> None:
    with silent() as server:
        session = Session(Hmp(Context(source, source.quit)), peer.port, Style.PIPE)
        session.show()
        peer.type(f"migrate {uri_of(server)}\n".encode())
        peer.expect(b"migrate ")
        session.close()
        assert source.migration.progress.is_under_way or source.migration.progress.status is Status.NONE
        source.migration.cancel()


# QMP

STATS = {
    "transferred": int, "remaining": int, "total": int, "duplicate": int, "skipped": int, "normal": int,
    "normal-bytes": int, "dirty-pages-rate": int, "mbps": float, "dirty-sync-count": int, "postcopy-requests": int,
    "page-size": int, "multifd-bytes": int, "pages-per-second": int, "precopy-bytes": int, "downtime-bytes": int,
    "postcopy-bytes": int, "dirty-sync-missed-zero-copy": int,
}  # fmt: skip
"""QAPI 7.2's `MigrationStats`."""


def test_query_migrate_has_qapis_members(execute: Execute, source: Machine, target: Machine) -> None:
    assert execute("query-migrate") == {}
    where = qmp(target)
    where("migrate-incoming", uri="tcp:127.0.0.1:0")
    (address,) = where("query-migrate")["socket-address"]
    assert address["type"] == "inet"
    execute("migrate", uri=f"tcp:{address['host']}:{address['port']}")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    info = execute("query-migrate")
    assert set(info) == {"status", "total-time", "downtime", "setup-time", "ram"}
    assert {name: type(value) for name, value in info["ram"].items()} == STATS
    target.migration.wait_for_guest(PATIENCE_SECONDS)
    assert where("query-migrate") == {"status": "completed"}


def test_failed_migration_has_a_reason(execute: Execute, source: Machine) -> None:
    execute("migrate", uri="exec:exit 3")
    source.migration.wait(PATIENCE_SECONDS)
    info = execute("query-migrate")
    assert info["status"] == "failed"
    assert "exit status 3" in info["error-desc"]


def test_parameters_are_set_together_or_not_at_all(execute: Execute) -> None:
    execute("migrate-set-parameters", max_bandwidth=1000, downtime_limit=7, tls_creds="d")
    execute("migrate-set-parameters", tls_creds=None)
    with pytest.raises(QmpError, match="expects 1 to 99, not 100"):
        execute("migrate-set-parameters", downtime_limit=8, max_cpu_throttle=100)
    with pytest.raises(QmpError, match="Parameter 'frob' is unexpected"):
        execute("migrate-set-parameters", frob=8)
    found = execute("query-migrate-parameters")
    assert (found["max-bandwidth"], found["downtime-limit"], found["tls-creds"]) == (1000, 7, "")


def test_capabilities_are_set_together_or_not_at_all(execute: Execute) -> None:
    execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    with pytest.raises(QmpError, match="'multifd' is not supported"):
        execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": "xbzrle", "state": True}, {"capability": "multifd", "state": True}],
        )
    with pytest.raises(QmpError, match=r"Invalid parameter type for 'capabilities\[0\].state', expected: boolean"):
        execute("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": "on"}])
    on = [one["capability"] for one in execute("query-migrate-capabilities") if one["state"]]
    assert on == ["events"]


@pytest.mark.parametrize("option", ["blk", "inc", "resume"])
def test_options_of_migrate_that_mean_nothing_here_are_refused(execute: Execute, option: str) -> None:
    with pytest.raises(QmpError, match=f"'{option}' is not supported"):
        execute("migrate", uri="exec:true", **{option: True})
    assert execute("query-migrate") == {}


def test_events_tell_each_state_and_pass_around_the_stop(execute: Execute, source: Machine, target: Machine) -> None:
    heard: list[str] = []
    source.events.subscribe(
        lambda name, data: heard.append(f"{name} {data.get('status', data.get('pass', ''))}".strip())
    )
    wanted = ["events", "pause-before-switchover"]
    execute("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in wanted])
    execute("migrate", uri=listening(target))
    for status in (Status.SETUP, Status.ACTIVE):
        source.migration.progress.wait_while(status)
    execute("migrate-continue", state="pre-switchover")
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    source.call(lambda: None)
    passes = [one for one in heard if one.startswith("MIGRATION_PASS")]
    assert passes == [f"MIGRATION_PASS {number}" for number in range(1, len(passes) + 1)]
    assert passes
    assert [one for one in heard if one not in passes] == [
        "MIGRATION setup",
        "MIGRATION active",
        "STOP",
        "MIGRATION pre-switchover",
        "MIGRATION device",
        "MIGRATION completed",
    ]


def test_no_events_unless_asked_for(execute: Execute, source: Machine, target: Machine) -> None:
    heard: list[str] = []
    source.events.subscribe(lambda name, _data: heard.append(name))
    execute("migrate", uri=listening(target))
    assert source.migration.wait(PATIENCE_SECONDS) is Status.COMPLETED
    source.call(lambda: None)
    assert heard == ["STOP"]
