"""The source of a live migration: RAM in passes while the guest runs, then the rest while it stands still.

Who owns the guest is decided in one place, `_hand_over`: until the destination has said that it has loaded everything,
whatever goes wrong, the guest goes on here; from then on it never does. Where the transport has no way back (`exec:`,
`file:`), that everything has been written, and taken without an error, has to do.

The stream is QEMU's, and a QEMU at the other end is served as one QEMU serves another; see `returnpath.py` for what
two mini-qemus add.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import secrets
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
from emulator.migration.errors import MigrationError, TruncatedError
from emulator.migration.format import (
    Command,
    Configuration,
    Mark,
    Order,
    put_description,
    put_end_mark,
    put_header,
    put_order,
)
from emulator.migration.ramsend import RamSender
from emulator.migration.registry import Registry
from emulator.migration.returnpath import (
    ABANDONED,
    ANSWER,
    CAUGHT_UP,
    GO,
    HEARD,
    HELLO,
    LOADED,
    REDELIVERY,
    Message,
    Said,
    get_message,
    ping,
    put_typed,
    with_token,
)
from emulator.migration.savevm import Subject, end_ram, put_last_ram_heading, put_ram_heading
from emulator.migration.settings import Settings
from emulator.migration.status import Progress, Status
from emulator.migration.wire import Reader, Writer

SWITCHOVER_SECONDS = 15.0
"""How long, beyond the downtime limit, the guest may stand still before the migration is given up."""
REDELIVERY_SECONDS = 30.0
"""How long the source tries to reach a destination that has everything and may not have heard that it may go on."""
WORD_SECONDS = 10.0
"""How long it waits for an answer before it tries a new connection."""
RETRY_SECONDS = 0.1
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
        self._channel: Channel | None = None
        self._cancelled = threading.Event()
        self._heard = bytearray()
        self._token = secrets.randbits(32)
        self._peer_waits = False
        """Whether the destination starts the guest only when it is told to: a mini-qemu does."""
        self._reason = ""
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
            self._migrate()
        except Exception as error:  # whatever it is, the guest must not stay frozen
            failure = str(error) or repr(error)
            self._take_back()
        self._clean_up()  # before anybody hears that it has ended, and begins another
        if failure is None:
            self._progress.change(Status.COMPLETED)
        elif not self._progress.change(Status.CANCELLED):
            self._progress.change(Status.FAILED, self._reason or failure)

    def _take_back(self) -> None:
        """Let the guest go on here, unless it is not ours any more."""
        if self._handed_over:
            return
        with contextlib.suppress(EmulatorError):  # nothing goes on in a machine that has been closed
            self._guest.thaw()
        self._say_abandoned()
        self._hear_last_words()

    def _clean_up(self) -> None:
        self._guest.throttle(0)
        if self._channel is not None:
            with contextlib.suppress(EmulatorError, OSError):
                self._channel.close()

    def cancel(self) -> None:
        """Give up, from any thread, unless the guest belongs to the other side already; returns at once."""
        with self._deciding:
            if self._handed_over or not self._progress.change(Status.CANCELLING):
                return
            self._cancelled.set()
        if self._channel is not None:
            self._channel.shutdown()

    def go_on(self) -> bool:
        """Leave `pre-switchover`; False if the migration does not wait there."""
        return self._progress.change(Status.DEVICE)

    def _migrate(self) -> None:
        self._channel = channel = self._connect()
        if self._cancelled.is_set():
            raise MigrationError("cancelled")
        sender = RamSender(
            channel, self._figures, limit=lambda: self._settings.number("max-bandwidth"), rest=self._cancelled.wait
        )
        sender.write(self._setup())  # which the destination reads meanwhile
        log = open_dirty_log(self._guest.blocks)
        self._figures.dirty_log = log.name
        try:
            if channel.two_way:
                self._meet()
            channel.prepare()
            rehearse_saving(self._guest.registry)
            self._figures.setup_time = self._progress.elapsed()
            self._advance(Status.ACTIVE)
            self._send_passes(sender, log)
            if channel.two_way:
                self._let_catch_up(sender)
            subject = self._freeze()
            seconds = SWITCHOVER_SECONDS + self._settings.number("downtime-limit") / 1000
            with channel.within(seconds, functools.partial(self._lose_patience, seconds)):
                self._send_rest(sender, log, subject)
                self._hand_over()
        finally:
            log.close()

    def _advance(self, status: Status) -> None:
        if not self._progress.change(status):
            raise MigrationError("cancelled")

    # What is sent

    def _setup(self) -> bytes:
        """Everything before the first page."""
        assert self._channel is not None
        writer = Writer()
        configuration = Configuration.of(self._guest.machine)
        if self._settings.capabilities["validate-uuid"]:
            configuration.uuid = self._guest.uuid
        put_header(writer, configuration)
        if self._channel.two_way:
            for order in (Order(Command.OPEN_RETURN_PATH), ping(HELLO), ping(self._token)):
                put_order(writer, order)
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
                sender.use_deltas(self._settings.number("xbzrle-cache-size"))
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

    def _freeze(self) -> Subject:
        """Stop the guest for the switchover, if need be until that may go on."""
        assert self._channel is not None
        self._frozen_at = time.monotonic()
        subject = self._guest.freeze(for_qemu=self._channel.two_way and not self._peer_waits)
        if self._settings.capabilities["pause-before-switchover"]:
            self._advance(Status.PRE_SWITCHOVER)
            self._progress.wait_while(Status.PRE_SWITCHOVER)
            if self._progress.status is not Status.DEVICE:
                raise MigrationError("cancelled")
        return subject

    def _send_rest(self, sender: RamSender, log: DirtyLog, subject: Subject) -> None:
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
        if not self._peer_waits:  # a mini-qemu does without
            writer = Writer()
            put_description(writer, put_devices(subject.registry, Writer()))
            sender.write(writer.data)

    def _lose_patience(self, seconds: float) -> None:
        assert self._channel is not None
        with self._deciding:
            if self._handed_over:
                return
            self._reason = f"the destination has not taken the guest within {seconds:.0f} s"
            self._cancelled.set()
        self._channel.shutdown()

    # Who owns the guest

    def _hand_over(self) -> None:
        assert self._channel is not None
        if self._channel.two_way:
            self._wait_for(Said(Message.SHUT, LOADED))
        else:
            self._channel.close()
        with self._deciding:
            # A QEMU that has loaded everything runs the guest already: it is too late to take it back.
            if self._cancelled.is_set() and (self._peer_waits or not self._channel.two_way):
                raise MigrationError("cancelled")
            self._handed_over = True
        # The destination has everything: from here on the guest is not ours, whatever happens.
        try:
            if self._peer_waits:
                self._say_go()
        finally:
            self._figures.downtime = time.monotonic() - self._frozen_at
            self._progress.stop_clock()
            with contextlib.suppress(EmulatorError):  # nothing runs in a machine that has been closed
                self._guest.give_up()

    def _let_catch_up(self, sender: RamSender) -> None:
        """Wait until the destination has read everything so far: otherwise the guest would stand still meanwhile."""
        sender.write(_ping(CAUGHT_UP))
        self._wait_for(Said(Message.PONG, CAUGHT_UP))

    def _meet(self) -> None:
        """Wait until the destination has read the head of the stream, and learn whether it is a mini-qemu."""
        while (said := self._hear_of_progress()) != Said(Message.PONG, self._token):
            self._peer_waits = self._peer_waits or said == Said(Message.PONG, ANSWER)

    def _wait_for(self, word: Said) -> None:
        """Wait until the destination has said this, and not that it has given up."""
        while self._hear_of_progress() != word:
            pass

    def _hear_of_progress(self) -> Said:
        """The destination's next word, which may not be that it has given up."""
        said = self._hear()
        if said.message is Message.REASON:
            self._reason = f"the destination refused: {said.text}"
        elif said.message is Message.SHUT and said.value != LOADED:
            raise MigrationError("the destination could not load the stream")
        return said

    def _hear(self) -> Said:
        """The destination's next word."""
        assert self._channel is not None
        while True:
            reader = Reader(bytes(self._heard))
            try:
                said = get_message(reader)
            except TruncatedError:
                piece = bytearray(4096)
                count = self._channel.read_into(memoryview(piece))
                if not count:
                    raise MigrationError("the destination has closed the connection") from None
                self._heard += piece[:count]
            else:
                del self._heard[: reader.offset]
                return said

    def _say_go(self) -> None:
        """Tell the destination that the guest is its own, again and again until it is certain to have heard it."""
        assert self._channel is not None
        until = time.monotonic() + REDELIVERY_SECONDS
        typed = put_typed(self._guest.take_input())
        word = _ping(GO)
        while True:
            try:
                with self._channel.within(min(WORD_SECONDS, until - time.monotonic())):
                    self._channel.write(word + typed)
                    while self._hear() != Said(Message.PONG, GO):
                        pass
                    with contextlib.suppress(EmulatorError, OSError):
                        self._channel.write(HEARD)
                return
            except (EmulatorError, OSError) as error:
                if not self._can_return or time.monotonic() > until - RETRY_SECONDS:
                    raise MigrationError(
                        "the destination has the whole guest, but the connection broke before it could be told to go "
                        f"on, and it cannot be reached: {error}"
                    ) from error
            self._connect_again()
            word = with_token(REDELIVERY, self._token)

    def _say_abandoned(self) -> None:
        """Spare a destination that may have everything the wait for a word that will not come; best effort."""
        if self._peer_waits and self._may_be_loaded and self._can_return:
            with contextlib.suppress(EmulatorError, OSError), contextlib.closing(self._connect()) as channel:
                channel.write(with_token(ABANDONED, self._token))

    def _hear_last_words(self) -> None:
        """Learn why the destination has closed the connection, if a write to it failed before that could be read."""
        if self._channel is not None and self._channel.two_way:
            self._channel.shutdown()  # so that nothing is waited for that has not come yet
            with contextlib.suppress(EmulatorError, OSError):
                while True:
                    self._hear_of_progress()

    def _connect_again(self) -> None:
        assert self._channel is not None
        with contextlib.suppress(EmulatorError, OSError):
            self._channel.close()
        time.sleep(RETRY_SECONDS)
        self._heard.clear()
        with contextlib.suppress(EmulatorError, OSError):
            self._channel = self._connect()


def _ping(value: int) -> bytes:
    writer = Writer()
    put_order(writer, ping(value))
    return bytes(writer.data)
