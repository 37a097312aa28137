"""gunicorn's threaded worker, changed so that a connection occupies a thread only once its request head is complete.

gunicorn gives each new connection to a thread, which waits for the request. As many silent connections as there are
threads would then block the service. Here the accepting thread also reads the heads of requests, without waiting, and
passes a connection to a thread once its head is complete.

Further changes: the accepting thread neither waits to close connections nor fails when file descriptors run out, a
peer that stalls is dropped, and a request that cannot be parsed gets the error that its path promises instead of HTML.
"""

import ctypes
import errno
import math
import os
import secrets
import selectors
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from gunicorn.http import get_parser
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine
from gunicorn.http.message import MAX_REQUEST_LINE
from gunicorn.workers.gthread import TConn, ThreadWorker

from errors import HeadersTooLarge, Internal, InvalidRequest, Problem, ServiceError
from network.addresses import network_of
from server.arrivals import PATIENCE, Arrivals
from server.closer import Closer
from server.idleness import Idleness
from server.peer import Peer, TooSlow
from server.refusals import response_to
from server.threads import Threads

_SILENT_SECONDS: Final = 10
"""Seconds after which a peer that sends nothing in the middle of a body is dropped."""

MOST_HEADERS: Final = 1000
"""Maximum headers of one request. gunicorn's parsing time grows with their square: 10 ms for 1000."""

LONGEST_HEADERS: Final = 32_768
"""Maximum bytes of all headers, including line ends."""

_LONGEST_HEAD: Final = MAX_REQUEST_LINE + LONGEST_HEADERS + len(b"\r\n\r\n")
"""Maximum bytes of the request line and the headers."""

_UNREAD_BODY: Final = 65_536
"""Bytes of an unread body that are discarded to keep the connection; after more, it is closed."""

_MAPPED: Final = 4_194_304
"""Bytes from which glibc allocates by mmap, so that the memory is returned when freed."""

_LAST_ANSWERS_SECONDS: Final = 5
"""Seconds to write the last responses once no work runs."""

_LOG_PAUSE: Final = 60.0

_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_FULL: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


log = structlog.get_logger("server")


