"""QMP as its users meet it: Python's `qemu.qmp` and its `qmp-shell`, unchanged, and raw sockets; beside QEMU's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pexpect
import pytest
from qemu.qmp import ExecuteError, QMPClient

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "firmware/prebuilt/toy.elf"
QMP_SHELL = Path(sys.executable).with_name("qmp-shell")
LIMIT = 60
GUEST = ("-M", "virt", "-m", "16M", "-bios", "none", "-kernel", str(TOY), "-display", "none", "-serial", "null")
MINI_QEMU = (sys.executable, "-m", "emulator", "run")

Start = Callable[..., "Emulator"]


class Emulator:
    """A process with a QMP socket."""

    def __init__(self, command: tuple[str, ...], path: Path, *options: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [*command, *GUEST, "-monitor", "none", "-qmp", f"unix:{path},server=on,wait=off", *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            with closing(socket.socket(socket.AF_UNIX)) as probe:
                if probe.connect_ex(str(path)) == 0:
                    probe.recv(1)
                    return
            time.sleep(0.02)
        raise AssertionError(f"no QMP socket: {self.process.communicate()[0]!r}")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Raw:
    """A client that sends what it likes and reads whole messages."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")
        self.greeting = self.read()

    def read(self) -> Any:
        line = self.lines.readline()
        return json.loads(line) if line else None

    def ask(self, request: Any) -> Any:
        """The reply to a request; events before it are passed over."""
        self.socket.sendall(request if isinstance(request, bytes) else json.dumps(request).encode())
        while "event" in (reply := self.read()):
            pass
        return reply

    def negotiate(self) -> None:
        assert self.ask({"execute": "qmp_capabilities"}) == {"return": {}}

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as a socket's name has 107 bytes at most."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    running: list[Emulator] = []

    def begin(*options: str, command: tuple[str, ...] = MINI_QEMU) -> Emulator:
        emulator = Emulator(command, directory / f"qmp{len(running)}", *options)
        running.append(emulator)
        return emulator

    yield begin
    for emulator in running:
        emulator.end()


@pytest.fixture
def connect() -> Iterator[Callable[[Emulator], Raw]]:
    clients: list[Raw] = []

    def begin(emulator: Emulator) -> Raw:
        clients.append(Raw(emulator.path))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()


# qemu.qmp


def test_the_client_library_talks_to_it(start: Start, directory: Path) -> None:
    emulator = start("-S", "-snapshots", str(directory / "snapshots"))

    async def talk() -> list[tuple[str, Any]]:
        client, told = QMPClient("test"), list[tuple[str, Any]]()
        await client.connect(str(emulator.path))
        assert client.greeting is not None
        with client.listener() as listener:
            assert await client.execute("query-status") == {
                "status": "prelaunch",
                "running": False,
                "singlestep": False,
            }
            await client.execute("cont")
            job = {"job-id": "save", "tag": "there", "vmstate": "disk", "devices": []}
            await client.execute("snapshot-save", job)
            async for event in listener:
                told.append((event["event"], event.get("data")))
                if event.get("data") == {"id": "save", "status": "concluded"}:
                    break
            assert (await client.execute("query-jobs"))[0]["status"] == "concluded"
            await client.execute("job-dismiss", {"id": "save"})
            assert await client.execute("human-monitor-command", {"command-line": "info status"}) == (
                "VM status: running\r\n"
            )
            with pytest.raises(ExecuteError, match="The command nonsense has not been found"):
                await client.execute("nonsense")
            await client.execute("quit")
            told += [(event["event"], event.get("data")) for event in listener.clear()]
        with contextlib.suppress(EOFError):  # the emulator may have gone first
            await client.disconnect()
        return told

    told = asyncio.run(asyncio.wait_for(talk(), LIMIT))
    assert told == [
        ("RESUME", None),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "created"}),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "running"}),
        ("STOP", None),
        ("RESUME", None),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "waiting"}),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "pending"}),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "concluded"}),
        ("JOB_STATUS_CHANGE", {"id": "save", "status": "null"}),
        ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"}),
    ]
    assert emulator.process.wait(LIMIT) == 0


