"""Replicate, through its official client (`replicate` 1.0.7), with what the client gets wrong put right.

- One client a token, in a bounded cache. A token is never in `os.environ`, and no headers are shared: the
  client writes its Authorization header into the dict it is given.
- A creation does not hold its connection: `Prefer: wait` would keep the prediction's id unknown for up to a
  minute. It gets a timeout, which the client omits, and a deadline (`Cancel-After`), so that nothing bills
  for ever, whatever becomes of us.
- Answers are read here, leniently. The client's own reading raises on `aborted`, on a missing `version`, on
  an `error` that is no string.
- A creation whose answer was lost is first looked for at Replicate (`reconciliation.py`).
- What Replicate tells by itself (`webhooks.py`) is taken in by `tell`: it ends a watch, or a search, at once.

Facts of the API: replicate.com/docs/reference/http. Facts of the client: its source at 1.0.7.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import structlog
from replicate import Client
from replicate.prediction import Predictions

from admission.durations import Durations
from auth import Caller
from concurrency import Gate, Lease
from errors import UpstreamError, UpstreamRateLimited
from providers import Created, Prediction, Told, TryAgain
from providers.answers import Page, read_page, read_prediction
from providers.reconciliation import LOOKS, PATIENCE, Creations, fingerprint
from providers.refusals import LONGEST_WAIT, seconds_to_wait, service_error
from providers.transport import (
    Answered,
    BudgetedTransport,
    Exchange,
    Lost,
    NotSent,
    Refusal,
    TooLarge,
    open_connections,
)
from providers.uploads import FIRST_PAUSE, Content, Uploads
from providers.watcher import LookFailed, NoPages, Watcher
from providers.webhooks import Secrets
from references import Upload

CREATE_TIMEOUT = 30.0
"""Seconds for a creation's answer; the client would wait for ever."""

LOOK_TIMEOUT = 10.0
"""Seconds for any other answer."""

LONGEST_DEADLINE = 1800
"""Seconds. Replicate ends every prediction after 30 minutes."""

CLIENTS_KEPT = 64

MAX_LOOK = 4 * 1024 * 1024
"""Bytes of an answer to a look. Where inputs carry whole pictures, a page would be more, and each prediction is asked
for by itself."""

_MISSING_PATIENCE = 10.0
"""Seconds. A prediction that no look has found for so long is gone."""

_UNTOLD_WAIT = 5.0
"""Seconds to look at nothing of an account that was refused for its rate without being told how long."""

UPLOAD_TIMEOUT = 300.0
"""Seconds for an image of up to 100 MB to be sent."""

CANCEL_TIMEOUT = 4.0
"""Seconds for a cancel's answer. It is asked again sooner than a look: what is not cancelled is billed."""

CANCEL_PATIENCE = 30.0
"""Seconds, from its first try, in which a prediction must be cancelled; then it is left to its deadline."""

_CANCELS_AT_ONCE = 100
"""So that cancels that hang leave room for looks."""

CANCEL_PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
"""Seconds after each try to cancel that failed, unless a refusal says how long."""

log = structlog.get_logger("replicate")


