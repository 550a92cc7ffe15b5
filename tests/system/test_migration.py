"""Live migration between two processes, by the names of QEMU's own tests (its tests/qtest/migration-test.c)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import authority
from processes import TOY, Emulator, QmpError, wait_until

Start = Callable[..., Emulator]

TICKS_A_SECOND = 10_000_000
MIB = 1 << 20
LOOPBACK = "tcp:127.0.0.1:0"
UUIDS = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


def make_busy(source: Emulator) -> bytes:
    """Have the guest count and write; the sum of its code."""
    crc = source.ask("crc", rb"crc32 of [^\r]*(?=\r)")[0]
    source.ask("dirty 50", rb"0 errors\r\n")
    source.ask("count", rb"count 1\r")
    return crc


def check_guest(emulator: Emulator, crc: bytes) -> None:
    """The guest runs, its memory is what it was, and its clock goes right."""
    assert emulator.ask("crc", rb"crc32 of [^\r]*(?=\r)")[0] == crc
    assert emulator.ask("dirty check", rb"checked, (\d+) errors")[1] == b"0"
    assert emulator.ask("dirty", rb"passes, (\d+) errors")[1] == b"0"
    asked = time.monotonic()
    begin, answered = uptime(emulator), time.monotonic()
    time.sleep(0.5)
    asked_again = time.monotonic()
    ticks = uptime(emulator) - begin
    assert asked_again - answered <= ticks / TICKS_A_SECOND <= time.monotonic() - asked


def uptime(emulator: Emulator) -> int:
    return int(emulator.ask("uptime", rb"mtime (\d+)(?=\D)")[1])


def check_counting(source: Emulator, destination: Emulator) -> None:
    """The guest counts on at the destination, without repeat or gap."""
    last = int(re.findall(rb"count (\d+)\r", source.serial.data)[-1])
    destination.serial.wait_for(rb"count %d\r" % (last + 2))
    numbers = re.findall(rb"count (\d+)\r", source.serial.data + destination.serial.data)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def check_moved(source: Emulator, destination: Emulator, crc: bytes) -> None:
    """The guest is at the destination, and only there."""
    destination.wait_for_status("completed")
    assert (source.run_state, destination.run_state) == ("postmigrate", "running")
    check_guest(destination, crc)
    check_counting(source, destination)


def check_kept(source: Emulator) -> None:
    """The guest has stayed at the source, and is well."""
    assert source.run_state == "running"
    source.ask("dirty 50", rb"0 errors\r\n")
    check_guest(source, source.ask("crc", rb"crc32 of [^\r]*(?=\r)")[0])


# Transports


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_precopy_plain(source: Emulator, destination: Emulator, tmp_path: Path, transport: str) -> None:
    uri = destination.listen(LOOPBACK if transport == "tcp" else f"unix:{tmp_path / 'migration'}")
    crc = make_busy(source)
    assert source.migrate(uri) == "completed"
    check_moved(source, destination, crc)
    figures = source.execute("query-migrate")
    assert figures["ram"]["dirty-sync-count"] >= 2
    assert figures["downtime"] > 0
    assert not (tmp_path / "migration").exists()


def test_migrate_fd_proto(mini_qemu: Start) -> None:
    ends = socket.socketpair()
    numbers = [end.fileno() for end in ends]
    source = mini_qemu("-kernel", str(TOY), pass_fds=numbers[:1])
    destination = mini_qemu("-incoming", f"fd:{numbers[1]}", pass_fds=numbers[1:])
    for end in ends:
        end.close()
    source.serial.wait_for(rb"toy> $")
    crc = make_busy(source)
    assert source.migrate(f"fd:{numbers[0]}") == "completed"
    check_moved(source, destination, crc)


def test_migrate_precopy_fd_file(mini_qemu: Start, tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as file:
        source = mini_qemu("-kernel", str(TOY), pass_fds=[file.fileno()])
        source.serial.wait_for(rb"toy> $")
        crc = make_busy(source)
        assert source.migrate(f"fd:{file.fileno()}") == "completed"
    with (tmp_path / "stream").open("rb") as file:
        destination = mini_qemu("-incoming", f"fd:{file.fileno()}", pass_fds=[file.fileno()])
    destination.serial.wait_for(rb"count \d+\r")
    assert (source.run_state, destination.run_state) == ("postmigrate", "running")
    check_guest(destination, crc)
    check_counting(source, destination)


def test_precopy_exec(source: Emulator, destination: Emulator, tmp_path: Path) -> None:
    pipe = shlex.quote(str(tmp_path / "pipe"))
    os.mkfifo(tmp_path / "pipe")
    destination.listen(f"exec:cat {pipe}")
    crc = make_busy(source)
    assert source.migrate(f"exec:cat > {pipe}") == "completed"
    check_moved(source, destination, crc)


@pytest.mark.parametrize("offset", ["", ",offset=0x1000"])
def test_precopy_file(source: Emulator, destination: Emulator, tmp_path: Path, offset: str) -> None:
    path = tmp_path / "stream"
    path.write_bytes(bytes(0x2000))
    crc = make_busy(source)
    assert source.migrate(f"file:{path}{offset}") == "completed"
    assert source.run_state == "postmigrate"
    data = path.read_bytes()
    assert data.startswith(bytes(0x1000) + b"QEVM" if offset else b"QEVM")
    destination.listen(f"file:{path}{offset}")
    check_moved(source, destination, crc)


def test_migration_baddest(source: Emulator, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        assert source.migrate(uri) == "failed"
        assert source.migration_error == f"cannot connect to {uri}: Connection refused"
    for uri in (f"unix:{tmp_path / 'nobody'}", f"file:{tmp_path / 'no' / 'directory'}"):
        assert source.migrate(uri) == "failed"
        assert "No such file or directory" in source.migration_error
    assert source.migrate("exec:exit 3") == "failed"
    check_kept(source)


# What is typed


class Typist:
    """Types one `echo` after the other, with growing numbers, a character at a time."""

    def __init__(self) -> None:
        self._text = "".join(f"echo {number:04}\r" for number in range(10_000))
        self._done = 0

    def type(self, emulator: Emulator) -> None:
        emulator.type(self._text[self._done])
        self._done += 1

    def finish_line(self, emulator: Emulator) -> None:
        """Type the rest of the line, and wait until the guest has answered."""
        self.type(emulator)
        while self._text[self._done - 1] != "\r":
            self.type(emulator)
        emulator.serial.wait_for(rb"\r\n%s\r\n" % self._text[self._done - 5 : self._done - 1].encode())

    def check_answers(self, said: bytes) -> None:
        """Nothing was lost, and nothing came twice."""
        answers = re.findall(rb"\r\n(\d{4})\r\n", said)
        assert [int(answer) for answer in answers] == list(range(self._text.count("\r", 0, self._done)))
        assert b"such command" not in said


ROUTES: dict[str, tuple[str, str]] = {
    "tcp": (LOOPBACK, LOOPBACK),
    "unix": ("unix:{path}", "unix:{path}"),
    "fd": ("fd:{ours}", "fd:{theirs}"),
    "exec": ("exec:cat > '{pipe}'", "exec:cat '{pipe}'"),
    "file": ("file:{path}", "file:{path}"),
    "file_offset": ("file:{path},offset=0x1000", "file:{path},offset=0x1000"),
}
"""By transport: where the guest is sent, and where it is expected."""


@pytest.mark.parametrize("transport", ROUTES)
def test_precopy_counting_writing_and_typed_at(mini_qemu: Start, tmp_path: Path, transport: str) -> None:
    """Typed at the source until it stands still, and at the destination from when it has the guest.

    Where there is no way back, what has not reached the guest then could not follow: it has read all before.
    """
    has_way_back = transport in ("tcp", "unix", "fd")
    os.mkfifo(tmp_path / "pipe")
    ours, theirs = socket.socketpair()
    source = mini_qemu("-kernel", str(TOY), pass_fds=[ours.fileno()])
    destination = mini_qemu("-incoming", "defer", pass_fds=[theirs.fileno()])
    names = {"path": tmp_path / "guest", "pipe": tmp_path / "pipe", "ours": ours.fileno(), "theirs": theirs.fileno()}
    uri, expected = (text.format(**names) for text in ROUTES[transport])
    ours.close()
    theirs.close()
    source.serial.wait_for(rb"toy> $")
    crc = make_busy(source)
    source.write_without_end()
    source.capabilities(pause_before_switchover=True)
    if not transport.startswith("file"):
        bound = destination.listen(expected)
        uri = bound if transport == "tcp" else uri
    source.execute("migrate", uri=uri)
    typist, event = Typist(), ""
    while event != "STOP":
        typist.type(source)
        event = source.next_event()["event"] if source.has_message(0.001) else ""
        if event == "MIGRATION_PASS":
            if not has_way_back:
                typist.finish_line(source)
                break
            source.let_migration_end()
    source.let_migration_end()
    source.wait_for_status("pre-switchover")
    wait_until(source.has_read_input)
    source.execute("migrate-continue", state="pre-switchover")
    assert source.wait_until_ended() == "completed"
    if transport.startswith("file"):
        destination.listen(expected)
    destination.wait_for_status("completed")
    for _ in range(200):
        typist.type(destination)
        time.sleep(0.001)
    typist.finish_line(destination)
    typist.check_answers(source.serial.data + destination.serial.data)
    assert (source.run_state, destination.run_state) == ("postmigrate", "running")
    check_guest(destination, crc)
    check_counting(source, destination)


def test_what_is_typed_while_the_guest_stands_still_arrives_once(source: Emulator, destination: Emulator) -> None:
    uri = destination.listen(LOOPBACK)
    source.capabilities(pause_before_switchover=True)
    source.execute("migrate", uri=uri)
    source.wait_for_status("pre-switchover")
    for number in range(100):
        source.type(f"echo {number:04}\r")
    source.execute("query-status")
    source.execute("migrate-continue", state="pre-switchover")
    assert source.wait_until_ended() == "completed"
    destination.serial.wait_for(rb"\r\n0099\r\n")
    assert [int(number) for number in re.findall(rb"\r\n(\d{4})\r\n", destination.serial.data)] == list(range(100))
    assert b"echo" not in source.serial.data


# Convergence


def test_precopy_unix_xbzrle(source: Emulator, destination: Emulator, tmp_path: Path) -> None:
    crc = make_busy(source)
    source.write_without_end()
    source.capabilities(xbzrle=True)
    source.parameters(xbzrle_cache_size=32 * MIB)
    source.execute("migrate", uri=destination.listen(f"unix:{tmp_path / 'migration'}"))
    wait_until(lambda: source.execute("query-migrate").get("xbzrle-cache", {}).get("pages", 0) > 1000)
    source.let_migration_end()
    assert source.wait_until_ended() == "completed"
    assert source.execute("query-migrate")["xbzrle-cache"]["bytes"] > 0
    check_moved(source, destination, crc)


def test_migrate_auto_converge(source: Emulator, destination: Emulator) -> None:
    source.capabilities(auto_converge=True)
    source.parameters(cpu_throttle_initial=40, cpu_throttle_increment=30, max_cpu_throttle=95)
    source.write_without_end()
    source.ask("dirty 100", rb"0 errors\r\n")
    source.execute("migrate", uri=destination.listen(LOOPBACK))
    wait_until(lambda: source.execute("query-migrate").get("cpu-throttle-percentage", 0) >= 40)
    source.let_migration_end()
    assert source.wait_until_ended() == "completed"
    assert 40 <= source.execute("query-migrate")["cpu-throttle-percentage"] <= 95
    destination.wait_for_status("completed")
    assert destination.ask("dirty", rb"passes, (\d+) errors")[1] == b"0"


def test_precopy_return_path(source: Emulator, destination: Emulator) -> None:
    """The capability is there for scripts; with or without, the source waits for the destination's word."""
    source.capabilities(return_path=True)
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"
    assert destination.run_state == "running"
    assert "way back" not in source.execute("human-monitor-command", command_line="info migrate")


