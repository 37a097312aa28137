"""The event loop on a thread of its own, and the one bridge to it from every other thread.

Flask's threads run coroutines on it and wait for their results; every asyncio object of the service belongs to this
loop. Objects made on one loop and used on another are what turns parallel calls into errors.

A caller who disconnects is noticed by the loop, at once and at no cost: it watches the sockets of all who wait.
"""

import asyncio
import concurrent.futures
import select
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_HUNG_UP: Final = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # the last is Linux's
_LOOK_AGAIN: Final = 0.5
"""Seconds between looks at a caller whose next request came before the answer."""

_CALL_TIMEOUT: Final = 10.0
"""Seconds for a plain function on the loop: far beyond any, but whoever asks must not wait for ever."""


class ClientDisconnected(Exception):
    """The client closed the connection, so the answer would not be read."""


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Wait until it is done, however often the wait is cancelled: it ends something that is billed."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


class Pool:
    """Runs what blocks, such as disks and stores, on threads of its own, and waits for it on the loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def run(self, function: Callable[[], T]) -> T:
        """What it returns or raises. A thread cannot be stopped, so who is cancelled waits for its end: then nothing
        is still being done that is about to be undone."""
        work = asyncio.get_running_loop().run_in_executor(self._executor, function)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            if not work.cancelled():
                work.exception()  # retrieved, so that asyncio does not log it
            raise

    def start(self, function: Callable[[], object]) -> None:
        """Run it without waiting for it. Its errors are lost."""
        self._executor.submit(function)

    def close(self) -> None:
        """Once nothing waits for anything."""
        self._executor.shutdown()


class LoopThread:
    """A running loop, from `start` to `stop`.

    Start it after fork: a loop that is started before has no thread in the child, and whoever waits for it
    waits for ever. `start` returns once the loop runs.
    """

    def __init__(self, name: str = "loop") -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        # Only name look-ups run here. asyncio's own pool has cpu + 4 threads, shared with everything else.
        self._loop.set_default_executor(ThreadPoolExecutor(4, thread_name_prefix=f"{name}-resolver"))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._running = threading.Event()

    def start(self) -> Self:
        self._thread.start()
        self._running.wait()
        return self

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def submit(
        self, work: Coroutine[Any, Any, T], *, disconnect: socket.socket | None = None
    ) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels the coroutine, and so does the peer of the socket
        `disconnect` when it closes the connection."""
        watched = _until_disconnect(work, disconnect) if disconnect else work
        return asyncio.run_coroutine_threadsafe(watched, self._loop)

    def run(self, work: Coroutine[Any, Any, T], *, disconnect: socket.socket | None = None) -> T:
        """Run a coroutine on the loop; returns or raises as it does. Raises ClientDisconnected if the peer of the
        socket `disconnect` closed the connection."""
        future = self.submit(work, disconnect=disconnect)
        return result(future) if disconnect else future.result()

    def on_disconnect(
        self, connection: socket.socket | None, then: Callable[[], object]
    ) -> concurrent.futures.Future[Any]:
        """Call `then` once the peer closes this connection, or the returned future is cancelled."""
        future = self.submit(asyncio.Event().wait(), disconnect=connection)
        future.add_done_callback(lambda _: then())
        return future

    def call(self, function: Callable[[], T]) -> T:
        """Run a plain function on the loop; returns or raises as it does."""

        async def called() -> T:
            return function()

        return self.submit(called()).result(_CALL_TIMEOUT)

    def stop(self) -> None:
        """Cancel what still runs, wait for it to end, and end the thread. Twice is no error."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._running.set)
        try:
            self._loop.run_forever()
            # Again and again: what is cancelled may start something, and others may submit to the last.
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


def result(future: concurrent.futures.Future[T]) -> T:
    """Wait for the work. Raises its exception, or ClientDisconnected if it was cancelled."""
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise ClientDisconnected from None


async def _until_disconnect(work: Coroutine[Any, Any, T], connection: socket.socket) -> T:
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
