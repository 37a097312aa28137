"""Replicate as a provider: creations that happen once, watched predictions, cancels and uploads.

- A creation has a timeout and a deadline (`Cancel-After`), so no prediction bills for ever, even if this service ends.
- A creation whose answer was lost is searched for before it counts as not made (`reconciliation.py`).
- A prediction is watched by polls (`watcher.py`); a result that Replicate pushes ends a watch, or a search, at once
  (`push.py`).

Each request goes through `client.py`, with a lease of the creation's admission or of the window for all others.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import structlog

from admission.durations import Durations
from auth import Caller
from catalog.references import Upload
from concurrency import Gate, Lease
from errors import UpstreamError
from providers import (
    Created,
    CreationRegistry,
    Limits,
    Prediction,
    ProgressSource,
    Provider,
    PushedResult,
    PushReceiver,
    TryAgain,
    UncertainCreation,
    fingerprint,
)
from providers.replicate.answers import Page, read_page
from providers.replicate.client import MAX_POLL, ReplicateClient, Timeouts
from providers.replicate.errors import raise_if_settled, seconds_to_wait, service_error
from providers.replicate.push import Secrets, read_push
from providers.replicate.reconciliation import CLOCK_SKEW, PATIENCE, SEARCH_PAUSES, Creations
from providers.replicate.transport import Lost, NotSent, Refusal, TooLarge
from providers.replicate.uploads import FIRST_PAUSE, Uploads
from providers.replicate.watcher import NoPages, PollFailed, Watcher

_MISSING_PATIENCE = 10.0
"""Seconds. A prediction that no poll has found for so long is gone."""

_RATE_LIMIT_WAIT = 5.0
"""Seconds without polls of an account after a 429 that does not say how long to wait."""

CANCEL_PATIENCE = 30.0
"""Seconds from the first try to cancel a prediction. After them it is left to its deadline."""

_CANCELS_AT_ONCE = 100
"""Bounded, so that cancels that hang leave room for polls."""

log = structlog.get_logger("replicate")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: timeouts, and pauses between tries."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    search_pauses: Sequence[float] = SEARCH_PAUSES
    """Before each search for a lost creation."""
    cancel_pauses: Sequence[float] = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    """After each try to cancel that failed, unless a refusal says how long."""
    upload_pause: float = FIRST_PAUSE
    """Before a second try to upload, at most."""


class Replicate(Provider, PushReceiver, CreationRegistry, ProgressSource):
    """Make it and close it on the loop that uses it.

    `others` is the window for all requests that create nothing; `connections` carry the requests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        durations: Durations | None = None,
        timing: Timing | None = None,
        connections: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timing = timing or Timing()
        self.limits = Limits(answer_timeout=timing.timeouts.create, clock_skew=CLOCK_SKEW.total_seconds())
        self._others = others
        self._cancel_pauses = timing.cancel_pauses
        self._cancelling = asyncio.Semaphore(_CANCELS_AT_ONCE)
        self._client = ReplicateClient(
            base_url=base_url, timeouts=timing.timeouts, others=others, connections=connections
        )
        self._watcher = Watcher(
            places=others, get=self._get, get_page=self._get_page, durations=durations or Durations()
        )
        self._creations = Creations(self._client.list_predictions, pauses=timing.search_pauses)
        self._uploads = Uploads(self._client.create_file, first_pause=timing.upload_pause)
        self._secrets = Secrets(self._client.default_webhook_secret)

    async def upload(self, caller: Caller, upload: Upload) -> str:
        return await self._uploads.address(caller, upload)

    async def create(
        self,
        caller: Caller,
        model: str,
        sent: Mapping[str, Any],
        *,
        lease: Lease,
        cancel_after: float,
        reference: str,
        callback: str | None = None,
    ) -> Created:
        content = fingerprint(sent)
        with self._creations.begin(
            caller, model, content, reference=reference, since=time.time()
        ) as creation:
            try:
                created = await self._client.create_prediction(
                    caller, model, sent, lease=lease, cancel_after=cancel_after, webhook=callback
                )
            except NotSent:
                raise TryAgain(UpstreamError("Replicate cannot be reached."), unreachable=True) from None
            except Refusal as refusal:
                raise_if_settled(refusal, caller)
                reason = str(refusal)
            except Lost as lost:
                reason = str(lost)
            else:
                creation.answered(created.prediction.id)
                if creation.pushed and creation.pushed.id == created.prediction.id:
                    self._watcher.receive(creation.pushed)
                return created
            log.warning("creation_uncertain", reason=reason, model=model, caller=caller.id)
            return Created(await creation.find())

    async def recover(
        self,
        caller: Caller,
        model: str,
        *,
        content: str,
        since: float,
        reference: str,
        patience: float = PATIENCE,
    ) -> Created:
        """`patience`: how many seconds to repeat a search that Replicate does not answer."""
        with self._creations.begin(caller, model, content, reference=reference, since=since) as creation:
            return Created(await creation.find(patience=patience, on_its_way=self.limits.answer_timeout))

    def register_uncertain(self, creation: UncertainCreation) -> None:
        self._creations.register_uncertain(creation)

    def register_known(self, ids: Iterable[str]) -> None:
        for prediction_id in ids:
            self._creations.register_known(prediction_id)

    async def wait(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        return await self._watcher.wait(caller, prediction, model=model)

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        return self._watcher.follow(prediction_id, listener)

    async def webhook_secret(self, caller: Caller) -> str:
        return await self._secrets.of(caller)

    def read_push(self, headers: Mapping[str, str], body: bytes, secret: str) -> PushedResult:
        return read_push(headers, body, secret)

    def receive_push(self, reference: str, pushed: PushedResult) -> None:
        """During a creation, a message concerns this attempt alone, even if it names another prediction."""
        creation = self._creations.of(reference)
        if creation is not None:
            creation.receive_push(pushed)
        elif self._creations.may_be(pushed.prediction.id, reference):
            self._watcher.receive(pushed.prediction)

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        clock = asyncio.get_running_loop().time
        give_up = math.inf
        for pause in (*self._cancel_pauses, math.inf):
            try:
                async with self._cancelling:
                    with await self._others.acquire(caller.id) as lease:
                        give_up = min(give_up, clock() + CANCEL_PATIENCE)
                        return await self._client.cancel_prediction(caller, prediction.id, lease=lease)
            except Refusal as refusal:
                if refusal.status in {401, 403, 404, 422}:
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
        await self._secrets.aclose()
        await self._watcher.aclose()
        await self._client.aclose()

    async def _get(self, caller: Caller, prediction_id: str, lease: Lease) -> Prediction:
        try:
            return await self._client.get_prediction(caller, prediction_id, lease=lease)
        except TooLarge:
            raise PollFailed(
                UpstreamError("Replicate answered too much."), patience=_MISSING_PATIENCE
            ) from None
        except Refusal as refusal:
            if refusal.status == 404:
                raise PollFailed(service_error(refusal, caller), patience=_MISSING_PATIENCE) from None
            raise _poll_failed(refusal, caller) from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None

    async def _get_page(self, caller: Caller, before: datetime, lease: Lease) -> Page:
        query = urlencode({"created_before": before.isoformat().replace("+00:00", "Z")})
        try:
            return read_page(
                await self._client.list_predictions(caller, query, lease=lease, max_answer=MAX_POLL)
            )
        except Refusal as refusal:
            failed = _poll_failed(refusal, caller)
            # Refused for good: each is polled by itself, and its answer says why.
            raise failed if isinstance(failed, PollFailed) else NoPages from None
        except TooLarge:
            raise NoPages from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None


def _poll_failed(refusal: Refusal, caller: Caller) -> Exception:
    """A PollFailed for what passes; for anything else the error that ends the watch."""
    error = service_error(refusal, caller)
    if refusal.status == 429:
        return PollFailed(error, wait=seconds_to_wait(refusal) or _RATE_LIMIT_WAIT)
    if refusal.status == 408 or refusal.status >= 500:
        return PollFailed(error, wait=seconds_to_wait(refusal) or 0.0)
    return error
