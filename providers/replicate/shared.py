"""Answers that many need at once: each is fetched once for all of them, and kept for a while."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Generic, TypeVar

from auth import Caller
from providers.single_flight import SingleFlight

T = TypeVar("T")


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
