"""Replicate, through its official client (`replicate` 1.0.7), with what the client gets wrong put right.

- One client a token, in a bounded cache. A token is never in `os.environ`, and no headers are shared: the
  client writes its Authorization header into the dict it is given.
- A creation does not hold its connection: `Prefer: wait` would keep the prediction's id unknown for up to a
  minute. It gets a timeout, which the client omits, and a deadline (`Cancel-After`), so that nothing bills
  for ever, whatever becomes of us.
- Answers are read here, leniently. The client's own reading raises on `aborted`, on a missing `version`, on
  an `error` that is no string.
- A creation whose answer was lost is first looked for at Replicate (`reconciliation.py`).

Facts of the API: replicate.com/docs/reference/http. Facts of the client: its source at 1.0.7.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx
import structlog
from replicate import Client

from auth import Caller
from concurrency import Gate, Lease
from errors import UpstreamError, UpstreamRateLimited
from parsing import GenerationRequest
from providers import Created, Prediction, TryAgain
from providers.reconciliation import LOOKS, Creations
from providers.refusals import LONGEST_WAIT, seconds_to_wait, service_error
from providers.transport import (
    BudgetedTransport,
    Exchange,
    Lost,
    NotSent,
    Refusal,
    open_connections,
)
from providers.watcher import LookFailed, Watcher

CREATE_TIMEOUT = 30.0
"""Seconds for a creation's answer; the client would wait for ever."""

LOOK_TIMEOUT = 10.0
"""Seconds for any other answer."""

LONGEST_DEADLINE = 1800
"""Seconds. Replicate ends every prediction after 30 minutes."""

CLIENTS_KEPT = 64

_MISSING_LOOKS = 5
"""A prediction that so many looks in a row do not find is gone."""

_CANCEL_PAUSES = (0.0, 0.2, 0.4)
"""Seconds before each try to cancel."""

log = structlog.get_logger("replicate")


