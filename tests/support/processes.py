"""Emulators under a test's control, mini-qemu and QEMU: what their guests say, what is typed at them, their QMP."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "firmware/prebuilt/toy.elf"
PATIENCE_SECONDS = 60


class QmpError(Exception):
    """A command was refused; the text says why."""


class SerialLog:
    """What a guest sends, read as it comes."""

    def __init__(self, fd: Any) -> None:
        self._file = fd
        self._changed = threading.Condition()
        self._data = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := self._file.read(65536):
            with self._changed:
                self._data += piece
                self._changed.notify_all()

    @property
    def data(self) -> bytes:
        """Everything so far."""
        with self._changed:
            return bytes(self._data)

    def wait_for(self, pattern: bytes, *, start: int = 0) -> re.Match[bytes]:
        """Block until the pattern, a regular expression, is found behind byte `start`."""

        with self._changed:
            found = self._changed.wait_for(
                lambda: re.compile(pattern).search(bytes(self._data), start), PATIENCE_SECONDS
            )
            assert found, f"{pattern!r} has not come; last: {bytes(self._data[-200:])!r}"
            return found

    def close(self) -> None:
        """Wait for the end, after the process has ended."""
        self._thread.join()
        self._file.close()


MINI_QEMU = (sys.executable, "-m", "emulator", "run")
QEMU = ("qemu-system-riscv64",)


class Emulator:
    """`mini-qemu run` or another `program` like it, with 16 MiB unless the options say otherwise, and events.

    Options given twice count the second time.
    """

    def __init__(
        self,
        path: Path,
        *options: str,
        pass_fds: Sequence[int] = (),
        program: Sequence[str] = MINI_QEMU,
        env: Mapping[str, str] | None = None,
    ) -> None:
        common = "-M virt -cpu sifive-u54 -nodefaults -bios none -display none".split()
        command = [*program, *common]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(PATIENCE_SECONDS)
            listener.bind(str(path))
            listener.listen()
            self.process = subprocess.Popen(
                [*command, "-m", "16M", "-serial", "stdio", "-qmp", f"unix:{path}", *options],
                cwd=ROOT,
                bufsize=0,
                pass_fds=pass_fds,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            self.serial = SerialLog(self.process.stdout)
            self.errors = SerialLog(self.process.stderr)
            self._qmp = listener.accept()[0]
        self._qmp.settimeout(PATIENCE_SECONDS)
        self._unread = b""
        self._events: deque[dict[str, Any]] = deque()
        self._read_message()
        self.execute("qmp_capabilities")
        self.capabilities(events=True)

    def close(self) -> None:
        """End the process, however it is."""
        self.process.kill()
        self.process.wait()
        self._qmp.close()
        self.serial.close()
        self.errors.close()
        assert self.process.stdin is not None
        self.process.stdin.close()

    # The monitor

    def execute(self, name: str, **arguments: Any) -> Any:
        """What a command returns; QmpError if it is refused."""
        spelled = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._qmp.sendall(json.dumps({"execute": name, "arguments": spelled}).encode())
        while "event" in (reply := self._read_message()):
            self._events.append(reply)
        if "error" in reply:
            raise QmpError(reply["error"]["desc"])
        return reply["return"]

    def _read_message(self) -> dict[str, Any]:
        while b"\n" not in self._unread:
            piece = self._qmp.recv(65536)
            if not piece:
                raise EOFError(f"the process has ended: {self.errors.data!r}")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def has_message(self, seconds: float) -> bool:
        """Wait so long for anything that has not been looked at: an event."""
        return bool(self._events or self._unread or select.select([self._qmp], [], [], seconds)[0])

    def next_event(self) -> dict[str, Any]:
        """Wait for the next event that has not been looked at."""
        return self._events.popleft() if self._events else self._read_message()

    def wait_for_event(self, name: str) -> None:
        """Pass over events up to the first of this name."""
        while self.next_event()["event"] != name:
            pass

    def wait_for_status(self, *wanted: str) -> str:
        """Pass over events up to the first that tells of one of these states of a migration; which."""
        passed_over = []
        while True:
            try:
                event = self.next_event()
            except TimeoutError:
                raise AssertionError(f"no event of {wanted}; instead {passed_over}, {self.migration_error}") from None
            if event["event"] == "MIGRATION" and event["data"]["status"] in wanted:
                return str(event["data"]["status"])
            passed_over.append(event)

    def capabilities(self, **wanted: bool) -> None:
        """Switch capabilities of migration."""
        states = [{"capability": name.replace("_", "-"), "state": state} for name, state in wanted.items()]
        self.execute("migrate-set-capabilities", capabilities=states)

    def parameters(self, **values: int | str) -> None:
        """Set parameters of migration."""
        self.execute("migrate-set-parameters", **values)

    @property
    def run_state(self) -> str:
        """Of QAPI's type RunState."""
        return str(self.execute("query-status")["status"])

    # Migration

    def listen(self, uri: str) -> str:
        """Expect a guest, in a process with `-incoming defer`; where, with the port that was free."""
        self.execute("migrate-incoming", uri=uri)
        for address in self.execute("query-migrate").get("socket-address", ()):
            if address["type"] == "inet":
                return f"tcp:{address['host']}:{address['port']}"
        return uri

    def migrate(self, uri: str) -> str:
        """Send the guest away; how that has ended."""
        self.execute("migrate", uri=uri)
        return self.wait_until_ended()

    def wait_until_ended(self) -> str:
        """How the migration that is going on has ended."""
        return self.wait_for_status("completed", "failed", "cancelled")

    @property
    def migration_error(self) -> str:
        """Why the latest migration has failed."""
        return str(self.execute("query-migrate").get("error-desc", ""))

    # The guest

    def type(self, text: str) -> None:
        """Type at the guest."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())

    def has_read_input(self) -> bool:
        """Whether the process has read all that was typed; it then heeds it before the next command."""
        assert self.process.stdin is not None
        waiting = array("i", [0])
        fcntl.ioctl(self.process.stdin.fileno(), termios.FIONREAD, waiting)
        return waiting[0] == 0

    def ask(self, line: str, answer: bytes) -> re.Match[bytes]:
        """Type a line at the toy guest; the first thing it then says that matches."""
        start = len(self.serial.data)
        self.type(line + "\r")
        return self.serial.wait_for(answer, start=start)

    def write_without_end(self) -> None:
        """Have the toy guest write to all of its memory, and faster than it is sent."""
        self.ask("dirty 400", rb"0 errors\r\n")
        while int(self.ask("dirty", rb" (\d+) passes")[1]) == 0:
            pass
        self.ask("dirty 50", rb"0 errors\r\n")
        self.parameters(max_bandwidth=16 << 20, downtime_limit=1)

    def let_migration_end(self) -> None:
        """Undo that: what is left can be sent now."""
        self.parameters(max_bandwidth=0, downtime_limit=2000)

    def wait_for_exit(self) -> int:
        """Its status, when the process has ended by itself."""
        return self.process.wait(PATIENCE_SECONDS)

    def stand_still(self) -> None:
        """Let the process do nothing at all from now on; its threads stop when the first of them has its turn."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Undo `stand_still`."""
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Meanwhile the process does nothing at all."""
        self.stand_still()
        try:
            yield
        finally:
            self.go_on()


def wait_until(holds: Any) -> None:
    """Block until `holds()`; for what no event tells of."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)
