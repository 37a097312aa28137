"""The event loop on a thread of its own, and the way in from every other thread.

Flask's threads hand work to it and wait on a future; every asyncio object of the service lives on this one
loop. Objects made on one loop and used on another are what turns parallel calls into errors.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

_CALL_TIMEOUT: Final = 10.0
"""Seconds for a plain function on the loop: far beyond any, but whoever asks must not wait for ever."""


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
                work.exception()  # it is told to nobody
            raise

    def close(self) -> None:
        """Once nobody waits for anything."""
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

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the loop. Cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, function: Callable[[], T]) -> T:
        """Run a plain function on the loop and give back what it returns or raises."""

        async def called() -> T:
            return function()

        return self.submit(called()).result(_CALL_TIMEOUT)

    def in_background(self, work: Callable[[], object]) -> None:
        """Have a thread do what would hold up the loop for a moment, such as removing a file. On the loop."""
        self._loop.run_in_executor(None, work)

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
