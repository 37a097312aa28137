"""Answers that many need at once: each is fetched once for all of them, and kept for a while."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from auth import Caller

T = TypeVar("T")


class Shared(Generic[T]):
    """What `fetch(caller)` returned for the `most` callers that needed it last, each for `good_for` seconds. A failure
    is not kept."""

    def __init__(
        self, fetch: Callable[[Caller], Coroutine[Any, Any, T]], *, good_for: float, most: int
    ) -> None:
        self._fetch = fetch
        self._good_for = good_for
        self._most = most
        self._kept: OrderedDict[str, tuple[T, float]] = OrderedDict()
        self._fetching: dict[str, asyncio.Task[T]] = {}

    async def of(self, caller: Caller) -> T:
        """Raises what `fetch` raises."""
        kept = self._kept.get(caller.id)
        if kept is not None and asyncio.get_running_loop().time() < kept[1]:
            return kept[0]
        fetching = self._fetching.get(caller.id)
        if fetching is None:
            fetching = self._fetching[caller.id] = asyncio.create_task(self._fetch(caller))
            fetching.add_done_callback(lambda done: self._fetched(caller, done))
        return await asyncio.shield(fetching)  # it is shared: one caller's cancellation is not the others'

    async def aclose(self) -> None:
        """Stop fetching."""
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)

    def _fetched(self, caller: Caller, done: "asyncio.Task[T]") -> None:
        del self._fetching[caller.id]
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[caller.id] = done.result(), asyncio.get_running_loop().time() + self._good_for
        self._kept.move_to_end(caller.id)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