class Connection(TConn):  # type: ignore[misc] # gunicorn ships no types
    """A connection that is ready to be read, made without a system call. gunicorn's own constructor, which is not
    called here, would make the socket non-blocking at once and prepare TLS and HTTP/2 on a thread."""

    def __init__(self, cfg: Any, peer: Peer, client: Any, server: Any) -> None:
        self.cfg, self.sock, self.client, self.server = cfg, peer, client, server
        self.parser = get_parser(cfg, peer, client)
        self.timeout = None
        self.is_http2 = False
        self.initialized = self.data_ready = True


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn ships no types
    """gthread with `Arrivals` before its threads. The methods up to "On the threads" run on the accepting thread
    only."""

    def init_process(self) -> None:
        _give_memory_back()
        self.closer = Closer()
        self.closer.start()
        self.names = {listener: listener.getsockname() for listener in self.sockets}
        most = self.worker_connections // 4
        self.arrivals: Arrivals[Any] = Arrivals(most)
        # Closing an idle connection may lose a request that is on its way, so one address may have all of them.
        self.idle: Arrivals[Any] = Arrivals(most, share=most, hurried=PATIENCE)
        self.stops_at = math.inf
        self.notify_at = 0.0
        self.idleness: Idleness | None = None  # set if an idle service ends
        self.given_up = Occurrences()
        self.not_accepted = Occurrences()
        super().init_process()

    def get_thread_pool(self) -> Threads:
        return Threads(self.cfg.threads)

    def notify(self) -> None:
        """Called for each event: show the master once a second that this thread is alive."""
        if (now := time.monotonic()) >= self.notify_at:
            self.notify_at = now + 1
            super().notify()

    # ── From an accepted connection to a request

    def accept(self, listener: Any) -> None:
        """Called when there is a new connection. It goes to a thread once the head of its request is complete.

        Each system call may let another thread run first, so there are few of them here.
        """
        try:
            accepted, client = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if count := self.not_accepted.due():
                log.error("accept_failed", count=count, reason=error.strerror)
            for oldest in (shed := self.arrivals.shed() or self.idle.shed()):
                self._give_up(oldest)
            if not shed:
                time.sleep(0.1)  # else the listener, still readable, would be tried again at once
            return
        self.nr_conns += 1
        peer = Peer.of(accepted)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SILENT_SECONDS, 0))
        self._await_head(Connection(self.cfg, peer, client, self.names[listener]))

    def _finish(self, conn: Any, is_kept: bool) -> None:
        """Called with each connection after its response: wait for its next request if it is kept."""
        if is_kept:
            self._await_head(conn)
        else:
            self.nr_conns -= 1

    def murder_keepalived(self, force: bool = False) -> None:
        """Called periodically: drop the connections whose request is overdue, and end an idle service."""
        now = time.monotonic()
        is_over = force or now >= self.stops_at
        for waiting in (self.arrivals, self.idle):
            for late in waiting.overdue(now, patience=0 if is_over else PATIENCE):
                self._give_up(late)
        if self.idleness and self.idleness.is_over(now, requests=self.nr, is_busy=self._is_busy()):
            log.info("idle_exit", seconds=self.idleness.seconds)
            self.idleness = None
            os.kill(self.ppid, signal.SIGTERM)  # if only this process ended, the master would start another

    def _is_busy(self) -> bool:
        """Whether a request is open, or the service has unfinished work."""
        are_open = self.nr_conns > len(self.arrivals) + len(self.idle)
        return bool(are_open or self.wsgi.extensions["service"].has_work)

    def _cap_keepalive(self, deadline: float) -> None:
        """Called when the worker stops: wait for requests until `deadline`."""
        self.stops_at = deadline

    def _await_head(self, conn: Any) -> None:
        conn.head = bytearray()
        if _add(conn, conn.parser.unreader.take_buffered()) or self._is_ready(conn):
            self._dispatch(conn)
            return
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        conn.waits_in = self.idle if conn.parser.req_count else self.arrivals
        for oldest in conn.waits_in.add(conn, _network(conn), time.monotonic()):
            self._give_up(oldest)

    def _on_readable(self, conn: Any, sock: Any) -> None:
        if self._is_ready(conn):
            conn.waits_in.remove(conn)
            self.poller.unregister(sock)
            self._dispatch(conn)

    def _is_ready(self, conn: Any) -> bool:
        """Read the bytes that have arrived. Returns whether a thread can take over: the head is complete, or never
        will be."""
        try:
            received = conn.sock.recv(_LONGEST_HEAD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received and not conn.head:
            conn.sock.note_end()
        return _add(conn, received) or not received or len(conn.head) > _LONGEST_HEAD

    def _dispatch(self, conn: Any) -> None:
        conn.parser.unreader.unread(bytes(conn.head))
        self.tpool.run(partial(self._serve, conn))

    def _give_up(self, conn: Any) -> None:
        """Close a connection that `Arrivals` has dropped."""
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()
        if conn.head or conn.parser.req_count == 0:  # else it was idle between two requests
            self._count_given_up()

    # ── On the threads

    def _serve(self, conn: Any) -> None:
        is_kept = False
        try:
            is_kept = bool(self.handle(conn))
        except Exception:
            log.exception("connection_crashed")
        finally:
            if not is_kept:
                self.closer.close(conn)
            self.method_queue.defer(self._finish, conn, is_kept)

    def handle(self, conn: Any) -> Any:
        conn.sock.begin_request(conn.head)
        if _header_bytes(conn.head) > LONGEST_HEADERS:
            conn.sock.setblocking(True)
            self.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("the headers are too long"))
            return False
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        try:
            return super().handle_request(req, conn)
        except (BlockingIOError, TooSlow):
            self._count_given_up()
            with suppress(OSError):
                conn.sock.abort()
            return False

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """Whether the connection can have another request. gunicorn would wait here for five seconds for a body that
        the application did not read. This reads only the bytes that have arrived, so that no thread waits."""
        conn.sock.waits = False
        try:
            return bool(keepalive) and bool(conn.parser.finish_body(max_bytes=_UNREAD_BODY))
        except BlockingIOError:
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002
        error: ServiceError
        request_id = "req_" + secrets.token_hex(12)
        if isinstance(exc, LimitRequestHeaders):
            error = HeadersTooLarge(
                f"A request may have at most {LONGEST_HEADERS} bytes of headers, and {MOST_HEADERS} of them."
            )
        elif isinstance(exc, LimitRequestLine):
            most = self.cfg.limit_request_line
            error = InvalidRequest(
                [Problem("request", f"may have at most {most} bytes in its first line, with the URL")]
            )
        elif req is None or type(exc).__module__ == "gunicorn.http.errors":
            error = InvalidRequest(
                [Problem("request", f"is not HTTP as this server reads it ({type(exc).__name__})")]
            )
        else:
            log.exception("request_crashed", request=request_id)
            error = Internal()
            error.may_be_paid = True  # a prediction may exist by now
        try:
            client.sendall(
                response_to(error, request_id, client.head, public=self.wsgi.config["PUBLIC_PATH"])
            )
        except OSError:
            self.log.debug("Failed to send the error answer.")

    # ── The end

    def is_parent_alive(self) -> bool:
        alive: bool = super().is_parent_alive()
        if not alive:
            drain(self, 0)
            self.cfg.set("graceful_timeout", _LAST_ANSWERS_SECONDS)
        return alive

    def _count_given_up(self) -> None:
        if count := self.given_up.due():
            log.warning("connections_timed_out", count=count, reason="no complete request, or too slow")


