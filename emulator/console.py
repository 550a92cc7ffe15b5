"""A machine's console on the host: chardevs for the serial port and the monitor, and the monitors' sessions.

The order of things at the end matters, and is the caller's: first the sessions, which look at the machine, then the
machine, which sends to the chardevs, then the chardevs, which write out what waits and give the terminal back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emulator.chardev import Chardev, ChardevSpec, IoLoop, Mux, open_chardev, parse_chardev
from emulator.core.charport import CharPort
from emulator.core.errors import ConfigError
from emulator.machine import Machine
from emulator.monitor.context import Context
from emulator.monitor.hmp import Hmp
from emulator.monitor.peers import PeerSession
from emulator.monitor.session import Session, Style

if TYPE_CHECKING:  # imported when there is a -qmp
    from emulator.monitor.qmpsession import QmpSession


class Console:
    """The chardevs and monitor sessions of one machine; `open_all` opens them, in this order.

    `serial`, `monitor` and each `qmp` are chardevs in QEMU's spelling; a serial port or monitor spelled `mon:…` shares
    its chardev with a monitor. `announce` gets lines for the user.
    """

    def __init__(
        self,
        machine: Machine,
        serial: str,
        monitor: str,
        announce: Callable[[str], None],
        qmp: Sequence[str] = (),
    ) -> None:
        self._machine = machine
        self._context = Context(machine, self.quit, self._list_chardevs)
        self._specs = (parse_chardev(serial), machine.serial.port), (parse_chardev(monitor), None)
        self._qmp_specs = [parse_chardev("null" if text == "none" else text) for text in qmp]
        if any(spec.mux for spec in self._qmp_specs):
            raise ConfigError("-qmp: a QMP monitor shares its character device with nothing else; leave out mon:")
        self._announce = announce
        self._loop = IoLoop()
        self._chardevs: list[Chardev] = []
        self._sessions: list[PeerSession] = []
        self._human_sessions: list[Session] = []
        self._qmp_sessions: list[QmpSession] = []
        self._monitors = 0
        machine.on_stopping = self._hurry

    def open_all(self) -> None:
        """Open every chardev; ChardevError if one cannot be opened, with those before it left for `close`."""
        for spec, port in self._specs:
            if spec.mux:
                self._open_shared(spec, port)
            elif port is not None:
                self._chardevs.append(open_chardev(spec, port, self._loop, announce=self._announce))
            elif spec.kind != "null":
                self._open_monitor(spec)
        for spec in self._qmp_specs:
            self._open_qmp(spec)

    def quit(self, status: int, reason: str = "host-qmp-quit") -> None:
        """End the machine, also while it waits for a peer that does not read; from any thread, returns at once.

        `reason` is one of QAPI's `ShutdownCause`.
        """
        for session in self._sessions:
            session.end()
        self._hurry(True)
        self._machine.quit(status, reason)

    def interrupt(self) -> bool:
        """Ctrl-C has been typed where it is a signal; whether a command of a monitor has taken it."""
        return sum(session.interrupt() for session in self._human_sessions) > 0

    def _hurry(self, hurry: bool) -> None:
        for chardev in self._chardevs:
            chardev.patient = not hurry

    def end_sessions(self) -> None:
        """Let no monitor look at the machine any more; harmless when repeated."""
        for session in self._sessions:
            session.close()

    def close(self) -> None:
        """Write what still waits and free everything; harmless when repeated."""
        while self._qmp_sessions:
            self._qmp_sessions.pop().finish()
        while self._chardevs:
            self._chardevs.pop().close()
        self._loop.close()

    def _open_monitor(self, spec: ChardevSpec) -> None:
        port = self._monitor_port()
        session = self._session(spec, port)
        chardev = open_chardev(
            spec, port, self._loop, announce=self._announce, on_open=session.show, on_close=session.hang_up
        )
        self._chardevs.append(chardev)

    def _open_qmp(self, spec: ChardevSpec) -> None:
        from emulator.monitor.qmpsession import QmpSession

        port = self._monitor_port()
        session = QmpSession(self._context, port)
        self._sessions.append(session)
        self._qmp_sessions.append(session)
        chardev = open_chardev(
            spec, port, self._loop, announce=self._announce, on_open=session.show, on_close=session.hang_up
        )
        self._chardevs.append(chardev)

    def _monitor_port(self) -> CharPort:
        self._monitors += 1
        return CharPort(f"compat_monitor{self._monitors - 1}")

    def _open_shared(self, spec: ChardevSpec, serial: CharPort | None) -> None:
        monitor = self._monitor_port()
        session = self._session(spec, monitor)

        def focus(port: CharPort) -> None:
            (session.show if port is monitor else session.hide)()

        mux = Mux(
            [port for port in (serial, monitor) if port is not None],
            self._loop,
            on_quit=lambda: self.quit(0, "host-ui"),
            on_break=lambda port: self._send_break() if port is serial else None,
            on_focus=focus,
        )
        chardev = open_chardev(
            spec,
            mux,
            self._loop,
            announce=self._announce,
            on_open=lambda: session.show() if mux.focus is monitor else None,
            on_close=session.hang_up,
        )
        self._chardevs.append(chardev)

    def _send_break(self) -> None:
        self._machine.post(self._machine.board.send_break)

    def _session(self, spec: ChardevSpec, port: CharPort) -> Session:
        if spec.kind != "stdio":
            style = Style.PIPE if spec.kind == "file" else Style.SOCKET
            session = Session(Hmp(self._context), port, style)
        elif os.isatty(0):
            session = Session(Hmp(self._context), port, Style.TERMINAL, _terminal_size)
        else:
            session = Session(Hmp(self._context), port, Style.PIPE)
        self._sessions.append(session)
        self._human_sessions.append(session)
        return session

    def _list_chardevs(self) -> list[dict[str, Any]]:
        return [
            {"label": chardev.label, "filename": chardev.filename, "frontend-open": True}
            for chardev in tuple(self._chardevs)
        ]


def _terminal_size() -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(0)
    except OSError:
        return 80, 24
    return columns or 80, rows or 24  # some terminals do not know theirs