def test_snapshots_are_jobs_as_in_qemu(start: Start, connect: Callable[[Emulator], Raw], directory: Path) -> None:
    client = connect(start("-S", "-snapshots", str(directory / "snapshots")))
    client.negotiate()

    def run(command: str, tag: str, **more: Any) -> dict[str, Any]:
        arguments = {"job-id": "job", "tag": tag, "devices": ["disk"], **more}
        assert client.ask({"execute": command, "arguments": arguments}) == {"return": {}}
        (info,) = client.ask({"execute": "query-jobs"})["return"]
        assert client.ask({"execute": "job-dismiss", "arguments": {"id": "job"}}) == {"return": {}}
        assert info["status"] == "concluded"
        return info

    assert "error" not in run("snapshot-save", "a", vmstate="disk")
    assert run("snapshot-save", "a", vmstate="disk")["error"] == "Snapshot 'a' already exists"
    assert "error" not in run("snapshot-load", "a", vmstate="disk")
    assert "there is no snapshot 'b'" in run("snapshot-load", "b", vmstate="disk")["error"]
    assert "error" not in run("snapshot-delete", "a")
    assert "error" not in run("snapshot-delete", "a")


# qmp-shell


def test_qmp_shell_works_unchanged(start: Start) -> None:
    emulator = start("-S")
    shell = pexpect.spawn(str(QMP_SHELL), [str(emulator.path)], encoding="utf-8", timeout=LIMIT, dimensions=(40, 500))
    shell.expect(r"Connected to QEMU \d+\.\d+\.\d+")
    shell.expect(r"\(QEMU\) ")
    for typed, answer in (
        ("query-status", '"status": "prelaunch"'),
        ("cont", r'\{"return": \{\}\}'),
        ("human-monitor-command command-line=info", "show memory tree"),
        ("nonsense", "The command nonsense has not been found"),
        ("job-dismiss id=x", "Job not found"),
    ):
        shell.sendline(typed)
        shell.expect(answer)
        shell.expect(r"\(QEMU\) ")
    shell.sendline("query-uu\t")
    shell.expect('"UUID"')
    shell.sendline("quit")
    shell.expect(r'\{"return": \{\}\}')
    shell.close()
    assert emulator.process.wait(LIMIT) == 0


def test_qmp_shells_human_monitor_works_unchanged(start: Start) -> None:
    emulator = start("-S")
    shell = pexpect.spawn(str(QMP_SHELL), ["-H", str(emulator.path)], encoding="utf-8", timeout=LIMIT)
    shell.expect(r"\(QEMU\) ")
    shell.sendline("info status")
    shell.expect("prelaunch")
    shell.sendline("print/x 6*7")
    shell.expect("0x2a")
    shell.close()


# Sockets


