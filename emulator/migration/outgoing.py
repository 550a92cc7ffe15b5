"""The source of a live migration: RAM in passes while the guest runs, then the rest while it stands still.

Who owns the guest is decided in one place, `_hand_over`: until the destination has said that it has loaded everything,
whatever goes wrong, the guest goes on here; from then on it never does. Where the transport has no way back (`exec:`,
`file:`), that everything has been written, and taken without an error, has to do.

The stream is QEMU's, and a QEMU at the other end is served as one QEMU serves another; see `returnpath.py` for what
two mini-qemus add, and `peer.py` for the conversation.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from emulator.core.errors import EmulatorError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration import blocklist
from emulator.migration.channel import Channel
from emulator.migration.devices import device_sections, put_devices, rehearse_saving
from emulator.migration.dirty import DirtyLog, open_dirty_log
from emulator.migration.errors import MigrationError
from emulator.migration.format import Configuration, Mark, put_description, put_end_mark, put_header
from emulator.migration.peer import Peer
from emulator.migration.ramsend import RamSender
from emulator.migration.registry import Registry
from emulator.migration.savevm import Subject, end_ram, put_last_ram_heading, put_ram_heading
from emulator.migration.settings import Settings
from emulator.migration.status import Progress, Status
from emulator.migration.wire import Writer

SWITCHOVER_SECONDS = 15.0
"""How long, beyond the downtime limit, the guest may stand still before the migration is given up."""
LOOK_SECONDS = 0.2
"""Between two looks at a destination while the guest stands still and a user has to decide."""
FEW_BYTES = 64 * PAGE_SIZE
"""For more than that another pass is made if the last one has halved what was left, though the limit would be kept."""
PIECE_BYTES = 1024
"""Of the devices' sections: for each piece the destination has to be woken, perhaps on the same processor."""
PASSES_BEFORE_THROTTLE = 2
"""Passes in a row in which the guest writes more than half of what is sent, before auto-converge slows it down."""


class Guest(Protocol):
    """What a migration needs of the machine; every method may be called from any thread."""

    machine: str
    """The machine type in the stream's configuration."""
    blocks: Sequence[RamBlock]
    registry: Registry
    """Its sections; what state they are in may be looked at only when it is frozen."""
    uuid: bytes
    """Sent if the destination is to check it; all zeros if the machine has none."""

    def freeze(self, *, for_qemu: bool = False) -> Subject:
        """Stop the guest for the switchover; what it is as streams see it, those for a QEMU or others."""

    def thaw(self) -> None:
        """The migration has failed: let the guest go on, if it did before `freeze`. Harmless without."""

    def give_up(self) -> None:
        """The guest belongs to the other side."""

    def throttle(self, percent: int) -> None:
        """Take so much of the vCPU's time away."""

    def take_input(self) -> bytes:
        """What was typed at the guest and has not reached it, to be typed again on the other side."""