class Replicate:
    """The provider (see `providers.Provider`). Make it and close it on the loop that uses it.

    `others` is the window for all that creates nothing; `durations` learns how long predictions take; timeouts, and
    the pauses before each look for a lost creation, after each try to cancel and before a second try to upload, in
    seconds; `connections` is what requests leave by.
    """

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        durations: Durations | None = None,
        create_timeout: float = CREATE_TIMEOUT,
        look_timeout: float = LOOK_TIMEOUT,
        looks: Sequence[float] = LOOKS,
        cancel_pauses: Sequence[float] = CANCEL_PAUSES,
        upload_pause: float = FIRST_PAUSE,
        connections: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url
        self._others = others
        self._create_timeout = create_timeout
        self._look_timeout = look_timeout
        self._cancel_pauses = cancel_pauses
        self._cancelling = asyncio.Semaphore(_CANCELS_AT_ONCE)
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._connections = open_connections() if connections is None else connections
        self._transport = BudgetedTransport(self._connections)
        self._watcher = Watcher(
            places=others, get=self._get, get_page=self._get_page, durations=durations or Durations()
        )
        self._creations = Creations(self._search, looks=looks)
        self._uploads = Uploads(self._send_file, first_pause=upload_pause)
        self._secrets = Secrets(self._get_secret)

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
        headers = {"Cancel-After": cancel_after_header(cancel_after)}
        exchange = Exchange(lease, self._create_timeout, creates=True, headers=headers)
        content, hooks = fingerprint(sent), _hooks(callback)
        with self._creations.begin(
            caller, model, content, reference=reference, since=time.time()
        ) as creation:
            try:
                prediction = read_prediction(
                    await self._call(
                        caller,
                        exchange,
                        lambda client: client.models.predictions.async_create(model, sent, **hooks),
                    )
                )
            except NotSent:
                raise TryAgain(UpstreamError("Replicate cannot be reached."), unreachable=True) from None
            except Refusal as refusal:
                _raise_if_settled(refusal, caller)
                reason = str(refusal)
            except Lost as lost:
                reason = str(lost)
            else:
                creation.answered(prediction.id)
                if creation.told and creation.told.id == prediction.id:
                    self._watcher.tell(creation.told)
                return Created(prediction, _exhausted_for(exchange.answer_headers))
            log.warning("creation_uncertain", reason=reason, model=model, caller=caller.id)
            return Created(await self._adopted(creation.find(), caller, model))

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
        """`patience`: how long to go on looking while Replicate answers no look, in seconds."""
        with self._creations.begin(caller, model, content, reference=reference, since=since) as creation:
            found = creation.find(patience=patience, on_its_way=self._create_timeout)
            return Created(await self._adopted(found, caller, model))

    async def _adopted(self, search: Awaitable[Prediction], caller: Caller, model: str) -> Prediction:
        found = await search
        log.info("creation_adopted", prediction=found.id, model=model, caller=caller.id)
        return found

    def lose(self, reference: str, caller_id: str, model: str, *, content: str, since: float) -> None:
        self._creations.lose(reference, caller_id, model, content, since=since)

    def know(self, ids: Iterable[str]) -> None:
        for prediction_id in ids:
            self._creations.know(prediction_id)

    async def finished(
        self, caller: Caller, prediction: Prediction, *, model: str, announced: bool = False
    ) -> Prediction:
        return await self._watcher.finished(caller, prediction, model=model, announced=announced)

    def tell(self, reference: str, told: Told) -> None:
        """While its creation is under way, a message is of this attempt alone, whatever prediction it names."""
        creation = self._creations.of(reference)
        if creation is not None:
            creation.tell(told)
        elif self._creations.may_be(told.prediction.id, reference):
            self._watcher.tell(told.prediction)

    async def webhook_secret(self, caller: Caller) -> str:
        return await self._secrets.of(caller)

    def follow(self, prediction_id: str, listener: Callable[[Prediction], object]) -> Callable[[], None]:
        return self._watcher.follow(prediction_id, listener)

    async def cancel(self, caller: Caller, prediction: Prediction) -> Prediction | None:
        clock = asyncio.get_running_loop().time
        give_up = math.inf
        for pause in (*self._cancel_pauses, math.inf):
            try:
                async with self._cancelling:
                    with await self._others.acquire(caller.id) as lease:
                        give_up = min(give_up, clock() + CANCEL_PATIENCE)
                        return await self._cancel_once(caller, prediction.id, lease)
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

    async def _cancel_once(self, caller: Caller, prediction_id: str, lease: Lease) -> Prediction:
        exchange = Exchange(lease, CANCEL_TIMEOUT, max_answer=MAX_LOOK)
        return read_prediction(
            await self._call(caller, exchange, lambda client: client.predictions.async_cancel(prediction_id))
        )

    async def _send_file(self, caller: Caller, upload: Upload) -> Any:
        with await self._others.acquire(caller.id) as lease:
            exchange = Exchange(lease, UPLOAD_TIMEOUT, max_answer=MAX_LOOK)
            content, kind = Content(upload), upload.media.name
            return await self._call(
                caller, exchange, lambda client: client.files.async_create(content, content_type=kind)
            )

    async def _get_secret(self, caller: Caller) -> Any:
        with await self._others.acquire(caller.id) as lease:
            exchange = Exchange(lease, self._look_timeout, max_answer=MAX_LOOK)
            return await self._call(caller, exchange, lambda client: client.webhooks.default.async_secret())

    async def aclose(self) -> None:
        await self._secrets.aclose()
        await self._watcher.aclose()
        while self._clients:
            await _close(self._clients.popitem()[1])
        await self._connections.aclose()

    async def _get(self, caller: Caller, prediction_id: str, lease: Lease) -> Prediction:
        try:
            exchange = Exchange(lease, self._look_timeout, max_answer=MAX_LOOK)
            answer = await self._call(
                caller, exchange, lambda client: client.predictions.async_get(prediction_id)
            )
            prediction = read_prediction(answer)
            if prediction.id != prediction_id:
                raise Lost("the answer is another prediction")
            return prediction
        except TooLarge:
            raise LookFailed(
                UpstreamError("Replicate answered too much."), patience=_MISSING_PATIENCE
            ) from None
        except Refusal as refusal:
            if refusal.status == 404:
                raise LookFailed(service_error(refusal, caller), patience=_MISSING_PATIENCE) from None
            raise _look_failed(refusal, caller) from None
        except (NotSent, Lost):
            raise LookFailed(UpstreamError()) from None

    async def _get_page(self, caller: Caller, before: datetime, lease: Lease) -> Page:
        try:
            exchange = Exchange(lease, self._look_timeout, max_answer=MAX_LOOK)
            query = urlencode({"created_before": before.isoformat().replace("+00:00", "Z")})
            return read_page(await self._list(caller, query, exchange))
        except Refusal as refusal:
            failed = _look_failed(refusal, caller)
            # Refused for good: each is asked for by itself, and will tell what is the matter.
            raise failed if isinstance(failed, LookFailed) else NoPages from None
        except TooLarge:
            raise NoPages from None
        except (NotSent, Lost):
            raise LookFailed(UpstreamError()) from None

    async def _search(self, caller: Caller, query: str) -> Any:
        with await self._others.acquire(caller.id) as lease:
            return await self._list(caller, query, Exchange(lease, self._look_timeout))

    async def _list(self, caller: Caller, query: str, exchange: Exchange) -> Any:
        """One page of the account's predictions. The client takes any address for a cursor; this is a path."""
        address = f"/v1/predictions?{query}"
        return await self._call(caller, exchange, lambda client: client.predictions.async_list(address))

    async def _call(
        self, caller: Caller, exchange: Exchange, act: Callable[[Client], Awaitable[object]]
    ) -> Any:
        """The answer's JSON, as it came. Raises Refusal, NotSent or Lost."""
        client = await self._client(caller)
        with exchange.under_way(), suppress(Answered):
            await act(client)
        return exchange.json()

    async def _client(self, caller: Caller) -> Client:
        client = self._clients.get(caller.token)
        if client is None:
            client = Client(api_token=caller.token, base_url=self._base_url, transport=self._transport)
            self._clients[caller.token] = client
        self._clients.move_to_end(caller.token)
        if len(self._clients) > CLIENTS_KEPT:
            await _close(self._clients.popitem(last=False)[1])
        return client


