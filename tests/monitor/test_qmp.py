"""QMP without sockets: requests in, replies out; then a session on a port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator.core.errors import MonitorError, SnapshotError
from emulator.monitor.arguments import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    SIZE,
    STRING,
    Argument,
    ListOf,
    OneOf,
    Struct,
    accept_all,
)
from emulator.monitor.context import Context
from emulator.monitor.jobs import JOB_LIMIT, Jobs
from emulator.monitor.qmp import QMP_COMMANDS, Qmp, encode_event
from emulator.monitor.qmpsession import EVENT_LIMIT, QmpSession

Ask = Callable[..., Any]


@pytest.fixture
def qmp(machine: Any) -> Qmp:
    """A client that has negotiated."""
    client = Qmp(Context(machine, machine.quit))
    assert replies(client, b'{"execute": "qmp_capabilities"}') == [{"return": {}}]
    return client


def replies(client: Qmp, data: bytes) -> list[Any]:
    found = list(client.receive(data))
    assert all(reply.endswith(b"\r\n") and reply.count(b"\n") == 1 and reply.isascii() for reply in found)
    return [json.loads(reply) for reply in found]


@pytest.fixture
def ask(qmp: Qmp) -> Ask:
    def execute(name: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
        request = {"execute": name, **more} if arguments is None else {"execute": name, "arguments": arguments, **more}
        (reply,) = replies(qmp, json.dumps(request).encode())
        return reply

    return execute


def generic(desc: str) -> dict[str, Any]:
    return {"error": {"class": "GenericError", "desc": desc}}


def not_found(desc: str) -> dict[str, Any]:
    return {"error": {"class": "CommandNotFound", "desc": desc}}


# The protocol


def test_greeting_offers_nothing_that_needs_negotiation(machine: Any) -> None:
    greeting = json.loads(Qmp(Context(machine, machine.quit)).greeting)
    assert greeting["QMP"]["capabilities"] == []
    assert {key: type(value) for key, value in greeting["QMP"]["version"]["qemu"].items()} == dict.fromkeys(
        ("major", "minor", "micro"), int
    )


def test_nothing_is_carried_out_before_negotiation(machine: Any) -> None:
    client = Qmp(Context(machine, machine.quit))
    error = not_found("Expecting capabilities negotiation with 'qmp_capabilities'")
    assert replies(client, b'{"execute": "system_reset"}{"execute": "nonsense", "id": 1}') == [
        error,
        {**error, "id": 1},
    ]
    assert machine.told == []
    assert not client.negotiated


def test_negotiation_happens_once(ask: Ask) -> None:
    assert ask("qmp_capabilities") == not_found("Capabilities negotiation is already complete, command ignored")


@pytest.mark.parametrize(
    ("enable", "error"),
    [
        (["oob"], "Capability oob not available"),
        (["foo"], "Parameter 'enable[0]' does not accept value 'foo'"),
        (5, "Invalid parameter type for 'enable', expected: array"),
        ([None], "Invalid parameter type for 'enable[0]', expected: string"),
    ],
)
def test_a_capability_that_is_not_there_is_refused(machine: Any, enable: Any, error: str) -> None:
    client = Qmp(Context(machine, machine.quit))
    request = {"execute": "qmp_capabilities", "arguments": {"enable": enable}}
    assert replies(client, json.dumps(request).encode()) == [generic(error)]
    assert not client.negotiated


@pytest.mark.parametrize("name", [None, 0, "x", 1.5, [1, {"a": None}], {"b": []}, "\u00e4"])
def test_an_id_comes_back_as_it_was(ask: Ask, name: Any) -> None:
    assert ask("stop", id=name) == {"return": {}, "id": name}
    assert ask("nonsense", id=name) == {**not_found("The command nonsense has not been found"), "id": name}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ([], "QMP input must be a JSON object"),
        (5, "QMP input must be a JSON object"),
        ({}, "QMP input lacks member 'execute'"),
        ({"execute": 5}, "QMP input member 'execute' must be a string"),
        ({"execute": "stop", "arguments": []}, "QMP input member 'arguments' must be an object"),
        ({"execute": "stop", "control": {}}, "QMP input member 'control' is unexpected"),
        ({"exec-oob": "stop"}, "QMP input member 'exec-oob' is unexpected"),
        ({"execute": "stop", "arguments": {"a": 1}}, "Parameter 'a' is unexpected"),
        ({"execute": "job-dismiss"}, "Parameter 'id' is missing"),
        ({"execute": "job-dismiss", "arguments": {"id": 1}}, "Invalid parameter type for 'id', expected: string"),
    ],
)
def test_malformed_requests(qmp: Qmp, request_: Any, error: str) -> None:
    assert replies(qmp, json.dumps(request_).encode() + b"\n") == [generic(error)]


def test_requests_are_answered_one_by_one_in_order(qmp: Qmp, machine: Any) -> None:
    data = b'{"execute":"cont","id":1}{"execute":"query-status","id":2}\r\n[{"execute":"stop","id":3}'
    answers = qmp.receive(data + b']{"execute":"query-st')
    assert machine.status == "prelaunch"
    assert json.loads(next(answers)) == {"return": {}, "id": 1}
    assert machine.status == "running"
    assert json.loads(next(answers))["return"]["running"] is True
    assert json.loads(next(answers)) == generic("QMP input must be a JSON object")
    assert list(answers) == []
    assert replies(qmp, b'atus"}')[0]["return"]["status"] == "running"


def test_an_event_has_its_moment() -> None:
    event = json.loads(encode_event("RESET", {"guest": True, "reason": "guest-reset"}, 1700000000.25))
    assert event == {
        "timestamp": {"seconds": 1700000000, "microseconds": 250000},
        "event": "RESET",
        "data": {"guest": True, "reason": "guest-reset"},
    }
    assert "data" not in json.loads(encode_event("STOP", {}, 0.0))


# Arguments

MEMBERS = (
    Argument("text", STRING),
    Argument("count", INTEGER, optional=True),
    Argument("size", SIZE, optional=True),
    Argument("ratio", NUMBER, optional=True),
    Argument("on", BOOLEAN, optional=True),
    Argument("mode", OneOf(("fast", "slow")), optional=True),
    Argument("caps", ListOf(Struct((Argument("capability", STRING), Argument("state", BOOLEAN)))), optional=True),
)


def test_arguments_that_were_not_given_are_none() -> None:
    given = {"text": "x", "caps": [{"capability": "c", "state": True}], "size": (1 << 64) - 1, "ratio": 2}
    assert accept_all(MEMBERS, given) == {**dict.fromkeys(("count", "on", "mode")), **given}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "Parameter 'text' is missing"),
        ({"text": None}, "Invalid parameter type for 'text', expected: string"),
        ({"count": True}, "Invalid parameter type for 'count', expected: integer"),
        ({"count": 1.0}, "Invalid parameter type for 'count', expected: integer"),
        ({"count": 1 << 63}, "Invalid parameter type for 'count', expected: integer"),
        ({"size": -1}, "Invalid parameter type for 'size', expected: uint64"),
        ({"ratio": "1"}, "Invalid parameter type for 'ratio', expected: number"),
        ({"on": 1}, "Invalid parameter type for 'on', expected: boolean"),
        ({"mode": "medium"}, "Parameter 'mode' does not accept value 'medium'"),
        ({"caps": {}}, "Invalid parameter type for 'caps', expected: array"),
        ({"caps": [1]}, "Invalid parameter type for 'caps[0]', expected: object"),
        ({"caps": [{"capability": "x"}]}, "Parameter 'caps[0].state' is missing"),
        ({"caps": [{"capability": "x", "state": True, "z": 1}]}, "Parameter 'caps[0].z' is unexpected"),
    ],
)
def test_arguments_are_checked_before_anything_is_done(given: dict[str, Any], error: str) -> None:
    with pytest.raises(MonitorError) as raised:
        accept_all(MEMBERS, {"text": "x", **given} if given else {})
    assert str(raised.value) == error


# Commands


def test_every_command_is_listed_and_named_as_qapi_names(ask: Ask) -> None:
    listed = ask("query-commands")["return"]
    assert [entry["name"] for entry in listed] == list(QMP_COMMANDS)
    assert all(set(entry) == {"name"} for entry in listed)


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("query-status", {"status": "prelaunch", "running": False, "singlestep": False}),
        ("query-name", {}),
        ("query-kvm", {"enabled": False, "present": False}),
        ("query-uuid", {"UUID": "00000000-0000-0000-0000-000000000000"}),
        ("query-chardev", []),
        ("query-jobs", []),
    ],
)
def test_queries(ask: Ask, name: str, result: Any) -> None:
    assert ask(name) == {"return": result}


def test_commands_that_act(ask: Ask, machine: Any) -> None:
    for name in ("cont", "stop", "system_reset", "system_powerdown", "quit"):
        assert ask(name) == {"return": {}}
    assert machine.status == "paused"
    assert machine.told == ["reset", "powerdown", "quit 0"]


def test_the_human_monitor_answers_with_text(ask: Ask) -> None:
    def human(line: str, **more: int) -> Any:
        return ask("human-monitor-command", {"command-line": line, **more})

    assert human("info status") == {"return": "VM status: paused (prelaunch)\r\n"}
    assert human("info status", **{"cpu-index": 0}) == human("info status")
    assert human("nonsense") == {"return": "unknown command: 'nonsense'\r\n"}
    assert human("stop") == human("") == {"return": ""}
    assert human("info status", **{"cpu-index": 1}) == generic("Parameter 'cpu-index' expects a CPU number")


# Jobs


@pytest.fixture
def told(machine: Any) -> list[str]:
    """What the machine's events say of jobs."""
    found: list[str] = []
    machine.events.subscribe(lambda _name, data: found.append(f"{data['id']} {data['status']}"))
    return found