class Outgoing:
    """One migration; `run` is the whole of it, on a thread of its own, and reports through `progress`.

    `connect()` opens the channel; where it `can_return`, also again, to say once more what may have been lost.
    """

    def __init__(
        self,
        guest: Guest,
        settings: Settings,
        progress: Progress,
        connect: Callable[[], Channel],
        *,
        can_return: bool = False,
    ) -> None:
        self._guest = guest
        self._settings = settings
        self._progress = progress
        self._figures = progress.figures
        self._connect = connect
        self._can_return = can_return
        self._peer: Peer | None = None
        """The destination, from the moment that there is a connection to it."""
        self._cancelled = threading.Event()
        self._frozen_at = 0.0
        self._may_be_loaded = False
        """Whether everything that the destination needs has been sent, or may have been."""
        self._handed_over = False
        self._deciding = threading.Lock()
        """Held while it is decided whether the guest is given up or the migration cancelled: never both."""

    def run(self) -> None:
        """Carry out the migration, and leave the guest on exactly one side."""
        failure = None
        try:
            self._peer = Peer(self._connect, can_return=self._can_return)
            self._migrate(self._peer)
        except Exception as error:  # whatever it is, the guest must not stay frozen
            failure = str(error) or repr(error)
            self._take_back()
        self._clean_up()  # before anybody hears that it has ended, and begins another
        if failure is None:
            self._progress.change(Status.COMPLETED)
        elif not self._progress.change(Status.CANCELLED):
            self._progress.change(Status.FAILED, (self._peer and self._peer.reason) or failure)

    def _clean_up(self) -> None:
        self._guest.throttle(0)
        if self._peer is not None:
            self._peer.close()

    def cancel(self) -> None:
        """Give up, from any thread, unless the guest belongs to the other side already; returns at once."""
        with self._deciding:
            if self._handed_over or not self._progress.change(Status.CANCELLING):
                return
            self._cancelled.set()
        if self._peer is not None:
            self._peer.drop()

    def go_on(self) -> bool:
        """Leave `pre-switchover`; False if the migration does not wait there."""
        return self._progress.change(Status.DEVICE)

    def _migrate(self, peer: Peer) -> None:
        if self._cancelled.is_set():
            raise MigrationError("cancelled")
        sender = RamSender(
            peer.channel, self._figures, limit=lambda: self._settings.number("max-bandwidth"), rest=self._cancelled.wait
        )
        sender.write(self._setup(peer))  # which the destination reads meanwhile
        log = open_dirty_log(self._guest.blocks)
        self._figures.dirty_log = log.name
        try:
            peer.meet()
            rehearse_saving(self._guest.registry)
            self._figures.setup_time = self._progress.elapsed()
            self._advance(Status.ACTIVE)
            self._send_passes(sender, log)
            peer.let_catch_up()
            subject = self._freeze(peer)
            seconds = SWITCHOVER_SECONDS + self._settings.number("downtime-limit") / 1000
            with peer.channel.within(seconds, functools.partial(self._lose_patience, peer, seconds)):
                self._send_rest(peer, sender, log, subject)
                self._hand_over(peer)
        finally:
            log.close()

    def _advance(self, status: Status) -> None:
        if not self._progress.change(status):
            raise MigrationError("cancelled")

    # What is sent

    def _setup(self, peer: Peer) -> bytes:
        """Everything before the first page."""
        writer = Writer()
        configuration = Configuration.of(self._guest.machine)
        if self._settings.capabilities["validate-uuid"]:
            configuration.uuid = self._guest.uuid
        put_header(writer, configuration)
        writer.write(peer.introduction())
        put_ram_heading(writer, Mark.START)
        blocklist.put_block_list(writer, blocklist.in_sending_order(self._guest.blocks))
        end_ram(writer)
        return bytes(writer.data)

    def _send_passes(self, sender: RamSender, log: DirtyLog) -> None:
        """Send RAM until what is left can be sent within the downtime limit, and does not soon get less."""
        figures, blocks = self._figures, blocklist.in_sending_order(self._guest.blocks)
        figures.total = figures.remaining = sum(block.size for block in blocks)
        self._pages = {block.name: np.ones(block.size // PAGE_SIZE, np.bool_) for block in blocks}
        behind, uses_deltas = 0, self._settings.capabilities["xbzrle"]
        for number in itertools.count():
            begun, sent, before = time.monotonic(), figures.transferred, figures.remaining
            this = figures.begin_pass(self._progress.elapsed())
            writer = Writer()
            put_ram_heading(writer, Mark.PART)
            self._send_ram(sender, log, writer, first=number == 0)
            this.seconds, this.bytes_sent = time.monotonic() - begun, figures.transferred - sent
            figures.precopy = figures.transferred
            self._collect(log)
            this.dirtied = figures.remaining // PAGE_SIZE
            self._progress.on_pass(figures.dirty_sync_count)
            figures.bandwidth = this.bytes_sent / max(this.seconds, 1e-6)
            figures.dirty_pages_rate = int(this.dirtied / max(this.seconds, 1e-6))
            # A delta is far shorter than its page: with XBZRLE, pages dealt with are what time is taken for.
            moved = this.pages * PAGE_SIZE if number and uses_deltas else this.bytes_sent
            figures.expected_downtime = figures.remaining / max(moved / max(this.seconds, 1e-6), 1.0)
            if uses_deltas:
                room_for_all = 1 << figures.total.bit_length()  # more would only be asked of the system
                sender.use_deltas(min(self._settings.number("xbzrle-cache-size"), room_for_all))
            if self._cancelled.is_set():
                raise MigrationError("cancelled")
            gets_less = figures.remaining > FEW_BYTES and 2 * figures.remaining <= before
            if figures.expected_downtime * 1000 <= self._settings.number("downtime-limit") and not gets_less:
                return
            behind = behind + 1 if 2 * figures.remaining > moved else 0
            if behind >= PASSES_BEFORE_THROTTLE and self._settings.capabilities["auto-converge"]:
                behind = 0
                self._throttle()

    def _send_ram(self, sender: RamSender, log: DirtyLog, heading: Writer, *, first: bool = False) -> None:
        """Send the pages that are noted, as a part of section `ram` that begins with `heading`."""
        sender.write(heading.data)
        for block in blocklist.in_sending_order(self._guest.blocks):
            pages = self._pages[block.name]
            sender.send(block, log.rows(block), pages, log.data_pages(block) if first else None)
            self._pages[block.name] = np.zeros_like(pages)
        writer = Writer()
        end_ram(writer)
        sender.write(writer.data)

    def _collect(self, log: DirtyLog) -> None:
        """Note which pages have been written since they were last looked at, beside those that are not sent yet."""
        for block in self._guest.blocks:
            self._pages[block.name] = self._pages[block.name] | log.collect(block)
        self._figures.dirty_sync_count += 1
        self._figures.remaining = PAGE_SIZE * sum(int(np.count_nonzero(pages)) for pages in self._pages.values())

    def _throttle(self) -> None:
        number, figures = self._settings.number, self._figures
        wanted = (
            figures.throttle + number("cpu-throttle-increment") if figures.throttle else number("cpu-throttle-initial")
        )
        figures.throttle = min(wanted, number("max-cpu-throttle"))
        self._guest.throttle(figures.throttle)

    def _freeze(self, peer: Peer) -> Subject:
        """Stop the guest for the switchover, if need be until that may go on."""
        self._frozen_at = time.monotonic()
        subject = self._guest.freeze(for_qemu=peer.starts_by_itself)
        if self._settings.capabilities["pause-before-switchover"]:
            self._advance(Status.PRE_SWITCHOVER)
            while not self._progress.wait_while(Status.PRE_SWITCHOVER, LOOK_SECONDS):
                if peer.channel.has_gone:
                    raise MigrationError("the destination has closed the connection")
            if self._progress.status is not Status.DEVICE:
                raise MigrationError("cancelled")
        return subject

    def _send_rest(self, peer: Peer, sender: RamSender, log: DirtyLog, subject: Subject) -> None:
        """Send what is left of the frozen guest."""
        self._collect(log)
        sender.unlimited = True
        writer = Writer()
        put_last_ram_heading(writer, subject)
        self._send_ram(sender, log, writer)
        writer = Writer()
        for section in device_sections(subject.registry):
            writer.write(section)
            if len(writer.data) >= PIECE_BYTES:  # which the destination loads while the next sections are saved
                sender.write(writer.data)
                writer = Writer()
        put_end_mark(writer)
        self._may_be_loaded = True
        sender.write(writer.data)
        if not peer.starts_when_told:  # a mini-qemu does without
            writer = Writer()
            put_description(writer, put_devices(subject.registry, Writer()))
            sender.write(writer.data)

    def _lose_patience(self, peer: Peer, seconds: float) -> None:
        with self._deciding:
            if self._handed_over:
                return
            self._cancelled.set()
            peer.drop(f"the destination has not taken the guest within {seconds:.0f} s")

    # Who owns the guest

    def _hand_over(self, peer: Peer) -> None:
        peer.wait_until_loaded()
        with self._deciding:
            if self._cancelled.is_set() and not peer.starts_by_itself:  # otherwise it is too late to take it back
                raise MigrationError("cancelled")
            self._handed_over = True
        # The destination has everything: from here on the guest is not ours, whatever happens.
        try:
            if peer.starts_when_told:
                peer.say_go(self._guest.take_input())
        finally:
            self._figures.downtime = time.monotonic() - self._frozen_at
            self._progress.stop_clock()
            with contextlib.suppress(EmulatorError):  # nothing runs in a machine that has been closed
                self._guest.give_up()

    def _take_back(self) -> None:
        """Let the guest go on here, unless it is not ours any more."""
        if self._handed_over:
            return
        with contextlib.suppress(EmulatorError):  # nothing goes on in a machine that has been closed
            self._guest.thaw()
        if self._peer is not None:
            if self._may_be_loaded:
                self._peer.say_abandoned()
            self._peer.hear_last_words()
