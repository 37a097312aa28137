"""Predictions that turn up after their creation was settled without them: as never arrived, or as unknown.

A request may wait in a server that has stopped for longer than any search. If it is served after all, its prediction
runs and is billed. So the list is looked at now and then for another quarter of an hour, and a webhook may name it at
any time in between. A prediction that turns up is registered, and handed to the `listener` of its creation, once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from errors import ServiceError
from providers import Prediction, PushedResult
from providers.replicate.reconciliation import Creation, Creations

_KEPT: Final = 1_000

log = structlog.get_logger("replicate")

Listener = Callable[[Prediction], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Straggler:
    creation: Creation
    listener: Listener


class Stragglers:
    """The settled creations whose predictions may yet turn up. Belongs to one loop."""

    def __init__(self, creations: Creations) -> None:
        self._creations = creations
        self._expected: dict[str, _Straggler] = {}
        """By reference."""
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, creation: Creation, listener: Listener) -> None:
        """Look for the prediction of this creation from now on."""
        if len(self._expected) < _KEPT:
            straggler = self._expected[creation.reference] = _Straggler(creation, listener)
            self._start(self._look_for(straggler))

    def receive_push(self, reference: str, pushed: PushedResult) -> bool:
        """A webhook names the prediction of an attempt. Returns whether it was expected."""
        straggler = self._expected.get(reference)
        if straggler is None or not straggler.creation.is_mine(pushed):
            return False
        self._start(self._turned_up(straggler, pushed.prediction))
        return True

    async def aclose(self) -> None:
        """Stop looking."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_for(self, straggler: _Straggler) -> None:
        creation = straggler.creation
        try:
            for pause in self._creations.timing.late:
                await asyncio.sleep(pause)
                if self._expected.get(creation.reference) is not straggler:
                    return
                if (found := await self._found(creation)) is not None:
                    await self._turned_up(straggler, found)
                    return
        except Exception:
            log.exception(
                "late_prediction_search_failed", model=creation.content[1], caller=creation.caller_id
            )
        finally:
            self._forget(straggler)

    async def _found(self, creation: Creation) -> Prediction | None:
        """Its prediction, if no creation in doubt can have made it, and there is one for each straggler like it."""
        try:
            look, _ = await creation.look()
        except ServiceError:
            return None
        in_doubt, _ = await creation.alike_in_doubt()
        matches = creation.matches(look) if look else []
        alike = sum(each.creation.content == creation.content for each in self._expected.values())
        return matches[0] if not in_doubt and 1 <= len(matches) <= alike else None

    async def _turned_up(self, straggler: _Straggler, found: Prediction) -> None:
        if self._forget(straggler):
            creation = straggler.creation
            self._creations.register_known(found.id, creation.reference)
            log.warning(
                "late_prediction_found",
                prediction=found.id,
                model=creation.content[1],
                caller=creation.caller_id,
            )
            try:
                await straggler.listener(found)
            except Exception:
                log.exception(
                    "late_prediction_search_failed", model=creation.content[1], caller=creation.caller_id
                )

    def _forget(self, straggler: _Straggler) -> bool:
        """Whether it was expected until now."""
        is_expected = self._expected.get(straggler.creation.reference) is straggler
        if is_expected:
            del self._expected[straggler.creation.reference]
        return is_expected
