"""Byte streams to and from the other side of a migration: sockets, pipes and files.

All of them block. A stalled peer is for whoever uses them to judge: `shutdown` frees a thread that is blocked, at any
time and from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ChannelError
from emulator.core.patience import Patience
from emulator.migration.iovec import send_rows, write_rows, writev

Data = bytes | bytearray | memoryview

SEND_BUFFER = 4 << 20
"""Bytes on their way, or as many as the system allows: with fewer, both sides wait for each other in turn."""

_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, errno.EBADF)


class Channel:
    """One connected byte stream. One thread may write while another reads; `shutdown` may be called by any.

    Every method but `shutdown` raises ChannelError, one line that names the stream, for whatever goes wrong with it.
    """

    two_way = False
    """Whether what is written and what is read are two streams of the same peer; otherwise there is one direction."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The stream's URI, fit for a message."""
        self._given_up = False
        self._patience: Patience | None = None

    def write(self, data: Data) -> None:
        """Write all of it."""
        raise NotImplementedError

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        """Write all memory that the rows, (host address, length), stand for, in their order.

        It may change meanwhile: each byte goes out as it is at some moment before this returns.
        """
        raise NotImplementedError

    def read_into(self, view: memoryview) -> int:
        """Wait for at least one byte and put what is there into `view`, which is not empty; how many bytes that was.

        0 when the stream has ended: the peer closed it, or `shutdown` was called.
        """
        raise NotImplementedError

    @property
    def has_gone(self) -> bool:
        """Whether the peer is known to have closed its end."""
        return False

    def flush(self) -> None:
        """Bring to safety what was written so far, if `close` would: less is left for that to wait for."""

    def shutdown(self) -> None:
        """Give the stream up: whoever is blocked in it returns, with an error or with 0. Harmless when repeated."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Do now what the first `within` would take time for."""
        self._patience = self._patience or Patience()

    def within(self, seconds: float, on_late: Callable[[], None] | None = None) -> AbstractContextManager[None]:
        """Call `on_late`, or give the stream up, unless the `with` block ends within so many seconds.

        To be used by one thread at a time; one within another takes its place.
        """
        self.prepare()
        assert self._patience is not None
        return self._patience.limit(seconds, on_late or self.shutdown)

    def close(self) -> None:
        """Bring what was written to safety, and give back what the stream has taken; harmless when repeated.

        No other thread is in the stream any more. After `shutdown` nothing is brought to safety, nor raised.
        """
        try:
            self._close()
        finally:
            if self._patience is not None:
                self._patience.close()

    def _close(self) -> None:
        raise NotImplementedError

    def _failure(self, what: str, error: OSError) -> ChannelError:
        return ChannelError(f"cannot {what} {self.name}: {self._reason(error)}")

    def _reason(self, error: OSError) -> str:
        if self._given_up and error.errno in _GONE:
            return "it was shut down"
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            return "the peer has closed the connection"
        return error.strerror or str(error)


class SocketChannel(Channel):
    """A connected stream socket, which it owns: `tcp`, `unix`, and `fd` where that is one."""

    two_way = True

    def __init__(self, connection: socket.socket, name: str) -> None:
        super().__init__(name)
        connection.settimeout(None)
        if connection.family == socket.AF_UNIX:  # elsewhere the system finds out by itself
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket = connection

    def write(self, data: Data) -> None:
        """See `Channel.write`."""
        try:
            self._socket.sendall(data, _NO_SIGNAL)
        except OSError as error:
            raise self._failure("write to", error) from error

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        """See `Channel.writev`."""
        try:
            write_rows(iovec, self._send_rows)
        except OSError as error:
            raise self._failure("write to", error) from error

    def _send_rows(self, rows: int, count: int) -> int:
        try:
            return send_rows(self._socket.fileno(), rows, count)
        except InterruptedError:
            return 0

    def read_into(self, view: memoryview) -> int:
        """See `Channel.read_into`."""
        try:
            return self._socket.recv_into(view)
        except OSError as error:
            raise self._failure("read from", error) from error

    @property
    def has_gone(self) -> bool:
        """See `Channel.has_gone`."""
        return _is_closed(self._socket.fileno())

    def shutdown(self) -> None:
        """See `Channel.shutdown`."""
        self._given_up = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        """Close it; what the system has taken, it goes on sending."""
        self._socket.close()


class DescriptorChannel(Channel):
    """A pipe or a file, which it owns, in one direction: `file`, and `fd` where that is no socket.

    The descriptor is made non-blocking for as long as it is in use, so that `shutdown` can free who waits for it. Only
    the disk itself can hold up a thread.
    """

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(name)
        self._fd = fd
        self._was_blocking = os.get_blocking(fd)
        self._wrote = False
        os.set_blocking(fd, False)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def write(self, data: Data) -> None:
        """See `Channel.write`."""
        with memoryview(data) as whole, whole.cast("B") as rest:
            done = 0
            while done < len(rest):
                with rest[done:] as part:
                    done += self._attempt("write to", select.POLLOUT, partial(os.write, self._fd, part))

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        """See `Channel.writev`."""
        write_rows(
            iovec,
            lambda rows, count: self._attempt("write to", select.POLLOUT, partial(writev, self._fd, rows, count)),
        )

    def read_into(self, view: memoryview) -> int:
        """See `Channel.read_into`."""
        return self._attempt("read from", select.POLLIN, partial(os.readv, self._fd, [view]))

    def _attempt(self, what: str, event: int, act: Callable[[], int]) -> int:
        """Do it as soon as it can be done."""
        self._wrote |= event == select.POLLOUT
        try:
            while not self._given_up:
                try:
                    return act()
                except InterruptedError:
                    pass
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._fd, event)
                    poll.register(self._woken, select.POLLIN)
                    poll.poll()
            raise OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
        except OSError as error:
            raise self._failure(what, error) from error

    @property
    def has_gone(self) -> bool:
        """See `Channel.has_gone`: of a pipe that is written to."""
        return self._wrote and _is_closed(self._fd)

    def flush(self) -> None:
        """See `Channel.flush`: a file is on the disk then."""
        try:
            if self._wrote and not self._given_up and stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.fsync(self._fd)
        except OSError as error:
            raise self._failure("finish", error) from error

    def shutdown(self) -> None:
        """See `Channel.shutdown`."""
        self._given_up = True
        with contextlib.suppress(OSError):
            self._waker.send(b"!")

    def _close(self) -> None:
        """Close it; a file that was written to is on the disk afterwards."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            self._release()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            os.set_blocking(fd, self._was_blocking)
        os.close(fd)
        self._woken.close()
        self._waker.close()


class FileChannel(DescriptorChannel):
    """A file from where its descriptor stands; if writing it is given up, nothing is left from there on."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__(fd, name)
        self._start = os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(os.fstat(fd).st_mode) else None

    def _close(self) -> None:
        """See `DescriptorChannel`."""
        if self._fd >= 0 and self._wrote and self._given_up and self._start is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._start)
        super()._close()


def _is_closed(fd: int) -> bool:
    """Whether the other end of a socket or a pipe is closed."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))
