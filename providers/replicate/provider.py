"""Replicate as a provider: creates each prediction once, watches and cancels predictions, and uploads images.

- A creation has a timeout and a deadline (`Cancel-After`), so no prediction bills for ever, even if this service ends.
- A creation whose answer was lost is searched for before it counts as not made (`reconciliation.py`).
- A prediction is watched by polls (`watcher.py`); a result that Replicate pushes ends a watch, or a search, at once
  (`push.py`).

Models, versions and deployments are looked up (`model_lookups.py`), but nothing is kept of them.

Each request goes through `client.py`, with a lease of the creation's admission or of the window for all others.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    NO_SECRETS,
    AccountSource,
    Created,
    CreationRegistry,
    Limits,
    Measures,
    OnLate,
    Prediction,
    ProgressSource,
    Provider,
    TryAgain,
    UncertainCreation,
    UpstreamState,
)
from providers.connections import HeldBack, Lost, NotSent
from providers.fingerprints import fingerprint
from providers.models import ListedVersion, ModelFacts, ModelSource
from providers.pushes import PushedResult, PushReceiver
from providers.replicate.absence import SearchTiming
from providers.replicate.answers import Unusable, is_placeholder
from providers.replicate.client import ReplicateClient, Timeouts
from providers.replicate.clock import UNKNOWN_SKEW
from providers.replicate.errors import is_about_token, may_have_arrived, seconds_to_wait
from providers.replicate.late_search import LateSearches
from providers.replicate.model_lookups import ModelLookups
from providers.replicate.outputs import with_addresses_checked
from providers.replicate.polls import Polls
from providers.replicate.push import read_push, signing_secrets
from providers.replicate.reconciliation import Creation, Creations
from providers.replicate.refusals import Refusals
from providers.replicate.sharing import Sharing
from providers.replicate.transport import Connections, HttpConnections, Refusal
from providers.replicate.uploads import FIRST_PAUSE, Uploads
from providers.replicate.watcher import Watcher
from providers.server_tokens import ServerTokens

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


class Replicate(Provider, PushReceiver, CreationRegistry, ProgressSource, AccountSource, ModelSource):
    """Create and close it on the loop that uses it. `others` is the window for all requests that create
    nothing. When one of them is answered, `on_answer` is called with the time at which it was sent.
    `may_send` is called just before the first byte of a creation; by default each may be sent. `elsewhere` are the
    attempts of other processes on the same ledger, if there may be any. `connections` carry the requests; by default
    they are opened here, through `proxy` if there is one.
    """

    uploads_early = True

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
        tokens: ServerTokens | None = None,
    ) -> None:
        timing, self.tokens = timing or Timing(), tokens or ServerTokens(None)
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
            tokens=self.tokens,
        )
        self._refusals = Refusals(self._client.account, self._client.secrets.redaction)
        self._models = ModelLookups(self._client, self._refusals)
        self._sharing = Sharing(is_known=lambda each: self.creations.is_known(each), elsewhere=elsewhere)
        polls = Polls(self._client, others=others, refusals=self._refusals, sharing=self._sharing)
        self.poll = polls.get
        self.watcher = Watcher(
            places=others, get=polls.get, get_page=polls.get_page, durations=durations or Durations()
        )
        self.creations = Creations(
            polls.search,
            answer_timeout=timing.timeouts.create,
            clock=self._client.clock,
            timing=timing.search,
            elsewhere=elsewhere,
            payer_of=self.tokens.payer_of,
        )
        self._late_searches = LateSearches(self.creations)
        self._uploads = Uploads(self._send_file, first_pause=timing.upload_pause)
        self._secrets = signing_secrets(self._client.default_webhook_secret, self.tokens.payer_of)

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

    def content_of(self, sent: Mapping[str, Any]) -> str:
        return fingerprint(sent)

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
        secrets: Mapping[str, str] = NO_SECRETS,
    ) -> Created:
        sent_at, is_made = asyncio.get_running_loop().time(), False
        self._sharing.begin(content, secrets.keys())
        self._client.secrets.add(caller, secrets.values())
        webhook = None if secrets else callback
        request = self._client.create_prediction(
            caller, model, {**sent, **secrets}, lease=lease, cancel_after=cancel_after, webhook=webhook
        )
        with self.creations.begin(
            caller, model, content, reference=reference, since=time.time(), hidden=secrets.keys()
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
                    raise await self._refusals.creation_error(refusal, caller, model) from None
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
            self._on_answer(asyncio.get_running_loop().time())
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

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        return self.watcher.follow(prediction_id, listener)

    async def account_of(self, caller: Caller) -> str | None:
        account = await self._client.account(caller)
        if account.status == "refused":
            raise TokenRejected
        return (account.username or "") if account.status == "accepted" else None

    async def find_model(self, caller: Caller, name: str) -> ModelFacts | None:
        return await self._models.find_model(caller, name)

    async def find_version(self, caller: Caller, name: str, version: str) -> ModelFacts | None:
        return await self._models.find_version(caller, name, version)

    async def find_deployment(self, caller: Caller, name: str) -> ModelFacts | None:
        return await self._models.find_deployment(caller, name)

    async def find_versions(self, caller: Caller, name: str) -> Sequence[ListedVersion] | None:
        return await self._models.find_versions(caller, name)

    async def search_models(self, caller: Caller, query: str) -> Sequence[ModelFacts]:
        return await self._models.search_models(caller, query)

    async def webhook_secret(self, caller: Caller) -> str:
        return await self._secrets.get(caller)

    def read_push(
        self, headers: Mapping[str, str], body: bytes, secret: str, caller: Caller | None = None
    ) -> PushedResult:
        redact = self._client.secrets.redaction(caller, secret) if caller else None
        return read_push(headers, body, secret, redact)

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
                        shown = await self._client.cancel_prediction(caller, prediction.id, lease=lease)
                ended = replace(shown, form=prediction.form)
                if ended.is_over:  # otherwise another answer shows how it ended, and what was billed
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
        await self._secrets.aclose()
        await self._refusals.aclose()
        await self.watcher.aclose()
        await self._late_searches.aclose()
        await self.creations.aclose()
        await self._client.aclose()

    def _checked(self, caller: Caller, prediction: Prediction) -> Prediction:
        redact = self._client.secrets.redaction(caller)
        return with_addresses_checked(prediction, upstream=self._base_url, redact=redact)

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