def test_pause_before_switchover(source: Emulator, destination: Emulator) -> None:
    crc = make_busy(source)
    source.capabilities(pause_before_switchover=True)
    with pytest.raises(QmpError, match="not in expected state: none"):
        source.execute("migrate-continue", state="pre-switchover")
    source.execute("migrate", uri=destination.listen(LOOPBACK))
    source.wait_for_status("pre-switchover")
    assert (source.run_state, destination.run_state) == ("finish-migrate", "inmigrate")
    source.execute("migrate-continue", state="pre-switchover")
    source.wait_for_status("device")
    assert source.wait_until_ended() == "completed"
    check_moved(source, destination, crc)


# Cancel


def migrates_after(source: Emulator, destination: Emulator, uri: str) -> None:
    """The migration that was cancelled can be begun anew, and works."""
    destination.wait_for_status("failed")
    check_kept(source)
    source.let_migration_end()
    source.capabilities(pause_before_switchover=False)
    assert destination.listen(uri) == uri  # the port is free again
    assert source.migrate(uri) == "completed"
    destination.wait_for_status("completed")
    assert destination.ask("dirty check", rb"checked, (\d+) errors")[1] == b"0"


def test_cancel_src_after_setup(source: Emulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
        source.execute("migrate", uri=f"tcp:127.0.0.1:{silent.getsockname()[1]}")
        source.wait_for_status("setup")
        assert source.execute("query-migrate")["status"] == "setup"
        source.execute("migrate_cancel")
        assert source.wait_until_ended() == "cancelled"
    check_kept(source)


def test_cancel_src_after_active(source: Emulator, destination: Emulator) -> None:
    source.write_without_end()
    uri = destination.listen(LOOPBACK)
    source.execute("migrate", uri=uri)
    source.wait_for_status("active")
    source.wait_for_event("MIGRATION_PASS")
    source.execute("migrate_cancel")
    source.execute("migrate_cancel")  # while it is being cancelled, or has been
    assert source.wait_until_ended() == "cancelled"
    migrates_after(source, destination, uri)


def test_cancel_src_pre_switchover(source: Emulator, destination: Emulator) -> None:
    source.capabilities(pause_before_switchover=True)
    uri = destination.listen(LOOPBACK)
    source.execute("migrate", uri=uri)
    source.wait_for_status("pre-switchover")
    source.execute("migrate_cancel")
    assert source.wait_until_ended() == "cancelled"
    migrates_after(source, destination, uri)


def test_cancel_src_after_device(source: Emulator, destination: Emulator) -> None:
    """The destination has much to read still, and is not quick: it stands still."""
    source.capabilities(pause_before_switchover=True)
    uri = destination.listen(LOOPBACK)
    source.execute("migrate", uri=uri)
    source.wait_for_status("pre-switchover")
    with destination.stopped():
        source.execute("migrate-continue", state="pre-switchover")
        source.wait_for_status("device")
        source.execute("migrate_cancel")
        assert source.wait_until_ended() == "cancelled"
    migrates_after(source, destination, uri)


def test_cancel_after_the_end_changes_nothing(source: Emulator, destination: Emulator) -> None:
    source.execute("migrate_cancel")
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"
    source.execute("migrate_cancel")
    assert source.execute("query-migrate")["status"] == "completed"
    assert (source.run_state, destination.run_state) == ("postmigrate", "running")


# TLS


def other(certificates: Path) -> Path:
    """The same for one side, to be changed."""
    return Path(shutil.copytree(certificates, certificates.with_name("other")))


def refused_by_tls(source: Emulator, destination: Emulator, folder: Path, uri: str, why: str) -> None:
    """The migration fails with TLS, the guest is still there, and the destination takes one that may come."""
    source.parameters(tls_creds=str(folder))
    assert source.migrate(uri) == "failed"
    assert re.search(why, source.migration_error)
    assert (source.run_state, destination.run_state) == ("running", "inmigrate")
    source.parameters(tls_creds=str(folder.with_name("pki")), tls_hostname="")
    assert source.migrate(uri) == "completed"


def test_precopy_tls_x509_default_host(source: Emulator, destination: Emulator, certificates: Path) -> None:
    crc = make_busy(source)
    for side in (source, destination):
        side.parameters(tls_creds=str(certificates))
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"
    check_moved(source, destination, crc)


def test_precopy_unix_tls_x509_override_host(source: Emulator, destination: Emulator, certificates: Path) -> None:
    authority().issue(certificates, "server", host="far.example")
    destination.parameters(tls_creds=str(certificates))
    source.parameters(tls_creds=str(certificates), tls_hostname="far.example")
    uri = destination.listen(f"unix:{certificates.with_name('migration')}")
    assert source.migrate(uri) == "completed"
    assert destination.run_state == "running"


def test_precopy_tls_x509_mismatch_host(source: Emulator, destination: Emulator, certificates: Path) -> None:
    destination.parameters(tls_creds=str(certificates))
    source.parameters(tls_hostname="far.example")
    uri = destination.listen(LOOPBACK)
    refused_by_tls(source, destination, certificates, uri, "far.example|[Hh]ostname mismatch")


def test_precopy_tls_x509_hostile_client(source: Emulator, destination: Emulator, certificates: Path) -> None:
    """Its certificate is signed by somebody whom the destination does not know."""
    folder = other(certificates)
    authority("theirs").issue(folder, "client")
    destination.parameters(tls_creds=str(certificates))
    refused_by_tls(source, destination, folder, destination.listen(LOOPBACK), "certificate|unknown ca|closed")


def test_precopy_tls_x509_reject_anon_client(source: Emulator, destination: Emulator, certificates: Path) -> None:
    folder = other(certificates)
    for name in ("client-cert.pem", "client-key.pem"):
        (folder / name).unlink()
    destination.parameters(tls_creds=str(certificates))
    refused_by_tls(source, destination, folder, destination.listen(LOOPBACK), "certificate|closed")


def test_precopy_tls_x509_allow_anon_client(mini_qemu: Start, certificates: Path) -> None:
    """Both sides are told of their certificates on the command line, the destination not to ask for the other's."""
    folder = other(certificates)
    for name in ("client-cert.pem", "client-key.pem"):
        (folder / name).unlink()
    server = f"tls-creds-x509,id=tls0,dir={certificates},endpoint=server,verify-peer=off"
    source = mini_qemu("-kernel", str(TOY), "-object", f"tls-creds-x509,id=tls0,dir={folder},endpoint=client")
    destination = mini_qemu("-incoming", "defer", "-object", server)
    for side in (source, destination):
        side.parameters(tls_creds="tls0")
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"
    assert destination.run_state == "running"


def test_precopy_tls_x509_with_objects_that_are_added_later(
    source: Emulator, destination: Emulator, certificates: Path
) -> None:
    pki = {"qom-type": "tls-creds-x509", "id": "tls0", "dir": str(certificates)}
    for side, endpoint in ((source, "client"), (destination, "server")):
        side.execute("object-add", **pki, endpoint=endpoint)
        side.parameters(tls_creds="tls0")
        with pytest.raises(QmpError, match="there is an object 'tls0' already"):
            side.execute("object-add", **pki)
    uri = destination.listen(LOOPBACK)
    destination.execute("object-del", id="tls0")
    assert source.migrate(uri) == "completed"
    assert destination.run_state == "running"
    with pytest.raises(QmpError, match="object 'tls0' not found"):
        destination.execute("object-del", id="tls0")


def test_precopy_without_tls_is_refused_where_it_is_expected(
    source: Emulator, destination: Emulator, certificates: Path
) -> None:
    destination.parameters(tls_creds=str(certificates))
    uri = destination.listen(LOOPBACK)
    assert source.migrate(uri) == "failed"
    assert "closed the connection" in source.migration_error
    source.parameters(tls_creds=str(certificates))
    assert source.migrate(uri) == "completed"


# Identity


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(UUIDS[0], UUIDS[0]), ("", UUIDS[1]), (UUIDS[0], "")],
    ids=["same", "src_not_set", "dst_not_set"],
)
def test_validate_uuid(mini_qemu: Start, ours: str, theirs: str) -> None:
    source = mini_qemu("-kernel", str(TOY), *(("-uuid", ours) if ours else ()))
    destination = mini_qemu("-incoming", "defer", *(("-uuid", theirs) if theirs else ()))
    source.capabilities(validate_uuid=True)
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"
    assert destination.run_state == "running"