def test_a_job_concludes_and_waits_to_be_dismissed(machine: Any, told: list[str]) -> None:
    jobs, done = Jobs(), list[str]()
    jobs.start(machine, "first", "snapshot-save", lambda: done.append("work"))
    assert done == ["work"]
    assert told == [f"first {status}" for status in ("created", "running", "waiting", "pending", "concluded")]
    (info,) = jobs.query(machine)
    assert info == {
        "id": "first",
        "type": "snapshot-save",
        "status": "concluded",
        "current-progress": 1,
        "total-progress": 1,
    }
    jobs.dismiss(machine, "first")
    assert told[-1] == "first null"
    assert jobs.query(machine) == []


def test_a_job_that_fails_says_why(machine: Any, told: list[str]) -> None:
    def work() -> None:
        raise SnapshotError("no room")

    jobs = Jobs()
    jobs.start(machine, "x", "snapshot-save", work)
    assert told == [f"x {status}" for status in ("created", "running", "aborting", "concluded")]
    assert jobs.query(machine)[0]["error"] == "no room"


def test_jobs_have_names_of_their_own(machine: Any) -> None:
    jobs = Jobs()
    jobs.start(machine, "a-b.c_1", "snapshot-load", lambda: None)
    with pytest.raises(MonitorError, match=r"Job ID 'a-b\.c_1' already in use"):
        jobs.start(machine, "a-b.c_1", "snapshot-load", lambda: None)
    for name in ("", "1a", "a b", "a/b", "\u00e4", "a" * 1000, "a\n"):
        with pytest.raises(MonitorError, match="Invalid job ID"):
            jobs.start(machine, name, "snapshot-load", lambda: None)
    with pytest.raises(MonitorError, match="Job not found"):
        jobs.dismiss(machine, "b")


