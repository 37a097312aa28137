"""Single flight: those who need the same answer at the same time share one task, and may share its result later."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from auth import Caller

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


class Shared(Generic[T]):
    """The results of `fetch(caller)` for the `most` callers that needed one last, each kept for `good_for` seconds. A
    failure is not kept."""

    def __init__(
        self, fetch: Callable[[Caller], Coroutine[Any, Any, T]], *, good_for: float, most: int
    ) -> None:
        self._fetch = fetch
        self._good_for = good_for
        self._most = most
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._fetching: SingleFlight[T] = SingleFlight()

    async def of(self, caller: Caller) -> T:
        """Raises what `fetch` raises."""
        kept = self._kept.get(caller.id)
        if kept is not None and asyncio.get_running_loop().time() < kept[1]:
            return kept[0]
        return await self._fetching.run(caller.id, partial(self._fetched, caller))

    async def aclose(self) -> None:
        """Stop fetching."""
        await self._fetching.aclose()

    async def _fetched(self, caller: Caller) -> T:
        fetched = await self._fetch(caller)
        self._kept[caller.id] = fetched, asyncio.get_running_loop().time() + self._good_for
        self._kept.move_to_end(caller.id)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return fetched
