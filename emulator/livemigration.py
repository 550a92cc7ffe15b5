"""One machine's live migrations: the threads that carry them out, and what monitors and programs ask of them.

Outgoing: `migrate`, `wait`, `cancel`, `go_on`. Incoming: `listen`, `wait_for_guest`. The protocol is in
`emulator.migration`; here it is tied to a machine, its run state and its clock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.boards.machinetypes import WIRE_NAME
from emulator.core.errors import ConfigError, FileError
from emulator.core.memory import RamBlock
from emulator.migration.channel import Channel, ChannelError, Listener, TlsCredentials, connect, listen
from emulator.migration.devices import rehearse_loading
from emulator.migration.errors import MigrationError
from emulator.migration.incoming import Incoming
from emulator.migration.outgoing import Outgoing
from emulator.migration.report import Recorder, report_path, write_report
from emulator.migration.savevm import Subject
from emulator.migration.settings import Settings
from emulator.migration.status import Progress, Status
from emulator.migration.uri import Address, parse_uri
from emulator.runstate import RunState

if TYPE_CHECKING:
    from emulator.machine import Machine

CLOSE_SECONDS = 2.0
"""How long the end of the machine waits for a migration to end."""


class LiveMigration:
    """What can be asked of a machine about moving; from any thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.settings = Settings()
        self.progress = Progress(self._changed)
        """The latest outgoing migration's."""
        self.incoming = Progress(self._changed)
        """The latest incoming migration's."""
        self.progress.on_pass = self._passed
        self.way_back = True
        """Whether the destination of the latest outgoing migration can say that it has everything."""
        self.report_error: FileError | None = None
        """Why the report of the latest outgoing migration could not be written, until `wait` has raised it."""
        self.autostart = True
        """Whether a guest that ran where it comes from goes on here at once."""
        self.address: str | None = None
        """Where a guest is expected, as a URI, while nobody has connected."""
        self.on_refused: Callable[[str], None] = lambda _reason: None
        """Called on a thread of its own when an expected guest has not come, with the reason."""
        self.on_dropped: Callable[[ChannelError], None] = lambda _why: None
        """Called on a thread of its own for each client that was dropped, with the reason."""
        self._named_credentials: dict[str, TlsCredentials] = {}
        """What parameter `tls-creds` can name besides directories."""
        self._outgoing: Outgoing | None = None
        self._listener: Listener | None = None
        self._arriving: Incoming | None = None
        self._sending: threading.Thread | None = None
        self._threads: list[threading.Thread] = []

    # Outgoing

    def migrate(self, uri: str, *, report: str | Path | None = None) -> None:
        """Begin to send the guest to `uri`, in the background; raises ConfigError or MigrationError at once.

        When it has ended, however that may be, `report` is written: a page with plots, or data if it ends in `.json`.
        """
        address = parse_uri(uri)
        destination = None if report is None else report_path(report)
        self._check_free()
        guest, tls = _Guest(self._machine), self._credentials()
        if not self.progress.is_under_way and self._sending is not None:
            self._sending.join()  # its report is still being written, from the same figures
        if not self.progress.begin():
            raise MigrationError("There's a migration process in progress")
        self.report_error = None
        self._outgoing = Outgoing(
            guest,
            self.settings,
            self.progress,
            lambda: self._connect(address, tls),
            can_return=address.is_endpoint,
        )
        self._sending = self._start("migration", lambda: self._send(destination, address.quoted()))

    def wait(self, timeout: float | None = None) -> Status:
        """Block until the outgoing migration has ended, or for `timeout` seconds; how it stands.

        Raises FileError if its report could not be written.
        """
        if self.progress.wait_to_end(timeout) and self._sending is not None:
            self._sending.join()
        error, self.report_error = self.report_error, None
        if error is not None:
            raise error
        return self.progress.status

    def cancel(self) -> None:
        """Take the guest back, unless it belongs to the other side already; harmless if nothing is going on."""
        if self._outgoing is not None:
            self._outgoing.cancel()

    def go_on(self) -> None:
        """Leave `pre-switchover`; raises MigrationError if the migration does not wait there."""
        if self._outgoing is None or not self._outgoing.go_on():
            raise MigrationError(f"Migration not in expected state: {self.progress.status}")

    def _send(self, report: Path | None, uri: str) -> None:
        assert self._outgoing is not None
        if report is None:
            self._outgoing.run()
            return
        with Recorder(self.progress, uri) as recorder:
            self._outgoing.run()
        try:
            write_report(report, recorder)
        except FileError as error:
            self.report_error = error

    def _connect(self, address: Address, tls: TlsCredentials | None) -> Channel:
        channel = connect(address, tls=tls)
        self.way_back = channel.two_way
        return channel

    def _check_free(self) -> None:
        if self._machine.status in (RunState.INMIGRATE, RunState.POSTMIGRATE):
            raise MigrationError(f"there is no guest to migrate: the machine is in state {self._machine.status}")
        if self._machine.status.ended:
            raise MigrationError("the guest has ended")

    # TLS

    def add_credentials(
        self, name: str, directory: Path, *, endpoint: str = "client", verify_peer: bool = True
    ) -> None:
        """Let parameter `tls-creds` name certificates; see `TlsCredentials`.

        Raises ConfigError if the name is taken, and ChannelError if a file is missing or is not what its name says.
        """
        if name in self._named_credentials:
            raise ConfigError(f"there is an object '{name}' already")
        credentials = TlsCredentials(directory, verify_peer, endpoint=endpoint)
        if endpoint == "server":
            credentials.server_context()
        else:
            credentials.client_context()
        self._named_credentials[name] = credentials

    def remove_credentials(self, name: str) -> None:
        """Forget them; what uses them goes on. Raises ConfigError if there are none of that name."""
        if self._named_credentials.pop(name, None) is None:
            raise ConfigError(f"object '{name}' not found")

    def _credentials(self) -> TlsCredentials | None:
        """The TLS credentials that the parameters name, if any."""
        if not (name := self.settings.text("tls-creds")):
            return None
        credentials = self._named_credentials.get(name) or TlsCredentials(Path(name))
        return replace(credentials, hostname=self.settings.text("tls-hostname"))

    # Incoming

    def listen(self, uri: str) -> str:
        """Wait for a guest at `uri`, in the background; where exactly, as a URI, is returned.

        The machine is in state `inmigrate` until one has come; if that fails, `listen` may be called again. A snapshot
        file, or any file of QEMU's with its RAM at fixed places, is `file:PATH` without an offset.
        """
        address = parse_uri(uri)
        if self.progress.is_under_way:
            raise MigrationError("There's a migration process in progress")
        if not self.incoming.begin():
            raise MigrationError("The incoming migration has already been started")
        try:
            with contextlib.ExitStack() as undo:
                self._listener = listener = listen(address, tls=self._credentials(), on_dropped=self.on_dropped)
                undo.callback(listener.close)
                if self._machine.status is not RunState.INMIGRATE:
                    self._machine.transfer.expect()
                undo.pop_all()
        except BaseException as error:
            self.incoming.change(Status.FAILED, str(error))
            raise
        self.address = str(listener.address)
        self._start("incoming", lambda: self._receive(listener))
        return str(listener.address)

    def wait_for_guest(self, timeout: float | None = None) -> None:
        """Block until the expected guest is here, or for `timeout` seconds; MigrationError if it did not come."""
        if not self.incoming.wait_to_end(timeout):
            raise MigrationError("no guest has come yet")
        if self.incoming.status is not Status.COMPLETED:
            raise MigrationError(self.incoming.error or "no guest has come")

    def close(self) -> None:
        """End everything that is under way; the guest stays where it is. Harmless when repeated."""
        self.on_refused = lambda _reason: None
        self.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._arriving is not None:
            self._arriving.shutdown()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def _receive(self, listener: Listener) -> None:
        try:
            with contextlib.closing(listener):
                if _is_whole_file(listener.address):
                    self.address = None
                    self.incoming.change(Status.ACTIVE)
                    self._load(Path(listener.address.path))
                else:
                    self._take(listener)
        except Exception as error:  # whatever it is, who waits must hear of it
            reason = str(error) or repr(error)
            self.address = None
            self.incoming.change(Status.FAILED, reason)
            self.on_refused(reason)
        else:
            self.incoming.change(Status.COMPLETED)

    def _take(self, listener: Listener) -> None:
        """Receive the guest of whoever connects first."""
        rehearse_loading(self._machine.transfer.subject().registry)
        channel = listener.accept()
        self._arriving = received = Incoming(self._machine.transfer, channel, listener if channel.two_way else None)
        self.address = None
        self.incoming.change(Status.ACTIVE)
        with contextlib.closing(received):
            received.run()
            self._machine.serial.port.feed_first(received.typed)
            self._machine.transfer.arrive(running=received.was_running and self.autostart)
            received.confirm()

    def _load(self, path: Path) -> None:
        """Take the guest out of a file, which may have its RAM in any of the layouts."""
        from emulator.migration import files, savevm

        subject = self._machine.transfer.subject()
        with files.mapped(path) as (data, fd), savevm.load(subject, data, fd) as loaded:
            was_running = self._machine.transfer.adopt(loaded)
        self._machine.transfer.arrive(running=was_running and self.autostart)

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()  # before anybody can join it
        self._threads.append(thread)
        return thread

    # Events

    def _changed(self, status: Status) -> None:
        if self.settings.capabilities["events"]:
            self._machine.post(lambda: self._machine.events.emit("MIGRATION", {"status": str(status)}))

    def _passed(self, count: int) -> None:
        if self.settings.capabilities["events"]:
            self._machine.post(lambda: self._machine.events.emit("MIGRATION_PASS", {"pass": count}))


def _is_whole_file(address: Address) -> bool:
    return address.kind == "file" and not address.offset and Path(address.path).is_file()


class _Guest:
    """The machine as its outgoing migration sees it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = WIRE_NAME
        self.blocks: Sequence[RamBlock] = tuple(machine.board.ram_blocks)
        self.registry = machine.transfer.registry
        self.uuid = machine.config.uuid
        self.thaw, self.give_up = machine.transfer.thaw, machine.transfer.give_up
        self.throttle = machine.transfer.throttle
        self.take_input = machine.serial.port.take
        self._machine = machine

    def freeze(self, *, for_qemu: bool = False) -> Subject:
        """See `outgoing.Guest`; also while the guest waits for a terminal that does not read."""
        self._machine.on_stopping(True)
        try:
            return self._machine.transfer.freeze(for_qemu=for_qemu)
        finally:
            self._machine.on_stopping(False)