class Occurrences:
    """Counts frequent events, to log them once a minute. Safe in any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._logged = -math.inf

    def due(self) -> int:
        """Count one event. Returns the events since the last log line if it is time for another, else 0."""
        with self._lock:
            self._count += 1
            if self._clock() - self._logged < _LOG_PAUSE:
                return 0
            self._logged = self._clock()
            count, self._count = self._count, 0
            return count


def _give_memory_back() -> None:
    """Make glibc return the memory of large bodies. By default it keeps freed blocks of up to 32 MB, in an arena for
    each of many threads (mallopt(3))."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_ARENA_MAX, 2)


def drain(worker: Any, seconds: float) -> None:
    """Drain the service for up to `seconds`, and then stop the worker."""

    def exit_soon() -> None:
        worker.cfg.set("graceful_timeout", _LAST_ANSWERS_SECONDS)
        worker.handle_exit(signal.SIGTERM, None)

    worker.wsgi.extensions["service"].begin_drain(seconds, then=exit_soon)


def _add(conn: Any, received: bytes) -> bool:
    """Add received bytes to the head of a request. Returns whether the head is complete."""
    searched = max(0, len(conn.head) - 3)
    conn.head += received
    if conn.head.startswith((b"\r", b"\n")):  # an empty line (RFC 9112 2.2) is not the end of a head
        conn.head = conn.head.lstrip(b"\r\n")
    return bool(conn.head.find(b"\r\n\r\n", searched) >= 0)


def _header_bytes(head: bytes) -> int:
    """The number of bytes after the request line, up to the end of the head or of the bytes received so far."""
    end = head.find(b"\r\n\r\n")
    line = head.find(b"\r\n")
    return (len(head) if end < 0 else end) - line if line >= 0 else 0


def _network(conn: Any) -> str:
    return network_of(conn.client[0]) if isinstance(conn.client, tuple) else ""
