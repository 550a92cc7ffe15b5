import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator.monitor.context import Context
from emulator.monitor.hmp import GREETING, LINE_LIMIT, PROMPT, Hmp
from emulator.monitor.session import Session, Style
from emulator.version import VERSION

MakeSession = Callable[[Style], Session]


@pytest.fixture
def make_session(hmp: Hmp, peer: Any) -> Iterator[MakeSession]:
    sessions: list[Session] = []

    def make(style: Style) -> Session:
        session = Session(hmp, peer.port, style)
        sessions.append(session)
        session.show()
        return session

    yield make
    for session in sessions:
        session.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "monitor"]


def test_pipe_gets_plain_lines_with_the_commands_repeated(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.PIPE)
    peer.type(b"info status\np/x 1\n")
    peer.expect(b"0x1\n(qemu) ")
    assert peer.seen.decode() == (
        f"{GREETING}\n{PROMPT}info status\nVM status: paused (prelaunch)\n{PROMPT}p/x 1\n0x1\n{PROMPT}"
    )


def test_line_that_arrives_in_pieces_is_one_line(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.PIPE)
    for piece in (b"info", b" sta", b"tus\n"):
        peer.type(piece)
    peer.expect(b"VM status")


def test_endless_line_is_refused_and_the_next_one_is_read(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.PIPE)
    peer.type(b"x" * 3 * LINE_LIMIT)
    peer.type(b"x\ninfo status\n")
    peer.expect(f"line is longer than {LINE_LIMIT} characters".encode())
    peer.expect(b"VM status")


def test_socket_peer_that_sends_lines_gets_no_escape_sequences(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.SOCKET)
    peer.type(b"info status\n")
    peer.expect(b"(qemu) VM status: paused (prelaunch)\r\n(qemu) ")
    assert b"\x1b" not in peer.seen


def test_socket_peer_that_sends_keys_gets_line_editing(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.SOCKET)
    peer.expect(PROMPT.encode())
    for key in b"info statux\x7fs\r":
        peer.type(bytes([key]))
    peer.expect(b"VM status: paused (prelaunch)\r\n")


def test_terminal_edits_completes_and_recalls(make_session: MakeSession, peer: Any, machine: Any) -> None:
    make_session(Style.TERMINAL)
    peer.expect(GREETING.encode())
    peer.expect(PROMPT.encode())
    peer.type(b"garbage\x15info stat\t\r")  # Ctrl-U, tab
    peer.expect(b"VM status: paused (prelaunch)\r\n")
    machine.status = "running"
    peer.type(b"\x1b[A\r")  # up
    peer.expect(b"VM status: running\r\n")


def test_terminal_shows_the_choices_when_there_are_several(make_session: MakeSession, peer: Any) -> None:
    make_session(Style.TERMINAL)
    peer.expect(PROMPT.encode())
    peer.type(b"sys\t")
    peer.expect(b"system_")
    peer.type(b"\t")
    peer.expect(b"system_powerdown")
    peer.expect(b"system_reset")


@pytest.mark.parametrize("key", [b"\x03", b"\x04"])
def test_interrupt_and_end_of_file_drop_the_line_only(make_session: MakeSession, peer: Any, key: bytes) -> None:
    make_session(Style.TERMINAL)
    peer.expect(PROMPT.encode())
    peer.type(key)
    peer.type(b"info status\r")
    peer.expect(b"VM status")


def test_lines_typed_ahead_run_one_after_the_other(make_session: MakeSession, peer: Any, machine: Any) -> None:
    make_session(Style.TERMINAL)
    peer.type(b"cont\rinfo status\rstop\rinfo status\r")
    peer.expect(b"VM status: running")
    peer.expect(b"VM status: paused")
    assert machine.status == "paused"


def test_showing_again_brings_the_prompt_back_with_what_was_typed(make_session: MakeSession, peer: Any) -> None:
    session = make_session(Style.TERMINAL)
    peer.expect(PROMPT.encode())
    peer.type(b"info st")
    peer.expect(b"st")
    session.hide()
    session.show()
    peer.expect(b"\r\n")
    assert re.search(rb"\(qemu\) .*info st", peer.expect(b"info st"))


def test_lines_sent_right_before_hanging_up_are_carried_out(make_session: MakeSession, peer: Any, machine: Any) -> None:
    session = make_session(Style.SOCKET)
    peer.type(b"system_reset\nsystem_powerdown\n")
    session.hang_up()
    session.show()
    peer.expect(GREETING.encode())
    peer.expect(GREETING.encode())
    assert machine.told == ["reset", "powerdown"]


def test_next_peer_gets_plain_lines_whatever_the_one_before_had(make_session: MakeSession, peer: Any) -> None:
    session = make_session(Style.SOCKET)
    peer.expect(PROMPT.encode())
    peer.type(b"info st")
    peer.expect(b"info st")
    session.hang_up()
    session.show()
    peer.expect(GREETING.encode())
    peer.type(b"info version\n")
    peer.expect(b"\r\n(qemu) 0.1.0\r\n(qemu) ".replace(b"0.1.0", VERSION.encode()))


def test_no_prompt_follows_the_command_that_ends_the_session(machine: Any, peer: Any) -> None:
    session = Session(Hmp(Context(machine, lambda _status: session.end())), peer.port, Style.PIPE)
    session.show()
    peer.type(b"quit\ninfo status\n")
    peer.expect(b"quit\n")
    session.close()
    assert peer.seen.endswith(b"(qemu) quit\n")


def test_editing_session_may_be_ended_more_than_once_and_takes_its_prompt_away(
    make_session: MakeSession, peer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session = make_session(Style.TERMINAL)
    peer.expect(b"(qemu) ")
    for _ in range(3):
        session.end()
    session.close()
    assert not caplog.records
    assert peer.seen.count(b"(qemu) ") == 1


def test_nothing_is_sent_before_the_monitor_is_shown(hmp: Hmp, machine: Any, peer: Any) -> None:
    session = Session(hmp, peer.port, Style.TERMINAL)
    peer.type(b"quit\r")
    session.close()
    assert peer.seen == b""
    assert machine.told == []


def test_plain_session_needs_no_heavy_imports() -> None:
    code = (
        "import sys, emulator.monitor.session as s;"
        "heavy = {'prompt_toolkit', 'asyncio', 'capstone', 'numpy', 'rich', 'unicorn', 'elftools'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
