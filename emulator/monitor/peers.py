"""A thread that serves the peers of a character port, one after the other: what all monitor sessions share."""

from __future__ import annotations

import threading

from emulator.core.charport import INPUT_LIMIT, CharPort


class PeerSession:
    """Serves one peer after the other until `close`; its public methods may be called from any thread."""

    def __init__(self, port: CharPort) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._arrived = threading.Event()
        """Set when there may be something to do."""
        self._closing = False
        self._came = 0
        """How many peers have come so far."""
        self._left = 0
        """How many of them have left; that much, and not just a flag, because the next may come at once."""
        self._last_words: dict[int, bytes] = {}
        """What each of those who left had sent and nobody had read, so that it does not mix with the next one's."""
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        """The monitor comes into view: of a new peer, or of one that is there already."""
        with self._lock:
            if self._closing:
                return
            if self._came == self._left:
                self._came += 1
                self._start()
            else:
                self._shown_again()

    def hang_up(self) -> None:
        """The peer has left: carry out what it has sent, and serve the next one."""
        with self._lock:
            if self._left == self._came:
                return
            self._left = self._came
            self._last_words[self._left] = self._port.receive(INPUT_LIMIT)
            self._interrupt()
        self._arrived.set()

    def end(self) -> None:
        """Read no more; a command that runs now goes on. Returns at once."""
        with self._lock:
            self._closing = True
            self._interrupt()
        self._arrived.set()

    def close(self) -> None:
        """Like `end`, and wait for the command that runs now, but not for long; harmless when repeated."""
        self.end()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)

    def _serve(self, peer: int) -> None:
        """Talk to a peer, by its number, until `_next_chunk` says that it has nothing more to say."""
        raise NotImplementedError

    def _shown_again(self) -> None:
        """The peer that is there already looks here again; with the lock held."""

    def _interrupt(self) -> None:
        """The peer has left or the session ends: give up waiting for more; with the lock held."""

    def _before_waiting(self) -> None:
        """Nothing has arrived for now, or something else is to be done."""

    def _next_chunk(self, peer: int) -> bytes | None:
        """Wait for input; None when the peer has left and all that it sent is done, or when the session ends."""
        while not self._closing:
            self._arrived.clear()
            self._before_waiting()
            with self._lock:
                left = self._left >= peer
                chunk = self._last_words.pop(peer, b"") if left else self._port.receive(INPUT_LIMIT)
            if chunk:
                return chunk
            if left:
                return None
            self._arrived.wait()
        return None

    def _start(self) -> None:
        self._port.on_input = self._arrived.set
        self._arrived.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        served = 0
        while not self._closing:
            self._arrived.clear()
            if self._came > served:
                served += 1
                self._serve(served)
                with self._lock:
                    self._last_words.pop(served, None)
            else:
                self._arrived.wait()