def test_validate_uuid_error(mini_qemu: Start) -> None:
    source = mini_qemu("-kernel", str(TOY), "-uuid", UUIDS[0])
    destination = mini_qemu("-incoming", "defer", "-uuid", UUIDS[1])
    source.capabilities(validate_uuid=True)
    assert source.migrate(destination.listen(LOOPBACK)) == "failed"
    for uuid in UUIDS:
        assert uuid in source.migration_error
    assert (source.run_state, destination.run_state) == ("running", "inmigrate")
    source.capabilities(validate_uuid=False)
    assert source.migrate(destination.listen(LOOPBACK)) == "completed"


# The stream


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_analyze_script(mini_qemu: Callable[..., Emulator], analyze: Callable[..., Any], tmp_path: Path) -> None:
    """QEMU's own script reads what a live migration writes, with pages that were sent more than once."""
    source = mini_qemu("-M", "virt-7.2", "-kernel", str(TOY))
    source.serial.wait_for(rb"toy> $")
    make_busy(source)
    source.write_without_end()
    path = tmp_path / "stream"
    source.execute("migrate", uri=f"exec:cat > {shlex.quote(str(path))}")
    source.wait_for_event("MIGRATION_PASS")
    source.wait_for_event("MIGRATION_PASS")
    source.let_migration_end()
    assert source.wait_until_ended() == "completed"
    assert source.execute("query-migrate")["ram"]["dirty-sync-count"] >= 3
    said = analyze(path)
    assert said["ram (1)"]["section sizes"]["riscv_virt_board.ram"] == "0x0000000001000000"
    names = {re.sub(r" \(\d+\)", "", name) for name in said}
    assert {"ram", "timer", "cpu", "riscv_sifive_plic", "serial", "globalstate"} <= names
