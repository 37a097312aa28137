"""The socket of a caller. It fails if the peer reads or sends too slowly while the service waits for it.

A thread writes each response and reads each body, so a peer that stalls occupies a thread. A timeout per call is not
enough, since a single byte resets it. So the socket counts bytes over the time spent waiting for the peer.
"""

import fcntl
import select
import socket
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self

from settings.capacity import SLOWEST

PATIENCE: Final = 60.0
"""Seconds over which bytes are counted. Long, since the work may be lost with its response."""

BODY_SECONDS: Final = 10.0
"""The same for a large body."""

_SMALL_BODY: Final = 65_536
_SAMPLE: Final = 0.25
_LOOK_AGAIN_MS: Final = 500
_REST: Final = bytearray(1024 * 1024)
"""A buffer for discarded bytes."""


class TooSlow(TimeoutError):
    """The peer reads or sends below the minimum speed."""


class Pace:
    """The speed of a peer: bytes moved over seconds spent waiting for it. Both only grow; `moved` is the number at the
    start."""

    def __init__(self, moved: int = 0) -> None:
        self._latest = (0.0, moved)
        self._samples = deque([self._latest])

    def note(self, waited: float, moved: int) -> None:
        """Record the totals: `waited` seconds and `moved` bytes."""
        self._latest = (waited, moved)
        if waited >= self._samples[-1][0] + _SAMPLE:
            self._samples.append(self._latest)
            while len(self._samples) > 1 and self._samples[1][0] <= waited - PATIENCE:
                self._samples.popleft()

    def rate(self, over: float) -> float | None:
        """Bytes a second in the last `over` seconds of waiting; None if there were not so many."""
        waited, moved = self._latest
        for since, before in reversed(tuple(self._samples)):  # a copy, since another thread may call this
            if since <= waited - over:
                return (moved - before) / (waited - since)
        return None


class Peer(socket.socket):
    """An accepted connection."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.patience = PATIENCE
        """Seconds over which the speed of reading the response is measured."""
        self.waits = True
        """Whether `recv` waits for bytes."""
        self.on_end: Callable[[], object] | None = None
        """Called once if the peer ends the connection after the response, before it sends another request."""
        self.head: bytes | bytearray = b""
        """The first bytes of the request, as far as they are known."""
        self._reading, self._sending = Pace(), Pace()
        self._read_wait = self._sent_wait = 0.0
        self._received = self._sent = 0

    @classmethod
    def of(cls, accepted: socket.socket) -> Self:
        """A blocking socket in place of the one that a listener returned."""
        if sys.platform != "linux":
            accepted.setblocking(True)  # elsewhere it inherits the listener's mode, which is not to block
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        return cls(family, kind, protocol, fileno=accepted.detach())

    def begin_request(self, head: bytes | bytearray = b"") -> None:
        """Reset the measurements for a new request, which begins with these bytes."""
        self.head = head
        self.patience = PATIENCE
        self.waits = True
        self.on_end = None
        self._reading, self._sending = Pace(), Pace()
        self._read_wait = self._sent_wait = 0.0
        self._received = 0

    def settimeout(self, seconds: float | None, /) -> None:
        """As of any socket, but without a system call if nothing changes: gunicorn sets the timeout of each request
        three times, and at each call another thread may take the interpreter."""
        if seconds != self.gettimeout():
            super().settimeout(seconds)

    def setblocking(self, blocks: bool, /) -> None:
        self.settimeout(None if blocks else 0.0)

    def rate(self, over: float) -> float | None:
        """Bytes per second of the response that the peer read in the last `over` seconds of waiting for it."""
        return self._sending.rate(over)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Raises TooSlow if the peer sends a body too slowly."""
        if not self.waits:
            flags |= socket.MSG_DONTWAIT
        began = self.clock()
        received = super().recv(size, flags)
        if not flags:
            self._received += len(received)
            self._read_wait += self.clock() - began
            self._reading.note(self._read_wait, self._received)
            self._raise_if_too_slow(
                self._reading, BODY_SECONDS if self._received > _SMALL_BODY else PATIENCE, "sends"
            )
        return received

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Raises TooSlow if the peer reads too slowly."""
        left = memoryview(data).cast("B")
        while left:
            try:
                sent = self.send(left, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait_until_writable()
            else:
                self._sent += sent
                left = left[sent:]

    def note_end(self) -> None:
        """The peer has ended the connection between two requests."""
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()

    def discard(self) -> int:
        """Discard the bytes that have arrived. Returns their number; 0 if the peer has closed."""
        try:
            return self.recv_into(
                _REST, len(_REST), socket.MSG_TRUNC | socket.MSG_DONTWAIT
            )  # Linux copies nothing
        except OSError:
            return 0

    def abort(self) -> None:
        """Close the connection, and discard the bytes that the peer did not read. Safe in any thread."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.shutdown(socket.SHUT_RDWR)

    def _wait_until_writable(self) -> None:
        if not self._sent_wait:  # the first wait of this response
            self._sending = Pace(self._sent - self.unacknowledged())
        began = self.clock()
        self._poll()
        self._sent_wait += self.clock() - began
        self._sending.note(self._sent_wait, self._sent - self.unacknowledged())
        self._raise_if_too_slow(self._sending, self.patience, "reads")

    def _poll(self) -> None:
        poll = select.poll()
        poll.register(self, select.POLLOUT)
        poll.poll(_LOOK_AGAIN_MS)

    @staticmethod
    def clock() -> float:
        return time.monotonic()

    def _raise_if_too_slow(self, pace: Pace, over: float, what: str) -> None:
        rate = pace.rate(over)
        if rate is not None and rate < SLOWEST:
            raise TooSlow(f"the peer {what} {rate:.0f} bytes a second")

    def unacknowledged(self) -> int:
        """Bytes that wait in the kernel: a large buffer takes more than a slow peer reads in a minute."""
        try:
            return int.from_bytes(fcntl.ioctl(self, termios.TIOCOUTQ, b"\0" * 4), "little")
        except OSError:  # not on every system
            return 0
