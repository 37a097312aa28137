"""Closes connections, on one thread for all of them.

If a connection is closed with unread bytes, its peer may discard the response (RFC 9112 9.6). So the bytes that a
refused client still sends are discarded until it closes.
"""

import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from gunicorn.workers.gthread import PollableMethodQueue

MOST: Final = 64
"""Connections that may linger at the same time. Any more are closed immediately."""

SECONDS: Final = 2.0
BYTES: Final = 33_554_432
"""Bytes discarded per connection, so that a client that reads only after sending its body gets the refusal."""

_PAUSE: Final = 0.01
"""Seconds between two rounds, so that other threads can run."""


class Closer(threading.Thread):
    """Closes each connection once its peer does, or after a time limit."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name="closer", daemon=True)
        self._clock = clock
        self._calls = PollableMethodQueue()
        self._calls.init()
        self._poller = selectors.DefaultSelector()
        self._poller.register(self._calls.fileno(), selectors.EVENT_READ, self._calls.run_callbacks)
        self.lingering: dict[Any, tuple[float, int]] = {}
        """By connection: the deadline, and the number of bytes that its peer may still send."""

    def close(self, conn: Any) -> None:
        """End the response on a connection of gunicorn, and close it later. Safe in any thread."""
        self._calls.defer(self._begin, conn)

    def run(self) -> None:
        while True:
            for key, _ in self._poller.select(SECONDS if self.lingering else None):
                key.data(key.fileobj)
            now = self._clock()
            for conn in [each for each, (deadline, _) in self.lingering.items() if deadline <= now]:
                self._end(conn)
            time.sleep(_PAUSE)

    def _begin(self, conn: Any) -> None:
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            if len(self.lingering) < MOST:
                self._poller.register(conn.sock, selectors.EVENT_READ, lambda _: self._discard(conn))
                self.lingering[conn] = (self._clock() + SECONDS, BYTES)
                return
        except OSError:
            pass  # the peer is gone
        conn.close()

    def _discard(self, conn: Any) -> None:
        deadline, left = self.lingering[conn]
        left -= (discarded := conn.sock.discard())
        self.lingering[conn] = (deadline, left)
        if not discarded or left <= 0:
            self._end(conn)

    def _end(self, conn: Any) -> None:
        del self.lingering[conn]
        self._poller.unregister(conn.sock)
        conn.close()
