"""The event loop, which runs on its own thread, and the bridge to it from all other threads.

Flask's threads run coroutines on the loop and wait for their results. Every asyncio object of the service belongs to
this loop, since an asyncio object fails when it is used on another loop.

The loop watches the connections of all waiting callers, so it notices a disconnect at once.
"""

import asyncio
import concurrent.futures
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from interpreter import computing

T = TypeVar("T")

_CALL_TIMEOUT: Final = 10.0
"""Seconds that a plain function on the loop may take before its caller gives up."""

_TICK: Final = 1.0
"""Seconds between two signs that the loop runs."""


class ClientDisconnected(Exception):
    """The client closed the connection, so it would not read the response."""


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Wait until `work` is done, even if the wait is cancelled: it ends something that is billed."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, or for so many seconds. `asyncio.wait_for` of Python 3.11 loses a cancellation that
    comes at the moment of the end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Pool:
    """Runs blocking functions, such as file access, on its own threads, and waits for them on the loop. `computes` is
    true if they mostly compute, and do not wait."""

    def __init__(self, executor: Executor, *, computes: bool = False) -> None:
        self._executor = executor
        self._computes = computes

    async def run(self, function: Callable[[], T]) -> T:
        """Returns or raises as the function does. A thread cannot be stopped, so a cancelled wait ends only after the
        function. The cancelled caller may then undo its work safely."""
        job = computing()(function) if self._computes else function
        work = asyncio.get_running_loop().run_in_executor(self._executor, job)
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
        """Run a function without waiting for it. Its exception is ignored."""
        self._executor.submit(function)

    def close(self) -> None:
        """End the threads, once all functions have ended."""
        self._executor.shutdown()


class LoopThread:
    """A running loop, from `start` to `stop`.

    Start it after a fork: a loop that was started before has no thread in the child process, and a wait for it never
    ends. `start` returns once the loop runs.
    """

    def __init__(self, name: str = "loop", *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._ticked = clock()
        self._loop = asyncio.new_event_loop()
        # Only name look-ups run here.
        self._loop.set_default_executor(ThreadPoolExecutor(4, thread_name_prefix=f"{name}-resolver"))
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._disconnects = _Disconnects(self._loop)
        self._running = threading.Event()

    def start(self) -> Self:
        self._thread.start()
        self._running.wait()
        return self

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    @property
    def seconds_since_tick(self) -> float:
        """Seconds since the loop last ran its timer, which it does each second. In any thread."""
        return self._clock() - self._ticked

    def submit(
        self, work: Coroutine[Any, Any, T], *, disconnect: socket.socket | None = None
    ) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels the coroutine, and so does the peer of the socket
        `disconnect` when it closes the connection."""
        watched = self._until_disconnect(work, disconnect) if disconnect else work
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
        """Cancel all tasks, wait until they have ended, and end the thread. A second call has no effect."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _until_disconnect(self, work: Coroutine[Any, Any, T], connection: socket.socket) -> T:
        task, number = asyncio.current_task(), connection.fileno()
        self._disconnects.watch(number, task)
        try:
            return await work
        finally:
            self._disconnects.forget(number, task)

    def _tick(self) -> None:
        self._ticked = self._clock()
        self._loop.call_later(_TICK, self._tick)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self._tick)
        self._loop.call_soon(self._running.set)
        try:
            self._loop.run_forever()
            # A cancelled task may start another, and other threads may still submit work.
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._disconnects.close()
            self._loop.close()


def result(future: concurrent.futures.Future[T]) -> T:
    """Wait for the work. Raises its exception, or ClientDisconnected if it was cancelled."""
    try:
        return future.result()
    except concurrent.futures.CancelledError:
        raise ClientDisconnected from None


class _Disconnects:
    """Cancels the task of each watched connection whose peer closes it. Use it on the loop.

    The connections are in an epoll object of their own, which the loop watches. One system call begins to watch a
    connection, and one ends it. The next request on a connection, which may arrive early, is no event. Only Linux has
    epoll; on other systems, disconnects are not noticed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks: dict[int, asyncio.Task[Any] | None] = {}
        self._epoll = select.epoll() if sys.platform == "linux" else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._look)

    def watch(self, descriptor: int, task: asyncio.Task[Any] | None) -> None:
        """Watch a connection for a task."""
        if self._epoll is None:
            return
        self._tasks[descriptor] = task
        try:
            self._epoll.register(descriptor, select.EPOLLRDHUP)
        except FileExistsError:
            pass  # an earlier task of this connection is still ending
        except (OSError, ValueError):
            self._end(descriptor)  # it is closed already

    def forget(self, descriptor: int, task: asyncio.Task[Any] | None) -> None:
        """End the watch for a task. The connection may be closed by now, and another may have its descriptor."""
        if self._epoll is not None and self._tasks.get(descriptor) is task:
            del self._tasks[descriptor]
            with suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()

    def _look(self) -> None:
        if self._epoll is not None:
            for descriptor, _ in self._epoll.poll(0):
                self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        task = self._tasks.get(descriptor)
        self.forget(descriptor, task)
        if task is not None:
            task.cancel()
