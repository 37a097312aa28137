"""Replicate as a provider: creates each prediction once, watches and cancels predictions, and uploads images.

- A creation has a timeout and a deadline (`Cancel-After`), so no prediction bills for ever, even if this service ends.
- A creation whose answer was lost is searched for before it counts as not made (`reconciliation.py`).
- A prediction is watched by polls (`watcher.py`); a result that Replicate pushes ends a watch, or a search, at once
  (`push.py`).

Each request goes through `client.py`, with a lease of the creation's admission or of the window for all others.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import structlog
from yarl import URL

from admission.durations import Durations
from auth import Caller
from catalog.references import Upload
from concurrency import Gate, Lease
from errors import OutcomeUnknown, TokenRejected, UpstreamError
from ledger.rivals import OtherAttempts
from loop_thread import finish
from network.proxies import Proxy
from providers import (
    AccountSource,
    Created,
    CreationRegistry,
    Limits,
    Measures,
    OnLate,
    Prediction,
    ProgressSource,
    Provider,
    PushedResult,
    PushReceiver,
    TryAgain,
    UncertainCreation,
    UpstreamState,
)
from providers.replicate.absence import SearchTiming
from providers.replicate.answers import Page, Unusable, is_placeholder
from providers.replicate.client import MAX_POLL, ReplicateClient, Timeouts
from providers.replicate.clock import UNKNOWN_SKEW
from providers.replicate.errors import is_about_token, may_have_arrived, seconds_to_wait
from providers.replicate.late_search import LateSearches
from providers.replicate.outputs import with_addresses_checked
from providers.replicate.push import read_push, signing_secrets
from providers.replicate.reconciliation import Creation, Creations
from providers.replicate.redaction import redaction_of
from providers.replicate.refusals import MISSING_PATIENCE, Refusals
from providers.replicate.sharing import Sharing
from providers.replicate.transport import (
    MAX_ANSWER,
    Connections,
    HeldBack,
    HttpConnections,
    Lost,
    NotSent,
    Refusal,
    TooLarge,
)
from providers.replicate.uploads import FIRST_PAUSE, Uploads
from providers.replicate.watcher import NoPages, PollFailed, Watcher, shows_result

CANCEL_PATIENCE = 30.0
"""Seconds for which cancelling a prediction is tried. After that, the prediction ends by its deadline."""

_CANCELS_AT_ONCE = 100
"""The most cancels at once, so that cancels that hang leave room for polls."""

log = structlog.get_logger("replicate")


@dataclass(frozen=True, slots=True)
class Timing:
    """Timeouts, and pauses between tries, in seconds."""

    timeouts: Timeouts = field(default_factory=Timeouts)
    search: SearchTiming = field(default_factory=SearchTiming)
    """The timing of the search for a lost creation."""
    cancel_pauses: Sequence[float] = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
    """Pauses after failed tries to cancel, unless a refusal states the wait."""
    upload_pause: float = FIRST_PAUSE
    """The longest pause before the second try to upload."""


class Replicate(Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource):
    """Create and close it on the loop that uses it. `others` is the window for all requests that create
    nothing. When one of them is answered, `on_answer` is called with the time at which it was sent.
    `may_send` is called just before the first byte of a creation; by default each may be sent. `elsewhere` are the
    attempts of other processes on the same ledger, if there may be any. `connections` carry the requests; by default
    they are opened here, through `proxy` if there is one.
    """

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        durations: Durations | None = None,
        timing: Timing | None = None,
        on_answer: Callable[[float], object] = lambda sent: None,
        may_send: Callable[[], bool] | None = None,
        elsewhere: OtherAttempts | None = None,
        connections: Connections | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        timing = timing or Timing()
        self._base_url = URL(base_url)
        self.limits = Limits(answer_timeout=timing.timeouts.create, clock_skew=UNKNOWN_SKEW)
        self._others = others
        self._on_answer = on_answer
        self._cancel_pauses = timing.cancel_pauses
        self._cancelling = asyncio.Semaphore(_CANCELS_AT_ONCE)
        self._client = ReplicateClient(
            base_url=base_url,
            timeouts=timing.timeouts,
            others=others,
            on_answer=on_answer,
            may_send=may_send,
            connections=connections or HttpConnections(proxy),
        )
        self.watcher = Watcher(
            places=others, get=self.poll, get_page=self._get_page, durations=durations or Durations()
        )
        self._refusals = Refusals(self._client.account)
        self._sharing = Sharing(is_known=lambda each: self.creations.is_known(each), elsewhere=elsewhere)
        self.creations = Creations(
            self._search,
            answer_timeout=timing.timeouts.create,
            clock=self._client.clock,
            timing=timing.search,
            elsewhere=elsewhere,
        )
        self._late_searches = LateSearches(self.creations)
        self._uploads = Uploads(self._send_file, first_pause=timing.upload_pause)
        self._secrets = signing_secrets(self._client.default_webhook_secret)

    @property
    def account_shared(self) -> bool:
        return self._sharing.is_seen

    @property
    def clock_skew(self) -> float | None:
        return self._client.clock.skew

    @property
    def measured(self) -> Measures:
        return Measures(self.clock_skew, self.creations.lags)

    def learn(self, measured: Measures) -> None:
        self.creations.learn(measured)

    @property
    def upstream(self) -> UpstreamState:
        return self._client.health.state

    async def upload(self, caller: Caller, upload: Upload) -> str:
        return await self._uploads.address(caller, upload)

    async def create(
        self,
        caller: Caller,
        model: str,
        sent: Mapping[str, Any],
        *,
        content: str,
        lease: Lease,
        cancel_after: float,
        reference: str,
        callback: str | None = None,
        on_late: OnLate | None = None,
    ) -> Created:
        sent_at = asyncio.get_running_loop().time()
        is_made = False
        self._sharing.begin(content)
        with self.creations.begin(caller, model, content, reference=reference, since=time.time()) as creation:
            try:
                created = await finish(
                    self._client.create_prediction(
                        caller, model, sent, lease=lease, cancel_after=cancel_after, webhook=callback
                    )
                )
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
                    raise await self._refusals.creation_error(refusal, caller) from None
                reason = str(refusal)
            except Lost as lost:
                reason, is_made = str(lost), isinstance(lost, Unusable)
            else:
                lease.answered()
                creation.answered(created.prediction)
                self._sharing.created(caller, created.prediction, sent=sent_at)
                if creation.pushed and creation.pushed.id == created.prediction.id:
                    self.watcher.receive(creation.pushed)
                return created
            lease.lost()
            if is_made:  # it was answered, but the answer cannot be used
                self._on_answer(asyncio.get_running_loop().time())
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
    ) -> Created:
        self._sharing.begin(content)
        with self.creations.begin(
            caller, model, content, reference=reference, since=since, skew=skew
        ) as creation:
            search = self._found(creation, on_late, believes_refusals=True)
            return await _adopted(search, is_made=False)

    async def _searched(
        self, creation: Creation, lease: Lease, on_late: OnLate | None, *, is_made: bool
    ) -> Created:
        """The prediction of a creation whose answer was lost."""
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

    async def wait(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        return self._checked(caller, await self.watcher.wait(caller, prediction, model=model))

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        return self.watcher.follow(prediction_id, listener)

    async def account_of(self, caller: Caller) -> str | None:
        account = await self._client.account(caller)
        if account.status == "refused":
            raise TokenRejected
        return (account.username or "") if account.status == "accepted" else None

    async def webhook_secret(self, caller: Caller) -> str:
        return await self._secrets.get(caller)

    def read_push(
        self, headers: Mapping[str, str], body: bytes, secret: str, caller: Caller | None = None
    ) -> PushedResult:
        return read_push(headers, body, secret, redaction_of(caller, secret) if caller else None)

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
        for pause in (*self._cancel_pauses, math.inf):
            try:
                async with self._cancelling:
                    with await self._others.acquire(caller.turn) as lease:
                        give_up = min(give_up, clock() + CANCEL_PATIENCE)
                        ended = await self._client.cancel_prediction(caller, prediction.id, lease=lease)
                        return self._checked(caller, replace(ended, form=prediction.form))
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
        await self._secrets.aclose()
        await self._refusals.aclose()
        await self.watcher.aclose()
        await self._late_searches.aclose()
        await self.creations.aclose()
        await self._client.aclose()

    def _checked(self, caller: Caller, prediction: Prediction) -> Prediction:
        return with_addresses_checked(prediction, upstream=self._base_url, redact=redaction_of(caller))

    async def _list(
        self, caller: Caller, query: str, *, lease: Lease | None = None, max_answer: int = MAX_ANSWER
    ) -> Page:
        page = await self._client.list_predictions(caller, query, lease=lease, max_answer=max_answer)
        await self._sharing.listed(caller, page)
        return page

    async def poll(self, caller: Caller, prediction_id: str, lease: Lease) -> Prediction:
        """The prediction as it is now. Raises PollFailed if a later poll may find out more."""
        try:
            if (query := self._sharing.query(caller)) is not None:
                with suppress(Refusal, NotSent, Lost):
                    page = await self._list(caller, query, lease=lease, max_answer=MAX_POLL)
                    found = page.predictions.get(prediction_id)
                    if found is not None and (shows_result(found) or not found.is_over):
                        return found
                with await self._others.acquire(caller.turn, batch="polls") as another:
                    return await self._client.get_prediction(caller, prediction_id, lease=another)
            return await self._client.get_prediction(caller, prediction_id, lease=lease)
        except TooLarge:
            raise PollFailed(
                UpstreamError("Replicate's response was too large."), patience=MISSING_PATIENCE
            ) from None
        except Refusal as refusal:
            raise await self._refusals.poll_error(refusal, caller) from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None

    async def _get_page(self, caller: Caller, before: datetime, lease: Lease) -> Page:
        query = urlencode({"created_before": before.isoformat().replace("+00:00", "Z")})
        try:
            return await self._list(caller, query, lease=lease, max_answer=MAX_POLL)
        except Refusal as refusal:
            failed = await self._refusals.poll_error(refusal, caller)
            # A final refusal: each prediction is polled by itself, and its answer gives the reason.
            raise failed if isinstance(failed, PollFailed) else NoPages from None
        except TooLarge:
            raise NoPages from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None

    async def _search(self, caller: Caller, query: str) -> Page:
        return await self._refusals.checked(caller, self._list(caller, query))

    async def _send_file(self, caller: Caller, upload: Upload) -> str:
        return await self._refusals.checked(caller, self._client.create_file(caller, upload))


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
