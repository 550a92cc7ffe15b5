"""The other end of an outgoing migration: what the source says to the destination besides the guest, and hears from it.

Who is there, whether it keeps up, whether it has loaded everything and knows that the guest is its own. `returnpath.py`
has the words; which of them is said when is the business of `outgoing.py`.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable

from emulator.core.errors import EmulatorError
from emulator.migration.channel import Channel
from emulator.migration.errors import MigrationError, TruncatedError
from emulator.migration.format import Command, Order, put_order
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
from emulator.migration.wire import Reader, Writer

REDELIVERY_SECONDS = 30.0
"""How long the source tries to reach a destination that has everything and may not have heard that it may go on."""
WORD_SECONDS = 10.0
"""How long it waits for an answer before it tries a new connection."""
RETRY_SECONDS = 0.1


class Peer:
    """The destination behind a connection, which `connect()` opens; also again, where one `can_return` to it.

    Where the transport has no way back nothing is heard: it is a file or a command. Raises what `connect` raises. All
    that waits raises MigrationError if the destination gives up or closes the connection, ChannelError if that breaks,
    and FramingError for what is no message.
    """

    def __init__(self, connect: Callable[[], Channel], *, can_return: bool) -> None:
        self._connect = connect
        self._can_return = can_return
        self._token = secrets.randbits(32)
        self._heard = bytearray()
        self.starts_when_told = False
        """Whether it starts the guest only when it is told to: a mini-qemu does, as `meet` finds out."""
        self.reason = ""
        """Why it has refused the guest, or was dropped, if that is known."""
        self.channel = connect()

    @property
    def starts_by_itself(self) -> bool:
        """Whether it runs the guest as soon as it has loaded it, and nothing can be taken back: a QEMU does."""
        return self.channel.two_way and not self.starts_when_told

    def drop(self, reason: str = "") -> None:
        """Give the connection up, from any thread."""
        self.reason = self.reason or reason
        self.channel.shutdown()

    def close(self) -> None:
        """Close the connection; raises nothing."""
        with contextlib.suppress(EmulatorError, OSError):
            self.channel.close()

    # While the guest runs here

    def introduction(self) -> bytes:
        """What the stream has to say before RAM for `meet` to be answered."""
        return _orders(Order(Command.OPEN_RETURN_PATH), ping(HELLO), ping(self._token)) if self.channel.two_way else b""

    def meet(self) -> None:
        """Wait until it has read the introduction, and learn who it is."""
        if self.channel.two_way:
            while (said := self._hear()) != Said(Message.PONG, self._token):
                self.starts_when_told = self.starts_when_told or said == Said(Message.PONG, ANSWER)
        self.channel.prepare()

    def let_catch_up(self) -> None:
        """Wait until it has read everything so far, or that is safe: the guest would stand still meanwhile."""
        if self.channel.two_way:
            self.channel.write(_orders(ping(CAUGHT_UP)))
            self._wait_for(Said(Message.PONG, CAUGHT_UP))
        else:
            self.channel.flush()

    # When it stands still

    def wait_until_loaded(self) -> None:
        """Wait until it has loaded everything; where there is no way back, until all is written and taken."""
        if self.channel.two_way:
            self._wait_for(Said(Message.SHUT, LOADED))
        else:
            self.channel.close()

    def hear_last_words(self) -> None:
        """Give the connection up, and learn why it was closed at the other end, if a write failed before that was read.

        Raises nothing. A command is asked to end, and nothing is left of a file: neither is to be taken for whole.
        """
        self.channel.shutdown()  # so that nothing is waited for that has not come yet
        if self.channel.two_way:
            with contextlib.suppress(EmulatorError, OSError):
                while True:
                    self._hear()

    # When it has everything

    def say_go(self, typed: bytes) -> None:
        """Tell it that the guest is its own, again and again until it is certain to have heard it.

        `typed` is what was typed at the guest and has not reached it.
        """
        until = time.monotonic() + REDELIVERY_SECONDS
        word, behind, is_cut = _orders(ping(GO)), put_typed(typed), False
        while True:
            try:
                if is_cut:
                    self._connect_again()
                with self.channel.within(min(WORD_SECONDS, until - time.monotonic())):
                    self.channel.write(word + behind)
                    while self._next() != Said(Message.PONG, GO):
                        pass
                    with contextlib.suppress(EmulatorError, OSError):
                        self.channel.write(HEARD)
                return
            except (EmulatorError, OSError) as error:
                if not self._can_return or time.monotonic() > until - RETRY_SECONDS:
                    raise MigrationError(
                        "the destination has the whole guest, but the connection broke before it could be told to go "
                        f"on, and it cannot be reached: {error}"
                    ) from error
            word, is_cut = with_token(REDELIVERY, self._token), True

    def say_abandoned(self) -> None:
        """Spare it, if it may have everything, the wait for a word that will not come; best effort, raises nothing."""
        if self.starts_when_told and self._can_return:
            with contextlib.suppress(EmulatorError, OSError), contextlib.closing(self._connect()) as channel:
                channel.write(with_token(ABANDONED, self._token))

    def _connect_again(self) -> None:
        self.close()
        time.sleep(RETRY_SECONDS)
        self._heard.clear()
        self.channel = self._connect()

    # Its words

    def _wait_for(self, word: Said) -> None:
        """Wait until it has said this, and not that it has given up."""
        while self._hear() != word:
            pass

    def _hear(self) -> Said:
        """Its next word, which may not be that it has given up."""
        said = self._next()
        if said.message is Message.REASON:
            self.reason = f"the destination refused: {said.text}"
        elif said.message is Message.SHUT and said.value != LOADED:
            raise MigrationError("the destination could not load the stream")
        return said

    def _next(self) -> Said:
        """Its next word, whatever that is."""
        while True:
            reader = Reader(bytes(self._heard))
            try:
                said = get_message(reader)
            except TruncatedError:
                piece = bytearray(4096)
                count = self.channel.read_into(memoryview(piece))
                if not count:
                    raise MigrationError("the destination has closed the connection") from None
                self._heard += piece[:count]
            else:
                del self._heard[: reader.offset]
                return said


def _orders(*orders: Order) -> bytes:
    writer = Writer()
    for order in orders:
        put_order(writer, order)
    return bytes(writer.data)