def cancel_after_header(seconds: float) -> str:
    """Replicate's duration format (`45s`, `5m30s`, `30m`), within its bounds of 5 seconds and 30 minutes."""
    minutes, rest = divmod(min(max(5, math.ceil(seconds)), LONGEST_DEADLINE), 60)
    return "".join(f"{amount}{unit}" for amount, unit in ((minutes, "m"), (rest, "s")) if amount)


def _hooks(callback: str | None) -> Predictions.CreatePredictionParams:
    """What a creation says of where to tell that it is over."""
    return {"webhook": callback, "webhook_events_filter": ["completed"]} if callback else {}


def _raise_if_settled(refusal: Refusal, caller: Caller) -> None:
    """A 5xx may come from a gateway behind which the request arrived. Only 503 says that nobody was there; below
    500, Replicate itself answered that it will not."""
    if refusal.status == 429:
        raise TryAgain(UpstreamRateLimited(), wait=seconds_to_wait(refusal), throttled=True) from None
    if refusal.status == 503:
        raise TryAgain(service_error(refusal, caller), wait=seconds_to_wait(refusal)) from None
    if refusal.status < 500:
        raise service_error(refusal, caller) from None


def _look_failed(refusal: Refusal, caller: Caller) -> Exception:
    """What passes is a LookFailed, what does not is the error that ends the watch."""
    error = service_error(refusal, caller)
    if refusal.status == 429:
        return LookFailed(error, wait=seconds_to_wait(refusal) or _UNTOLD_WAIT)
    if refusal.status == 408 or refusal.status >= 500:
        return LookFailed(error, wait=seconds_to_wait(refusal) or 0.0)
    return error


def _exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until the account may create again, when the answer says that this was its last for now."""
    try:
        remaining, reset = float(headers["ratelimit-remaining"]), float(headers["ratelimit-reset"])
    except (KeyError, ValueError):
        return 0.0
    return min(max(0.0, reset), LONGEST_WAIT) if remaining < 1 else 0.0


async def _close(client: Client) -> None:
    # The client has no aclose of its own. Requests on their way end well: the connections are not its own.
    await client._async_client.aclose()  # noqa: SLF001
