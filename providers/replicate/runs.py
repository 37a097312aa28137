"""Creates each prediction or training once, watches, searches for and cancels it.

- A creation has a timeout. After a lost answer it is searched for before it counts as not made
  (`reconciliation.py`).
- Each is watched by polls (`watcher.py`); a result that Replicate pushes ends a watch, or a search, at once
  (`push.py`).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any, Final

import structlog

from auth import Caller
from catalog.targets import Target
from concurrency import Lease
from errors import OutcomeUnknown, ServiceError, UpstreamError
from loop_thread import finish
from providers import (
    Created,
    Measures,
    OnLate,
    Prediction,
    TryAgain,
    UncertainCreation,
    UpstreamState,
)
from providers.connections import HeldBack, Lost, NotSent
from providers.pushes import PushedResult
from providers.replicate.access import Access
from providers.replicate.answers import Unusable, is_placeholder
from providers.replicate.errors import is_about_token, may_have_arrived, seconds_to_wait
from providers.replicate.late_search import LateSearches
from providers.replicate.outputs import with_addresses_checked
from providers.replicate.push import read_push
from providers.replicate.reconciliation import Creation, Creations
from providers.replicate.resources import Resource
from providers.replicate.sharing import Sharing, Unshared
from providers.replicate.transport import Refusal
from providers.replicate.watcher import Watcher

_CANCELS_AT_ONCE: Final = 100
"""The most cancels at once, so that cancels that hang leave room for polls."""

log = structlog.get_logger("replicate")


class Runs:
    """Runs the predictions or trainings of `resource`. `refused` returns the error for a creation that was refused
    because of its target, or None. `sharing` learns of each creation. Cancelling one is tried for `cancel_patience`
    seconds at most, after the usual pauses every `cancel_pause` seconds. Everything is of one loop.
    """

    def __init__(
        self,
        access: Access,
        *,
        resource: Resource,
        watcher: Watcher,
        creations: Creations,
        refused: Callable[[Refusal, Target], ServiceError | None],
        sharing: Sharing | Unshared,
        cancel_patience: float,
        cancel_pause: float = math.inf,
    ) -> None:
        self.limits = access.limits
        self.watcher = watcher
        self.creations = creations
        self._access = access
        self._resource = resource
        self._refused = refused
        self._sharing = sharing
        self._cancel_pause = cancel_pause
        self._cancel_patience = cancel_patience
        self._late_searches = LateSearches(creations)
        self._cancelling = asyncio.Semaphore(_CANCELS_AT_ONCE)

    @property
    def clock_skew(self) -> float | None:
        return self._access.client.clock.skew

    @property
    def measured(self) -> Measures:
        return Measures(self.clock_skew, self.creations.lags)

    def learn(self, measured: Measures) -> None:
        self.creations.learn(measured)

    @property
    def upstream(self) -> UpstreamState:
        return self._access.client.health.state

    async def account_of(self, caller: Caller) -> str | None:
        return await self._access.account_of(caller)

    async def create_by(
        self,
        request: Coroutine[Any, Any, Created],
        caller: Caller,
        model: str,
        *,
        content: str,
        lease: Lease,
        reference: str,
        on_late: OnLate | None,
        hidden: Collection[str],
    ) -> Created:
        """Make a creation by this request, which sends the secret inputs `hidden`. All else is as for
        `Provider.create`."""
        sent_at, is_made = asyncio.get_running_loop().time(), False
        self._sharing.begin(content, hidden)
        with self.creations.begin(
            caller, model, content, reference=reference, since=time.time(), hidden=hidden
        ) as creation:
            try:
                created = await finish(request)
            except HeldBack:
                log.warning("creation_held_back", model=model, caller=caller.id)
                raise TryAgain.as_held_back() from None
            except NotSent as error:
                log.info("creation_not_sent", reason=str(error), model=model, caller=caller.id)
                raise TryAgain(UpstreamError("Replicate cannot be reached."), unreachable=True) from None
            except Refusal as refusal:
                self._sharing.refused(caller, refusal, lease)
                if not may_have_arrived(refusal):
                    lease.answered()
                    known = self._refused(refusal, Target.parse(model))
                    raise known or await self._access.refusals.creation_error(refusal, caller) from None
                reason = str(refusal)
            except Lost as lost:
                reason, is_made = str(lost), isinstance(lost, Unusable)
            else:
                lease.answered()
                self._sharing.created(caller, created.prediction, sent=sent_at)
                creation.answered(created.prediction)
                if creation.pushed and creation.pushed.id == created.prediction.id:
                    self.watcher.receive(creation.pushed)
                return created
            lease.lost()
            log.warning("creation_uncertain", reason=reason, made=is_made, model=model, caller=caller.id)
            return await self._searched(creation, lease, on_late, is_made=is_made)

    async def recover(
        self,
        caller: Caller,
        model: str,
        *,
        content: str,
        since: float,
        reference: str,
        skew: float | None = None,
        on_late: OnLate | None = None,
        hidden: Collection[str] = (),
    ) -> Created:
        self._sharing.begin(content, hidden)
        with self.creations.begin(
            caller, model, content, reference=reference, since=since, skew=skew, hidden=hidden
        ) as creation:
            search = self._found(creation, on_late, believes_refusals=True)
            return await _adopted(search, is_made=False)

    async def _searched(
        self, creation: Creation, lease: Lease, on_late: OnLate | None, *, is_made: bool
    ) -> Created:
        """The prediction of a creation whose answer was lost."""
        if is_made:  # it was answered, but the answer cannot be used
            self._access.on_answer(asyncio.get_running_loop().time())
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError  # cancelled while its answer was awaited: the next process searches for it
        found = await _adopted(self._found(creation, on_late), is_made=is_made)
        lease.answered()
        return found

    async def _found(
        self, creation: Creation, on_late: OnLate | None, *, believes_refusals: bool = False
    ) -> Prediction:
        try:
            return await creation.find(believes_refusals=believes_refusals)
        except (TryAgain, OutcomeUnknown):
            if on_late is not None:
                self._late_searches.expect(creation, on_late)
            raise

    def register_uncertain(self, creation: UncertainCreation) -> None:
        self.creations.register_uncertain(creation)

    def register_known(self, ids: Iterable[str]) -> None:
        for prediction_id in ids:
            self.creations.register_known(prediction_id)

    async def wait(self, caller: Caller, prediction: Prediction, *, model: str, **looks: Any) -> Prediction:
        return self._checked(caller, await self.watcher.wait(caller, prediction, model=model, **looks))

    def follow(
        self, prediction_id: str, listener: Callable[[Prediction], object], *, eager: bool = True
    ) -> Callable[[], None]:
        return self.watcher.follow(prediction_id, listener, eager=eager)

    async def webhook_secret(self, caller: Caller) -> str:
        return await self._access.webhook_secrets.get(caller)

    def read_push(
        self, headers: Mapping[str, str], body: bytes, secret: str, caller: Caller | None = None
    ) -> PushedResult:
        redact = self._access.client.secrets.redaction(caller, secret) if caller else None
        read, origin_of = self._resource.read, self._resource.origin_of
        return read_push(headers, body, secret, redact, read=read, origin_of=origin_of)

    def receive_late(self, reference: str, pushed: PushedResult) -> bool:
        return self._late_searches.receive_push(reference, pushed)

    def receive_push(self, reference: str, pushed: PushedResult) -> None:
        """During a creation, a message concerns this attempt alone, even if it names another prediction."""
        creation = self.creations.by_reference(reference)
        if creation is not None:
            creation.receive_push(pushed)
        elif self.creations.may_be(pushed.prediction.id, reference):
            self.watcher.receive(pushed.prediction)

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        clock = asyncio.get_running_loop().time
        give_up = math.inf
        refusals = 0
        for pause in chain(self._access.timing.cancel_pauses, repeat(self._cancel_pause)):
            try:
                async with self._cancelling:
                    with await self._access.others.acquire(caller.turn) as lease:
                        give_up = min(give_up, clock() + self._cancel_patience)
                        shown = await self._resource.cancel(caller, prediction.id, lease=lease)
                ended = replace(shown, form=prediction.form)
                if ended.is_over:  # otherwise another answer shows its end, and its bill
                    return self._checked(caller, ended)
            except Refusal as refusal:
                refusals += is_about_token(refusal)  # the first refusal may be temporary
                if refusals > 1 or (refusal.is_replicates and refusal.status in {404, 422}):
                    break
                pause = max(pause, seconds_to_wait(refusal) or 0.0)
            except (NotSent, Lost):
                pass
            if clock() + pause > give_up:
                break
            await asyncio.sleep(pause)
        log.warning("cancel_failed", prediction=prediction.id, caller=caller.id)
        return None

    async def aclose(self) -> None:
        """Stop watching and searching. All waits must have ended."""
        await self.watcher.aclose()
        await self._late_searches.aclose()
        await self.creations.aclose()

    def _checked(self, caller: Caller, prediction: Prediction) -> Prediction:
        redact = self._access.client.secrets.redaction(caller)
        return with_addresses_checked(prediction, upstream=self._access.base_url, redact=redact)


async def _adopted(search: Awaitable[Prediction], *, is_made: bool) -> Created:
    """The prediction that a search finds. If the prediction `is_made` for certain but its id cannot be used,
    raises OutcomeUnknown, whether or not the search finds it."""
    try:
        found = await search
    except TryAgain:
        if not is_made:
            raise
    else:
        if not is_placeholder(found.id):
            return Created(found)
    log.error("prediction_id_unusable")
    raise OutcomeUnknown(
        "Replicate created the prediction with an unusable id. It ends by its deadline, and may have been "
        "paid for."
    )
