"""Single flight: those who need the same answer at the same time share one task."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """The tasks under way, by key. Belongs to one loop."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._tasks

    async def run(self, key: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the task of this key, which is begun if none is under way. Raises what the task raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(begin())
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)  # it is shared: one caller's cancellation is not the others'

    async def aclose(self) -> None:
        """Cancel all tasks, and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: str, task: "asyncio.Task[T]") -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it if no caller is left
