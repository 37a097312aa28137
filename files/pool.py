"""Threads for what blocks: disks and stores. Of our own, since the loop's are for looking up names."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Pool:
    """Runs plain functions on an executor and waits for them on the loop."""

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