def test_jobs_that_nobody_dismisses_are_limited(machine: Any) -> None:
    jobs = Jobs()
    for number in range(JOB_LIMIT):
        jobs.start(machine, f"job{number}", "snapshot-save", lambda: None)
    with pytest.raises(MonitorError, match="dismiss some"):
        jobs.start(machine, "more", "snapshot-save", lambda: None)
    assert [job["id"] for job in jobs.query(machine)][:2] == [f"job{JOB_LIMIT - 1}", f"job{JOB_LIMIT - 2}"]


# A session

NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'


@pytest.fixture
def session(machine: Any, peer: Any) -> Iterator[QmpSession]:
    context = Context(machine, lambda status: (machine.quit(status), found.end())[0])
    found = QmpSession(context, peer.port)
    found.show()
    peer.expect(b'{"QMP"')
    yield found
    found.close()
    found.finish()


@pytest.mark.usefixtures("session")
def test_events_come_only_after_negotiation(machine: Any, peer: Any) -> None:
    machine.events.emit("TOO_EARLY")
    peer.type(NEGOTIATE)
    peer.expect(b'{"return": {}}\r\n')
    machine.events.emit("POWERDOWN")
    peer.expect(b'"event": "POWERDOWN"}\r\n')
    assert b"TOO_EARLY" not in peer.seen