def test_clients_come_one_after_the_other(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    emulator = start()
    for _ in range(50):
        client = connect(emulator)
        assert client.greeting["QMP"]["capabilities"] == []
        client.socket.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-st')
        assert client.read() == {"return": {}}
        client.close()


def test_a_client_that_leaves_with_a_long_answer_due_spoils_nothing(
    start: Start, connect: Callable[[Emulator], Raw]
) -> None:
    emulator = start("-S")
    request = {"execute": "human-monitor-command", "arguments": {"command-line": "xp/16384xb 0x80000000"}}
    for _ in range(5):
        client = connect(emulator)
        client.negotiate()
        client.socket.sendall(json.dumps(request).encode() * 4)
        client.close()
    client = connect(emulator)
    assert "QMP" in client.greeting
    client.negotiate()
    assert len(client.ask(request)["return"]) > 65536


def test_a_client_that_reads_nothing_holds_up_no_guest(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    emulator = start()
    client = connect(emulator)
    client.negotiate()
    request = json.dumps({"execute": "human-monitor-command", "arguments": {"command-line": "info registers"}})
    client.socket.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            client.socket.send(request.encode() * 100)
    client.socket.settimeout(LIMIT)
    emulator.process.send_signal(signal.SIGTERM)
    assert emulator.process.wait(LIMIT) == 128 + signal.SIGTERM


def test_a_signal_is_told_before_the_end(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    emulator = start()
    client = connect(emulator)
    client.negotiate()
    emulator.process.send_signal(signal.SIGTERM)
    event = client.read()
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-signal"})
    assert client.read() is None
    assert emulator.process.wait(LIMIT) == 128 + signal.SIGTERM


def test_it_works_on_standard_input_and_output() -> None:
    requests = b'{"execute": "qmp_capabilities"}{"execute": "query-name"}{"execute": "quit"}\n'
    done = subprocess.run(
        [*MINI_QEMU, "-M", "virt", "-m", "16M", "-bios", "none", "-S", "-qmp", "stdio"],
        cwd=ROOT,
        input=requests,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert "QMP" in answers[0]
    assert answers[1:3] == [{"return": {}}, {"return": {}}]
    assert answers[3]["event"] == "SHUTDOWN"
    assert answers[4:] == [{"return": {}}]
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_shared_chardev_is_refused() -> None:
    done = subprocess.run([*MINI_QEMU, "-qmp", "mon:stdio"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mini-qemu: -qmp: ")
    assert done.stderr.count("\n") == 1


# Beside QEMU

QUERIES = (
    "query-version",
    "query-status",
    "query-name",
    "query-kvm",
    "query-cpus-fast",
    "query-uuid",
    "query-jobs",
    "stop",
    "cont",
    "cont",
    "query-status",
    "system_reset",
    "system_powerdown",
    "stop",
    "query-status",
    "nonsense",
    "qmp_capabilities",
)
MALFORMED = (
    b"{'execute': 'query-name'}",
    b'{"execute": "query-name", "id": [1, null]}',
    b'{"execute": 5}',
    b'{"id": 4}',
    b"[]",
    b'{"execute": "query-name", "foo": 1}',
    b'{"execute": "query-name", "arguments": []}',
    b'{"execute": "query-name", "arguments": {"a": 1}}',
    b'{"execute": "job-dismiss"}',
    b'{"execute": "job-dismiss", "arguments": {"id": 5}}',
    b'{"execute": "job-dismiss", "arguments": {"id": "x"}}',
    b'{"execute": "snapshot-save", "arguments": {"job-id": "1x", "tag": "a", "vmstate": "v", "devices": ["d"]}}',
    b'{"execute": "snapshot-load", "arguments": {"job-id": "x", "tag": "a", "vmstate": "v", "devices": [7]}}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info status", "cpu-index": 7}}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info kvm"}}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "nonsense"}}',
    b"}",
    b"garbage\n",
    b'{"execute": "query-name",}',
    b'{"a": 1, "a": 2}',
    b'{"execute": "query-name", "id": "\\ud800"}',
)


def shape(value: Any) -> Any:
    """The keys and types of an answer; errors and texts as they are."""
    if isinstance(value, dict):
        return {key: inner if key in ("desc", "class") else shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__


@pytest.mark.qemu("qemu-system-misc")
def test_answers_have_the_keys_and_types_of_qemus(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    ours, qemus = connect(start("-S")), connect(start("-S", command=("qemu-system-riscv64",)))
    assert {**ours.greeting["QMP"], "capabilities": []}.keys() == qemus.greeting["QMP"].keys()
    early = {"execute": "query-status", "id": 1}
    assert ours.ask(early) == qemus.ask(early)
    for client in (ours, qemus):
        client.negotiate()
    for name in QUERIES:
        request = {"execute": name, "id": name}
        assert shape(ours.ask(request)) == shape(qemus.ask(request)), name
    for request in MALFORMED:
        assert ours.ask(request) == qemus.ask(request), request


@pytest.mark.qemu("qemu-system-misc")
def test_machines_and_chardevs_are_described_as_qemu_does(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    ours, qemus = connect(start("-S")), connect(start("-S", command=("qemu-system-riscv64",)))
    for client in (ours, qemus):
        client.negotiate()
    (machine,) = (one for one in ours.ask({"execute": "query-machines"})["return"] if one.pop("alias", "") == "virt")
    (virt,) = (one for one in qemus.ask({"execute": "query-machines"})["return"] if one["name"] == "virt")
    assert machine.pop("is-default") is True
    assert shape(machine) == shape(virt)
    assert machine["default-ram-id"] == virt["default-ram-id"]

    def serial(client: Raw) -> Any:
        return next(one for one in client.ask({"execute": "query-chardev"})["return"] if one["label"] == "serial0")

    assert serial(ours) == serial(qemus)


@pytest.mark.qemu("qemu-system-misc")
def test_events_come_in_qemus_order(start: Start, connect: Callable[[Emulator], Raw]) -> None:
    told = []
    for command in (MINI_QEMU, ("qemu-system-riscv64",)):
        client = connect(start("-S", command=command))
        client.negotiate()
        messages: list[Any] = []
        for name in ("cont", "system_reset", "stop", "stop", "system_powerdown", "cont", "quit"):
            client.socket.sendall(json.dumps({"execute": name, "id": name}).encode())
            while (message := client.read()) and "event" in message:
                assert {key: type(value) for key, value in message.pop("timestamp").items()} == {
                    "seconds": int,
                    "microseconds": int,
                }
                messages.append(message)
            messages.append(message)
        assert client.read() is None
        told.append(messages)
    assert told[0] == told[1]
