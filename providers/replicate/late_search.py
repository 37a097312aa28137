"""Searches for predictions that appear after their creation was settled as never arrived or as unknown.

A request may wait in a server that has stopped for longer than any search. If it is served after all, its prediction
runs and is billed. So the list is read a few more times in the next quarter of an hour, and a webhook may name the
prediction at any time in between. A prediction that is found is registered, and passed to the `listener` once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from errors import ServiceError
from providers import Prediction
from providers.pushes import PushedResult
from providers.replicate.reconciliation import Creation, Creations

_KEPT: Final = 1_000

log = structlog.get_logger("replicate")

Listener = Callable[[Prediction], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _LateSearch:
    creation: Creation
    listener: Listener


class LateSearches:
    """The settled creations whose predictions may still appear. Belongs to one loop."""

    def __init__(self, creations: Creations) -> None:
        self._creations = creations
        self._expected: dict[str, _LateSearch] = {}
        """By reference."""
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, creation: Creation, listener: Listener) -> None:
        """Begin to search for the prediction of this creation."""
        if len(self._expected) < _KEPT:
            search = self._expected[creation.reference] = _LateSearch(creation, listener)
            self._creations.late.add(creation)
            self._start(self._search_later(search))

    def receive_push(self, reference: str, pushed: PushedResult) -> bool:
        """Use a webhook that names the prediction of an attempt. Returns whether a search expected it."""
        search = self._expected.get(reference)
        if search is None or not search.creation.is_mine(pushed):
            return False
        self._start(self._handle_found(search, pushed.prediction))
        return True

    async def aclose(self) -> None:
        """Cancel all searches."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _search_later(self, search: _LateSearch) -> None:
        creation = search.creation
        try:
            for pause in self._creations.timing.late:
                await asyncio.sleep(pause)
                if self._expected.get(creation.reference) is not search:
                    return
                if (found := await self._found(creation)) is not None:
                    await self._handle_found(search, found)
                    return
        except Exception:
            log.exception("late_prediction_search_failed", model=creation.model, caller=creation.caller_id)
        finally:
            self._forget(search)

    async def _found(self, creation: Creation) -> Prediction | None:
        """The prediction that matches. None if an uncertain creation may have made it, or if more predictions
        match than late searches have the same input."""
        try:
            listing, _ = await creation.read_list()
        except ServiceError:
            return None
        settled = await creation.settle_with_others(listing) if listing else None
        if listing is None or settled is None:
            return None
        uncertain, _ = settled
        matches = creation.matches(listing)
        alike = sum(each.creation.key == creation.key for each in self._expected.values())
        return matches[0] if not uncertain and 1 <= len(matches) <= alike else None

    async def _handle_found(self, search: _LateSearch, found: Prediction) -> None:
        if self._forget(search):
            creation = search.creation
            self._creations.register_known(found.id, creation.reference)
            log.warning(
                "late_prediction_found",
                prediction=found.id,
                model=creation.model,
                caller=creation.caller_id,
            )
            try:
                await search.listener(found)
            except Exception:
                log.exception(
                    "late_prediction_search_failed", model=creation.model, caller=creation.caller_id
                )

    def _forget(self, search: _LateSearch) -> bool:
        """End the search. Returns whether it was still under way."""
        is_expected = self._expected.get(search.creation.reference) is search
        if is_expected:
            del self._expected[search.creation.reference]
            self._creations.late.discard(search.creation)
        return is_expected
