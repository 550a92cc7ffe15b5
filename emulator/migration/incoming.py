"""The destination of a live migration: a stream is read as it comes, and adopted when all of it has proven good.

RAM is collected in memory beside the machine's, as when a file is loaded; so a stream that breaks off or lies leaves
nothing behind. See `returnpath.py` for what is said on the way back, and for when the guest goes on here.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from emulator.core.errors import ChannelError, EmulatorError
from emulator.core.memory import StagedMemory, close_later
from emulator.migration import blocklist
from emulator.migration.channel import Channel, Listener
from emulator.migration.devices import DeviceLoader
from emulator.migration.errors import FramingError, MigrationError, StreamError, TruncatedError, VersionError
from emulator.migration.format import (
    DESCRIPTION_LIMIT,
    Command,
    Configuration,
    Heading,
    Mark,
    Order,
    SectionReader,
    get_footer,
    get_header,
)
from emulator.migration.ram import RamCollector
from emulator.migration.returnpath import (
    ABANDONED,
    ANSWER,
    GO,
    HEARD,
    HELLO,
    LOADED,
    REDELIVERY,
    REFUSED,
    Message,
    Said,
    get_return,
    get_typed,
    message,
    pinged,
    with_token,
)
from emulator.migration.savevm import Loaded, Subject, check_configuration
from emulator.migration.vmstate import SUBSECTION
from emulator.migration.wire import Reader

T = TypeVar("T")

BUFFER_BYTES = 8 << 20
REDELIVERY_SECONDS = 30.0
"""How long the destination waits for the source to come back after a connection broke at the last moment."""
WORD_SECONDS = 5.0
"""How long whoever connects then may take to say who it is, and a source that has given up the guest for the rest."""


class Host(Protocol):
    """What an incoming migration needs of the machine; every method may be called from any thread."""

    def subject(self) -> Subject:
        """The machine, which waits, as streams see it."""

    def adopt(self, loaded: Loaded) -> bool:
        """Become the loaded machine, and go on waiting; whether its guest ran where it comes from."""


class BrokenOffError(MigrationError):
    """The stream ended before the guest was whole."""


class _Inbox:
    """What has arrived and is not understood yet, `offset` bytes into the stream."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._data = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._data)
        self._begin = self._end = 0
        self.offset = 0
        self._finished = False

    def reader(self) -> Reader:
        """Reads what has arrived."""
        return Reader(self._view[self._begin : self._end], base=self.offset)

    def consume(self, offset: int) -> None:
        """Forget everything before byte `offset` of the stream."""
        self._begin += offset - self.offset
        self.offset = offset

    def more(self, error: StreamError) -> None:
        """Wait for more to arrive; raises `error`, the reason to want more, or a BrokenOffError if none can come."""
        if self._begin:
            left = self._end - self._begin
            self._view[:left] = bytes(self._view[self._begin : self._end])
            self._begin, self._end = 0, left
        if self._end == len(self._data):
            raise error
        if not self._finished:
            count = self._channel.read_into(self._view[self._end :])
            self._finished = not count
            self._end += count
        if self._finished:
            raise BrokenOffError(f"the stream ended too early: {error}") if isinstance(error, TruncatedError) else error

    def parse(self, function: Callable[[Reader], T]) -> T:
        """What `function` reads, however much has to arrive for it; it may be called several times."""
        while True:
            reader = self.reader()
            try:
                result = function(reader)
            except TruncatedError as error:
                self.more(error)
            except StreamError as error:
                if not reader.ran_dry:
                    raise
                self.more(error)  # what was not there may only be on its way
            else:
                self.consume(reader.offset)
                return result


