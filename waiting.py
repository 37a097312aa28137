"""A caller who waits: a thread's seat, and a look at whether the caller is still there.

Threads are finite. Those who wait for a result take a seat before their body is even read, and there are
fewer seats than threads, so those who wait leave threads to `/health`, `/status` and `/configure`. (Not so
callers who dribble their headers: against those a proxy stands in front.) Whoever hangs up meanwhile is
noticed by the loop, at once and at no cost: it watches the sockets of all who wait.
"""

import asyncio
import concurrent.futures
import select
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from errors import QueueFull
from loop_thread import LoopThread

T = TypeVar("T")

_HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # the last is Linux's
_LOOK_AGAIN = 0.5
"""Seconds between looks at a caller whose next request came before its answer."""


class CallerGone(Exception):
    """Whoever asked closed the connection; nobody will read the answer."""


class Seats:
    """So many callers may do something at once. A seat may be left in another thread than it was taken in.

    `taken_by` says what those who have one do, as in "callers are waiting for a result".
    """

    def __init__(self, seats: int, *, taken_by: str) -> None:
        self._seats = seats
        self._taken_by = taken_by
        self._free = threading.Semaphore(seats)

    def take(self, *, retry_after: Callable[[], float]) -> None:
        """Take a seat. Raises QueueFull, with the seconds until one is likely free."""
        if not self._free.acquire(blocking=False):
            raise QueueFull(
                f"{self._seats} {self._taken_by}, and no more may.",
                retry_after=retry_after(),
            )

    def leave(self) -> None:
        self._free.release()

    @contextmanager
    def taken(self, *, retry_after: Callable[[], float]) -> Iterator[None]:
        self.take(retry_after=retry_after)
        try:
            yield
        finally:
            self.leave()


def submit(
    loop: LoopThread, work: Coroutine[Any, Any, T], connection: socket.socket | None
) -> concurrent.futures.Future[T]:
    """Run work on the loop for the caller behind this connection; it is cancelled if they hang up."""
    return loop.submit(_unless_gone(work, connection) if connection else work)


def result(future: concurrent.futures.Future[T]) -> T:
    """Wait for the work to end. Raises what it raised, or CallerGone."""
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise CallerGone from None


def until_gone(
    loop: LoopThread, connection: socket.socket | None, then: Callable[[], object]
) -> concurrent.futures.Future[None]:
    """Have `then` called once the caller behind this connection hangs up, or once what this gives is cancelled."""
    future = submit(loop, _for_ever(), connection)
    future.add_done_callback(lambda _: then())
    return future


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def _unless_gone(work: Coroutine[Any, Any, T], connection: socket.socket) -> T:
    watch = _Connection(connection, asyncio.current_task())
    try:
        return await work
    finally:
        watch.end()


class _Connection:
    """Cancels the task when the peer closes the connection, until `end`."""

    def __init__(self, connection: socket.socket, task: asyncio.Task[Any] | None) -> None:
        # A handle of our own: the server may close its own before the loop has let go of it. The loop is given its
        # number, since it asks a socket for more than it needs.
        self._handle = connection.dup()
        self._number = self._handle.fileno()
        self._task = task
        self._again: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._number, self._look)

    def end(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._number)
        self._handle.close()
        self._task = (
            None  # or the two would keep each other, and what the task made, until a later collection
        )

    def _look(self) -> None:
        self._loop.remove_reader(self._number)
        if self._task is not None and _has_hung_up(self._handle):
            self._task.cancel()
        else:  # the next request is here early, and would be reported for ever
            self._again = self._loop.call_later(_LOOK_AGAIN, self._look)


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, _HUNG_UP)
    try:
        return bool(poll.poll(0)) or not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