@pytest.mark.usefixtures("session")
def test_a_commands_events_come_before_its_reply(peer: Any) -> None:
    peer.type(NEGOTIATE + b'{"execute": "cont", "id": "c"}')
    peer.expect(b'{"return": {}}\r\n')
    assert b'"event": "RESUME"' in peer.expect(b'{"return": {}, "id": "c"}\r\n')


def test_the_next_client_negotiates_anew_and_gets_nothing_of_the_last_ones(
    session: QmpSession, machine: Any, peer: Any
) -> None:
    peer.type(NEGOTIATE + b'{"execute": "system_re')
    peer.expect(b'{"return": {}}\r\n')
    session.hang_up()
    machine.events.emit("LOST")
    session.show()
    peer.expect(b'{"QMP"')
    machine.events.emit("LOST")
    peer.type(b'set"\n{"execute": "stop"}')
    peer.expect(b"Expecting capabilities negotiation")
    assert machine.told == []
    assert b"LOST" not in peer.seen


def test_a_client_that_hangs_up_gets_no_reply_but_what_it_sent_is_done(
    session: QmpSession, machine: Any, peer: Any
) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        go_on.wait(20)

    machine.powerdown = block
    peer.type(NEGOTIATE + b'{"execute": "system_powerdown"}')
    peer.expect(b'{"return": {}}\r\n')
    assert blocked.wait(20)
    peer.type(b'{"execute": "system_reset"}')
    session.hang_up()
    session.show()
    go_on.set()
    assert b"return" not in peer.expect(b'{"QMP"')
    assert machine.told == ["reset"]


def test_quitting_tells_of_the_end_before_it_replies(session: QmpSession, machine: Any, peer: Any) -> None:
    peer.type(NEGOTIATE + b'{"execute": "quit", "id": 1}{"execute": "system_reset"}')
    peer.expect(b'{"return": {}}\r\n')
    session.close()
    machine.events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    session.finish()
    assert b'"event": "SHUTDOWN"' in peer.expect(b'{"return": {}, "id": 1}\r\n')
    assert machine.told == ["quit 0"]


def test_events_for_a_client_that_does_not_read_are_limited(machine: Any, peer: Any) -> None:
    session = QmpSession(Context(machine, machine.quit), peer.port)
    session._listening = True
    for number in range(EVENT_LIMIT + 5):
        machine.events.emit(f"EVENT{number}")
    assert len(session._events) == EVENT_LIMIT
    assert b'"EVENT5"' in session._events[0]
    session.finish()
    machine.events.emit("LATE")
    assert len(session._events) == 0
