"""Notices between the processes that share a ledger in PostgreSQL: LISTEN and NOTIFY.

A notice only says that there may be something new for a topic, so it has no content, several may arrive as one, and a
lost one costs no more than the time until the next look. A process gives notice in a transaction of its own after its
commit: PostgreSQL lets only one transaction with a notice commit at a time.

The listener lets another connection of this process send it a beat. Without beats, the connection is half open, or a
pooler gives it to others after each transaction; then `works` is false.
"""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import psycopg
import structlog
from psycopg import sql

BEAT: Final = 2.0
"""Seconds between two beats."""

_MISSED_BEATS: Final = 3
"""Beats that may be missing until the connection counts as dead."""

_RETRY_DELAY: Final = 1.0
"""Seconds until another attempt to connect after a failure."""

_POOLED_DELAY: Final = 15.0
"""Beats until another attempt after a connection that received no beat at all."""

_GIVE: Final = "SELECT pg_notify(channel, '') FROM unnest(%s::text[]) AS channel"

Callback = Callable[[], object]

log = structlog.get_logger("ledger")


def channel(ledger: bytes, topic: str) -> str:
    """The channel of a topic. It depends on the random name of the ledger, since a database may have several."""
    return f"ledger_{sha256(ledger + topic.encode()).hexdigest()[:40]}"


@contextmanager
def committing(connection: psycopg.Connection[Any], ledger: bytes, topics: Collection[str]) -> Iterator[None]:
    """Commit what the block executes, and then give notice of these topics in a transaction of its own, all in one
    round trip. Rolls back if anything fails but the notice, which is ignored."""
    committed = None
    try:
        with connection.pipeline():
            yield
            committed = connection.execute("COMMIT")
            if topics:
                connection.execute(_GIVE, [[channel(ledger, each) for each in topics]])
    except BaseException as error:
        if committed is not None and committed.statusmessage == "COMMIT" and isinstance(error, psycopg.Error):
            return
        with suppress(psycopg.Error):
            connection.rollback()
        raise


@dataclass(frozen=True, slots=True)
class Link:
    """What a listener needs: `connect` opens a connection, or raises any error; `beat` sends it a notice of the topic
    `beat_topic` from another connection and returns at once; `ledger` is the random name of the ledger, which is known
    once `connect` has succeeded."""

    connect: Callable[[], psycopg.Connection[Any]]
    ledger: Callable[[], bytes]
    beat: Callable[[], object]
    beat_topic: str


class Listener:
    """Calls functions on the loop when a notice of their topic arrives, from `start` to `close`. Call everything on the
    loop."""

    def __init__(self, link: Link, *, beat: float = BEAT) -> None:
        self._link = link
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._callbacks: Mapping[str, Callback] = {}
        """By topic. The thread reads it, so each change makes a new one."""
        self._noticed: set[str] = set()
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self.works = False
        """Whether notices arrive. If not, look for news more often."""

    def start(self) -> None:
        self._thread.start()

    def listen(self, topic: str, callback: Callback) -> None:
        """Call this function from now on after a notice of the topic, and once after each reconnection."""
        self._callbacks = {**self._callbacks, topic: callback}
        self._wake_up()

    def unlisten(self, topic: str) -> None:
        """End that. A topic without a function is no error."""
        self._callbacks = {each: call for each, call in self._callbacks.items() if each != topic}
        self._wake_up()

    def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        self._wake_up()
        if self._thread.is_alive():
            self._thread.join()
        self._wake.close()
        self._woken.close()

    def _wake_up(self) -> None:
        with suppress(OSError):  # it is closed, or has many signs already
            self._wake.send(b"\0")

    # ── The thread

    def _run(self) -> None:
        while not self._is_closing:
            delay = _RETRY_DELAY
            try:
                with self._link.connect() as connection:
                    has_worked = self._follow(connection)
                delay = 0.0 if has_worked else _POOLED_DELAY * self._beat
            except (psycopg.Error, OSError) as error:
                log.debug("listener_disconnected", reason=str(error))
            except Exception:  # this thread must not end
                log.exception("listener_failed")
            self.works = False
            if not self._is_closing:
                self._wait([self._woken.fileno()], delay)

    def _follow(self, connection: psycopg.Connection[Any]) -> bool:
        """Pass notices on until beats are missing or `close`. Returns whether a beat has arrived."""
        topics: dict[str, str] = {}
        """The topic of each channel that the server sends."""
        beat_channel = channel(self._link.ledger(), self._link.beat_topic)
        arrived: list[str] = []
        connection.add_notify_handler(lambda notice: arrived.append(notice.channel))
        self._send(connection, "LISTEN", beat_channel)
        has_worked = False
        last = next_beat = time.monotonic()
        while not self._is_closing and (now := time.monotonic()) - last < _MISSED_BEATS * self._beat:
            if now >= next_beat:
                self._link.beat()
                next_beat = now + self._beat
            new = self._subscribe(connection, topics)
            descriptors = [connection.pgconn.socket, self._woken.fileno()]
            self._wait(descriptors, 0.0 if new else max(0.0, next_beat - now))
            arrived += _received(connection)
            if beat_channel in arrived:
                last = time.monotonic()
                self.works = has_worked = True
            self._call({*new, *(topics[each] for each in arrived if each in topics)})
            arrived.clear()
        return has_worked

    def _wait(self, descriptors: Sequence[int], seconds: float) -> None:
        """Wait until one of these can be read. Each sign of `_wake_up` ends one wait only."""
        select.select(descriptors, [], [], seconds)
        with suppress(BlockingIOError):
            self._woken.recv(4096)

    def _subscribe(self, connection: psycopg.Connection[Any], topics: dict[str, str]) -> list[str]:
        """Let the server send what the callbacks need. Returns the topics that it did not send before."""
        needed = {channel(self._link.ledger(), topic): topic for topic in self._callbacks}
        for each in topics.keys() - needed.keys():
            self._send(connection, "UNLISTEN", each)
            del topics[each]
        new = needed.keys() - topics.keys()
        for each in new:
            self._send(connection, "LISTEN", each)
            topics[each] = needed[each]
        return [topics[each] for each in new]

    @staticmethod
    def _send(connection: psycopg.Connection[Any], command: str, name: str) -> None:
        connection.execute(sql.SQL(command + " {}").format(sql.Identifier(name)))

    def _call(self, topics: set[str]) -> None:
        """Call the functions of these topics on the loop. While they wait for it, further notices are added."""
        with self._lock:
            is_due = bool(topics) and not self._noticed
            self._noticed |= topics
        if is_due:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._call_now)

    def _call_now(self) -> None:
        with self._lock:
            topics, self._noticed = self._noticed, set()
        for topic in topics:
            if (callback := self._callbacks.get(topic)) is not None:
                callback()


def _received(connection: psycopg.Connection[Any]) -> Iterable[str]:
    """The channels of the notices that have arrived. Raises psycopg.OperationalError if the connection is lost."""
    connection.pgconn.consume_input()
    while (notice := connection.pgconn.notifies()) is not None:
        yield notice.relname.decode()