class Incoming:
    """One incoming migration over `channel`, which it owns; `listener` is where a source can come back to."""

    def __init__(self, host: Host, channel: Channel, listener: Listener | None) -> None:
        self._host = host
        self._channel = channel
        self._listener = listener
        self._inbox = _Inbox(channel)
        self._sections = SectionReader()
        self._answers = False
        """Whether the source has opened the way back."""
        self._token: int | None = None
        self._greeted = False
        self._given = False
        """Whether the source has said that the guest is this side's."""
        self._staged: dict[str, StagedMemory] = {}
        self.was_running = False
        """Whether the guest ran where it comes from; once `run` has returned."""
        self.typed = b""
        """What was typed there and had not reached the guest; once `run` has returned."""

    def run(self) -> None:
        """Load the guest and wait until it may go on here; raises EmulatorError or OSError if it may not."""
        try:
            loaded = self._load()
            if not self._channel.two_way:
                self._channel.close()  # a command that has failed may have left something out
            self.was_running = self._host.adopt(loaded)
        except BaseException as error:
            with contextlib.suppress(EmulatorError, OSError):
                if self._greeted:
                    self._say(Said(Message.REASON, text=str(error)))
                self._say(Said(Message.SHUT, REFUSED))
            raise
        self._say(Said(Message.SHUT, LOADED))
        if self._token is not None:
            self.typed = self._wait_for_go(self._token)

    def confirm(self) -> None:
        """Tell a source that waits for it that the guest has gone on here, until it is certain to have heard it.

        Raises nothing: the guest is here, whatever happens.
        """
        if self._token is None:
            return
        until = time.monotonic() + REDELIVERY_SECONDS
        with contextlib.suppress(EmulatorError, OSError):
            while not self._is_heard():
                self._wait_for_redelivery(self._token, until, MigrationError("the source has not answered"))

    def _is_heard(self) -> bool:
        """Say that the guest has gone on here; whether the source says that it knows."""
        with contextlib.suppress(EmulatorError, OSError), self._channel.within(WORD_SECONDS):
            self._say(Said(Message.PONG, GO))
            return self._inbox.parse(lambda reader: reader.read(len(HEARD))) == HEARD
        return False

    def shutdown(self) -> None:
        """End it, from any thread."""
        self._channel.shutdown()

    def close(self) -> None:
        """Close the channel, and free what the machine held before, when `run` and `confirm` have returned."""
        close_later(self._staged.values())
        self._channel.close()

    # The stream

    def _load(self) -> Loaded:
        inbox, subject = self._inbox, self._host.subject()
        configuration, end = inbox.parse(_get_whole_header), inbox.offset
        heading = self._next("the start of RAM", Mark.START)  # the source hears only then why it is refused
        check_configuration(configuration, subject, end=end)
        if configuration.capabilities:
            raise FramingError("RAM as page records", configuration.capabilities[0], offset=end)
        sizes = inbox.parse(lambda reader: self._block_list(reader, subject, heading))
        for name, size in sizes.items():
            self._staged[name] = StagedMemory(size)
        collector, devices = RamCollector(self._staged), DeviceLoader(subject.registry)
        while heading.mark != Mark.END:
            heading = self._next("a part of RAM", Mark.PART, Mark.END)
            self._read_pages(collector, heading)
        loaded = Loaded(self._staged)
        while section := inbox.parse(self._sections.next):
            inbox.parse(functools.partial(devices.read, heading=section))
        devices.check_complete(inbox.offset)
        loaded.states = devices.states()
        if self._token is None:
            inbox.parse(_skip_description)
        return loaded

    def _next(self, expected: str, *marks: Mark) -> Heading:
        """The heading of the next part of RAM, with one of these marks; commands before it are obeyed."""
        while True:
            begin = self._inbox.offset
            item = self._inbox.parse(self._sections.next_item)
            if isinstance(item, Order):
                self._obey(item)
            elif item is None or (item.name, item.instance_id) != (blocklist.SECTION, 0) or item.mark not in marks:
                raise FramingError(expected, "the end of the sections" if item is None else str(item), offset=begin)
            elif item.version_id != blocklist.VERSION:
                raise VersionError(f"version {blocklist.VERSION}", item.version_id, field=item.name, offset=begin)
            else:
                return item

    @staticmethod
    def _block_list(reader: Reader, subject: Subject, heading: Heading) -> dict[str, int]:
        begin = reader.offset
        sizes = blocklist.get_block_list(reader)
        blocklist.same_blocks(sizes, subject.blocks, offset=begin)
        blocklist.get_eos(reader)
        get_footer(reader, heading)
        return sizes

    def _read_pages(self, collector: RamCollector, heading: Heading) -> None:
        """Read a part's records run by run, as they arrive."""
        inbox = self._inbox
        while True:
            reader = inbox.reader()
            done = reader.offset
            try:
                for _ in collector.steps(reader):
                    done = reader.offset
            except TruncatedError as error:
                inbox.consume(done)
                inbox.more(error)
            else:
                inbox.consume(reader.offset)
                inbox.parse(lambda reader: get_footer(reader, heading))
                return

    # The way back

    def _obey(self, order: Order) -> None:
        if order.command is Command.OPEN_RETURN_PATH:
            self._answers = self._channel.two_way
        elif order.command is Command.PING:
            value = pinged(order)
            if self._greeted and self._token is None:
                self._token = value
            self._say(Said(Message.PONG, value))
            if value == HELLO and self._answers:
                self._greeted = True
                self._channel.prepare()
                self._say(Said(Message.PONG, ANSWER))

    def _say(self, said: Said) -> None:
        if self._answers:
            self._channel.write(message(said))

    def _wait_for_go(self, token: int) -> bytes:
        """Block until the source says that the guest is this side's, if need be over a new connection.

        Returns what was typed there.
        """
        try:
            order = self._inbox.parse(self._sections.next_item)
            if not isinstance(order, Order) or order.command is not Command.PING or pinged(order) != GO:
                raise MigrationError("the source has ended the migration in a way that is not known")
            self._given = True
            with self._channel.within(WORD_SECONDS):
                return self._inbox.parse(get_typed)
        except (StreamError, BrokenOffError, ChannelError) as error:
            try:
                return self._wait_for_redelivery(token, time.monotonic() + REDELIVERY_SECONDS, error)
            except (EmulatorError, OSError):
                if not self._given:
                    raise
                return b""  # better a guest without what was typed than none

    def _wait_for_redelivery(self, token: int, until: float, error: Exception) -> bytes:
        """Listen for the source, which comes back if it has given up the guest, and only then; what was typed there."""
        while self._listener is not None and (left := until - time.monotonic()) > 0:
            try:
                channel = self._listener.accept(timeout=left, spoken=True)
            except ChannelError:
                break  # nobody has come
            inbox, word = _Inbox(channel), b""
            with contextlib.suppress(EmulatorError, OSError), channel.within(WORD_SECONDS):
                word = inbox.parse(get_return)
                if word == with_token(REDELIVERY, token):
                    self._given = True
                    typed = inbox.parse(get_typed)
                    self._channel.close()
                    self._channel, self._inbox = channel, inbox
                    return typed
            channel.close()
            if word == with_token(ABANDONED, token):
                raise MigrationError("the source has kept the guest, as the connection broke")
        why = "the connection broke, and no source has come back to say that it had given up the guest"
        raise MigrationError(f"{why}: {error}") from error


def _get_whole_header(reader: Reader) -> Configuration:
    """Read the header, and make sure that no subsection of it is still on its way."""
    configuration = get_header(reader)
    if reader.peek() in (None, SUBSECTION):
        raise TruncatedError(1, 0, offset=reader.offset)
    return configuration


def _skip_description(reader: Reader) -> None:
    """Pass over the stream's description of itself, which nothing is made of."""
    begin = reader.offset
    if (mark := reader.u8()) != Mark.VMDESCRIPTION:
        raise FramingError("the stream's description", f"byte 0x{mark:02x}", offset=begin)
    if (length := reader.u32()) > DESCRIPTION_LIMIT:
        raise FramingError(f"a description of at most {DESCRIPTION_LIMIT} bytes", length, offset=begin)
    reader.skip(length)