class Replicate:
    """The provider (see `providers.Provider`). Make it and close it on the loop that uses it.

    `others` is the window for all that creates nothing; timeouts, and the pauses before each look for a lost
    creation, in seconds.
    """

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        create_timeout: float = CREATE_TIMEOUT,
        look_timeout: float = LOOK_TIMEOUT,
        looks: Sequence[float] = LOOKS,
    ) -> None:
        self._base_url = base_url
        self._others = others
        self._create_timeout = create_timeout
        self._look_timeout = look_timeout
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._connections: httpx.AsyncBaseTransport = open_connections()
        self._watcher = Watcher(self._look)
        self._creations = Creations(self._page, looks=looks)

    async def create(
        self, caller: Caller, request: GenerationRequest, *, lease: Lease, cancel_after: float
    ) -> Created:
        headers = {"Cancel-After": cancel_after_header(cancel_after)}
        exchange = Exchange(self._create_timeout, lease, headers)
        model, sent = request.model.name, dict(request.input)
        with self._creations.begin(caller, model, sent) as creation:
            try:
                prediction = read_prediction(
                    await self._call(
                        caller,
                        exchange,
                        lambda client: client.models.predictions.async_create(model=model, input=sent),
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
                return Created(prediction, _exhausted_for(exchange.answer_headers))
            log.warning("creation_uncertain", reason=reason, model=model, caller=caller.id)
            found = await creation.find()
            log.info("creation_adopted", prediction=found, model=model, caller=caller.id)
            return Created(Prediction(found, "starting"))

    async def finished(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        return await self._watcher.finished(caller, prediction, model=model)

    async def cancel(self, caller: Caller, prediction: Prediction) -> None:
        for pause in _CANCEL_PAUSES:
            await asyncio.sleep(pause)
            try:
                await self._call(
                    caller,
                    Exchange(self._look_timeout),
                    lambda client: client.predictions.async_cancel(prediction.id),
                )
            except (Refusal, NotSent, Lost) as failed:
                if isinstance(failed, Refusal) and failed.status in {401, 403, 404, 422}:
                    break
            else:
                return
        log.warning("cancel_failed", prediction=prediction.id, caller=caller.id)

    async def aclose(self) -> None:
        while self._clients:
            await _close(self._clients.popitem()[1])
        await self._connections.aclose()

    async def _look(self, caller: Caller, prediction_id: str) -> Prediction:
        try:
            return read_prediction(
                await self._call(
                    caller,
                    Exchange(self._look_timeout),
                    lambda client: client.predictions.async_get(prediction_id),
                )
            )
        except Refusal as refusal:
            error = service_error(refusal, caller)
            if refusal.status == 404:
                raise LookFailed(error, patience=_MISSING_LOOKS) from None
            if refusal.status in {408, 429} or refusal.status >= 500:
                raise LookFailed(error, wait=seconds_to_wait(refusal) or 0.0) from None
            raise error from None
        except (NotSent, Lost):
            raise LookFailed(UpstreamError()) from None

    async def _page(self, caller: Caller, address: str) -> Any:
        """One page of the account's predictions. The client takes any address for a cursor; this is a path."""
        return await self._call(
            caller, Exchange(self._look_timeout), lambda client: client.predictions.async_list(address)
        )

    async def _call(
        self, caller: Caller, exchange: Exchange, act: Callable[[Client], Awaitable[object]]
    ) -> Any:
        """The answer's JSON, as it came. Raises Refusal, NotSent or Lost."""
        client = await self._client(caller)
        with exchange.under_way():
            try:
                await act(client)
            except (ValueError, TypeError, AttributeError, LookupError):
                if exchange.body is None:  # not the client's reading of an answer that is here
                    raise
        return exchange.json()

    async def _client(self, caller: Caller) -> Client:
        client = self._clients.get(caller.token)
        if client is None:
            transport = BudgetedTransport(self._connections, others=self._others, account=caller.id)
            client = Client(api_token=caller.token, base_url=self._base_url, transport=transport)
            self._clients[caller.token] = client
        self._clients.move_to_end(caller.token)
        if len(self._clients) > CLIENTS_KEPT:
            await _close(self._clients.popitem(last=False)[1])
        return client


def read_prediction(answer: Any) -> Prediction:
    """A prediction from its JSON; only `id` and `status` must be there. Raises Lost when they are not."""
    if not isinstance(answer, dict):
        raise Lost("the answer is no prediction")
    identity, status = answer.get("id"), answer.get("status")
    if not isinstance(identity, str) or not identity or not isinstance(status, str):
        raise Lost("the answer is no prediction")
    return Prediction(
        id=identity,
        status=status,
        outputs=_outputs(answer.get("output")),
        error=_error_text(answer.get("error")),
        seconds=_seconds(answer.get("created_at"), answer.get("completed_at")),
    )


def cancel_after_header(seconds: float) -> str:
    """Replicate's duration format (`45s`, `5m30s`, `30m`), within its bounds of 5 seconds and 30 minutes."""
    minutes, rest = divmod(min(max(5, math.ceil(seconds)), LONGEST_DEADLINE), 60)
    return "".join(f"{amount}{unit}" for amount, unit in ((minutes, "m"), (rest, "s")) if amount)


def _raise_if_settled(refusal: Refusal, caller: Caller) -> None:
    """A 5xx may come from a gateway behind which the request arrived. Only 503 says that nobody was there; below
    500, Replicate itself answered that it will not."""
    if refusal.status == 429:
        raise TryAgain(UpstreamRateLimited(), wait=seconds_to_wait(refusal), throttled=True) from None
    if refusal.status == 503:
        raise TryAgain(service_error(refusal, caller), wait=seconds_to_wait(refusal)) from None
    if refusal.status < 500:
        raise service_error(refusal, caller) from None


def _exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until the account may create again, when the answer says that this was its last for now."""
    try:
        remaining, reset = float(headers["ratelimit-remaining"]), float(headers["ratelimit-reset"])
    except (KeyError, ValueError):
        return 0.0
    return min(max(0.0, reset), LONGEST_WAIT) if remaining < 1 else 0.0


def _outputs(output: Any) -> tuple[str, ...]:
    """One URL or a list of them, by model; always a tuple here."""
    every = output if isinstance(output, list) else [output]
    return tuple(url for url in every if isinstance(url, str) and url)


def _error_text(error: Any) -> str | None:
    return error if error is None or isinstance(error, str) else str(error)


def _seconds(created: Any, completed: Any) -> float | None:
    try:
        return (datetime.fromisoformat(completed) - datetime.fromisoformat(created)).total_seconds()
    except (TypeError, ValueError):
        return None


async def _close(client: Client) -> None:
    # The client has no aclose of its own. Requests on their way end well: the connections are not its own.
    await client._async_client.aclose()  # noqa: SLF001
