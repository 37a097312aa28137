"""Single flight: callers that need the same answer at the same time share one task."""

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
        """Return the result of the task of this key; the task is started if none is running. Raises what the
        task raises."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(begin())
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(
            task
        )  # the task is shared: cancelling one caller must not cancel the others

    async def aclose(self) -> None:
        """Cancel all tasks, and wait for their ends."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: str, task: "asyncio.Task[T]") -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # retrieve the exception, so that asyncio does not log it if no caller is left


def account(caller: Caller) -> str:
    """The account of a caller, while no token is replaced."""
    return caller.account


class SharedAnswers(SingleFlight[T]):
    """The answers of `fetch(caller)` for the last `most` accounts, each kept for `good_for` seconds. A failure is not
    kept. `payer_of` identifies the account of a caller."""

    def __init__(
        self,
        fetch: Callable[[Caller], Coroutine[Any, Any, T]],
        *,
        good_for: float,
        most: int,
        payer_of: Callable[[Caller], str] = account,
    ) -> None:
        super().__init__()
        self._fetch = fetch
        self._payer_of = payer_of
        self._good_for = good_for
        self._most = most
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()

    async def get(self, caller: Caller) -> T:
        """The answer for this caller. Raises what `fetch` raises."""
        payer = self._payer_of(caller)
        answer, until = self._kept.get(payer, (None, 0.0))
        if answer is not None and asyncio.get_running_loop().time() < until:
            return answer
        return await self.run(payer, partial(self._fetch_and_keep, payer, caller))

    async def _fetch_and_keep(self, payer: str, caller: Caller) -> T:
        answer = await self._fetch(caller)
        self._kept[payer] = answer, asyncio.get_running_loop().time() + self._good_for
        self._kept.move_to_end(payer)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return answer
