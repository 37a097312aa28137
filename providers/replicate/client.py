"""Replicate's HTTP API, with one method for each endpoint in use. Methods return parsed answers
(`answers.py`).

The module `transport` sends each request, with a lease. The methods of the official client (`replicate` 1.0.7) are
not used. They repeat a GET up to ten times on 429, 503 and 504 without counting it in any window. They take most of a
millisecond to read a prediction. They raise on `aborted`, on a missing `version` and on an `error` that is no string,
and they keep neither headers nor most fields of an error. To put a request together, they take a quarter of a
millisecond. So the official client only encodes the files that are uploaded, and a test compares every request with
the one that it makes.

One official client serves a token, in a bounded cache, and holds no connection. A token never goes into `os.environ`,
and clients share no headers: the client writes its Authorization header into the dict that it is given.

A creation uses the lease of its admission, which the calling code marks as answered or lost. Any other
request uses the lease that is passed to it, or else takes one from the window `others`. Every method but
`account` raises Refusal, NotSent, Lost or TooLarge. Facts of the API: replicate.com/docs/reference/http.
Facts of the client: its source at 1.0.7.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from yarl import URL

from auth import Caller, Secret
from catalog.references import Upload
from catalog.targets import Target
from concurrency import Gate, Lease
from providers import Created, Prediction
from providers.connections import HeldBack, Lost, NotSent, TooLarge
from providers.health import UpstreamHealth
from providers.models import ListedVersion, ModelFacts
from providers.replicate.answers import (
    Account,
    Page,
    exhausted_for,
    read_account,
    read_file_address,
    read_page,
    read_prediction,
    read_secret,
    refused_account,
)
from providers.replicate.clock import UpstreamClock
from providers.replicate.errors import RATE_LIMIT_WAIT, seconds_to_wait
from providers.replicate.model_facts import (
    read_deployment,
    read_model,
    read_search,
    read_version,
    read_versions,
)  # fmt: skip
from providers.replicate.secret_inputs import SecretInputs
from providers.replicate.transport import (
    MAX_ANSWER,
    Answer,
    Connections,
    HttpConnections,
    Refusal,
    Request,
    send,
)
from providers.server_tokens import ServerTokens

if TYPE_CHECKING:
    from replicate import Client

LONGEST_DEADLINE: Final = 5400
"""Seconds from a creation to its deadline, the longest of which Replicate's documents have an example (1h30m)."""

CREATE_TIMEOUT: Final = 30.0
"""Timeout of the answer to a creation, in seconds. The official client has none."""

CLIENTS_KEPT: Final = 64

_LEAST_SECONDS: Final = 5.0
"""The least seconds for a creation that is sent again by another token."""

MAX_PREDICTION: Final = 16 * 1024 * 1024
"""The most bytes of one prediction, which repeats its input (`parsing.params.LONGEST_INPUT`, and inline
images)."""

MAX_LOOKUP: Final = 16 * 1024 * 1024
"""The most bytes of a model with its example prediction, or of a search, which repeats the schemas of 20 models."""

MAX_POLL: Final = 4 * 1024 * 1024
"""The most bytes of any other answer. A page with whole pictures in its inputs is larger; then each
prediction is polled by itself."""


_HEADERS: Final[Mapping[str, str]] = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "replicate-python/1.0.7",
}
"""The headers of the official client."""

_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for the answer to each kind of request."""

    create: float = CREATE_TIMEOUT
    poll: float = 10.0
    cancel: float = 4.0
    """Shorter than a poll's, since a prediction is billed until it is cancelled."""
    upload: float = 300.0
    """Enough to send an image of up to 100 MB."""
    account: float = 5.0
    """Includes the wait for a place in the window, since a caller waits for the answer."""


class Health(UpstreamHealth):
    """The outcomes of all requests to the API."""

    def refused(self, refusal: Refusal) -> None:
        """A request was refused. A refusal in Replicate's own words shows that Replicate works."""
        wait = None
        if refusal.status == 429:
            named = seconds_to_wait(refusal)
            wait = RATE_LIMIT_WAIT if named is None else named
        works = refusal.is_replicates and refusal.status < 500
        self.answered_with_error(works=works, throttled_for=wait)


class ReplicateClient:
    """The endpoints, for every caller. Create and close it on the loop that uses it.

    When Replicate has answered a request other than a creation, `on_answer` is called with the time at which
    the request was sent (loop's clock). A creation is only sent if `may_send` returns True at that moment."""

    def __init__(
        self,
        *,
        base_url: str,
        timeouts: Timeouts,
        others: Gate,
        on_answer: Callable[[float], object] = lambda sent: None,
        may_send: Callable[[], bool] | None = None,
        connections: Connections | None = None,
        tokens: ServerTokens | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.tokens = tokens or ServerTokens(None)
        self._timeouts = timeouts
        self._others = others
        self._on_answer = on_answer
        self._may_send = may_send
        self.health = Health()
        self.clock = UpstreamClock()
        self.secrets = SecretInputs(self.tokens.others_of)
        self._redaction = self.secrets.redaction
        self._connections = HttpConnections() if connections is None else connections
        self.official_client = lru_cache(CLIENTS_KEPT)(self._new_client)
        """The official client of a token, which only encodes files."""

    async def create_prediction(
        self,
        caller: Caller,
        target: str,
        sent: Mapping[str, Any],
        *,
        lease: Lease,
        cancel_after: float,
        webhook: str | None = None,
    ) -> Created:
        """`target` is what runs (`catalog/targets.py`), `cancel_after` is in seconds, and `webhook` is the address that
        Replicate calls when the prediction is over.

        `POST /v1/predictions` takes all targets but deployments as its `version`: the id of a version with or without
        its model, and also the name of an official model (Replicate's OpenAPI document, `predictions.create`). A
        deployment has a path of its own, and no `version`. Other fields at the top are refused, `model` too.

        `Prefer: wait` is not sent, since it would delay the prediction's id for up to a minute.
        """
        hooks = {"webhook": webhook, "webhook_events_filter": ["completed"]} if webhook else {}
        deployment = Target.parse(target).deployment
        runs = {"version": target} if deployment is None else {}
        path = "/v1/predictions" if deployment is None else f"/v1/deployments/{quote(deployment)}/predictions"
        answer = await self._call(
            caller,
            "POST",
            path,
            lease,
            seconds=self._timeouts.create,
            creates=True,
            max_answer=MAX_PREDICTION,
            body=_json({"input": sent, **runs, **hooks}),
            headers={"Content-Type": "application/json", "Cancel-After": cancel_after_header(cancel_after)},
        )
        created = read_prediction(answer.json(), self._redaction(caller))
        prediction = created if webhook is None else replace(created, is_announced=True)
        return Created(prediction, exhausted_for(answer.headers))

    async def get_prediction(self, caller: Caller, prediction_id: str, *, lease: Lease) -> Prediction:
        answer = await self._get(
            caller, f"/v1/predictions/{quote(prediction_id, safe='')}", lease, max_answer=MAX_PREDICTION
        )
        return _same(read_prediction(answer, self._redaction(caller)), prediction_id)

    async def list_predictions(
        self, caller: Caller, query: str, *, lease: Lease | None = None, max_answer: int = MAX_ANSWER
    ) -> Page:
        """One page of the account's predictions, the latest first."""
        page = await self._get(caller, f"/v1/predictions?{query}", lease, max_answer=max_answer)
        return read_page(page, self._redaction(caller))

    async def cancel_prediction(self, caller: Caller, prediction_id: str, *, lease: Lease) -> Prediction:
        answer = await self._call(
            caller,
            "POST",
            f"/v1/predictions/{quote(prediction_id, safe='')}/cancel",
            lease,
            seconds=self._timeouts.cancel,
            max_answer=MAX_PREDICTION,
        )
        return _same(read_prediction(answer.json(), self._redaction(caller)), prediction_id)

    async def create_file(self, caller: Caller, upload: Upload) -> str:
        """The address of the file."""
        client = self.official_client(self.tokens.token_of(caller))
        content = (f"image{upload.media.extension}", upload.reader(), upload.media.name)
        encoded = client._async_client.build_request("POST", "/v1/files", files={"content": content})  # noqa: SLF001
        assert isinstance(encoded.stream, AsyncIterable)  # noqa: S101 - as httpx encodes files
        answer = await self._call(
            caller,
            "POST",
            "/v1/files",
            seconds=self._timeouts.upload,
            max_answer=MAX_POLL,
            body=encoded.stream,
            headers={name: encoded.headers[name] for name in ("Content-Type", "Content-Length")},
        )
        return read_file_address(answer.json(), self._redaction(caller))

    async def get_model(self, caller: Caller, name: str) -> ModelFacts:
        """The model `owner/name`."""
        answer = await self._get(caller, f"/v1/models/{quote(name)}", max_answer=MAX_LOOKUP)
        return read_model(answer, self._redaction(caller))

    async def get_version(self, caller: Caller, name: str, version: str) -> ModelFacts:
        path = f"/v1/models/{quote(name)}/versions/{quote(version)}"
        return read_version(
            await self._get(caller, path, max_answer=MAX_LOOKUP), name, self._redaction(caller)
        )

    async def list_versions(self, caller: Caller, name: str) -> list[ListedVersion]:
        """The first page of the versions of the model `owner/name`, the newest first."""
        path = f"/v1/models/{quote(name)}/versions"
        return read_versions(await self._get(caller, path, max_answer=MAX_LOOKUP))

    async def get_deployment(self, caller: Caller, name: str) -> ModelFacts:
        return read_deployment(
            await self._get(caller, f"/v1/deployments/{quote(name)}", max_answer=MAX_LOOKUP)
        )

    async def search_models(self, caller: Caller, query: str) -> list[ModelFacts]:
        answer = await self._get(caller, f"/v1/search?{urlencode({'query': query})}", max_answer=MAX_LOOKUP)
        return read_search(answer, self._redaction(caller))

    async def default_webhook_secret(self, caller: Caller) -> Secret:
        """The secret that signs the account's webhooks. Raises UpstreamError if the answer has none."""
        return read_secret(await self._get(caller, "/v1/webhooks/default/secret", max_answer=MAX_POLL))

    async def account(self, caller: Caller) -> Account:
        """The account of the caller's token (`GET /v1/account`). Does not raise: without an answer in time,
        or with an inconclusive one, the status is `unknown`."""
        try:
            async with asyncio.timeout(self._timeouts.account):
                answer = await self._get(caller, "/v1/account", max_answer=MAX_POLL)
                return read_account(answer, self._redaction(caller))
        except Refusal as refusal:
            return refused_account(refusal)
        except (TimeoutError, NotSent, Lost):
            return Account("unknown")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()

    async def _get(self, caller: Caller, path: str, lease: Lease | None = None, *, max_answer: int) -> Any:
        answer = await self._call(
            caller, "GET", path, lease, seconds=self._timeouts.poll, max_answer=max_answer
        )
        return answer.json()

    async def _call(
        self,
        caller: Caller,
        method: str,
        path: str,
        lease: Lease | None = None,
        *,
        seconds: float,
        max_answer: int = MAX_ANSWER,
        creates: bool = False,
        body: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Answer:
        """Send a request by the token that pays for the caller. If the service's own token is refused, and was replaced
        by another one of the same account, the request is sent again by that: a refused request has created no
        prediction, and taken no place in a window."""
        clock, token = asyncio.get_running_loop().time, self.tokens.token_of(caller)
        bounds: dict[str, Any] = {"creates": creates, "max_answer": max_answer}
        give_up = clock() + seconds
        authorized = {**_HEADERS, "Authorization": f"Bearer {token}", **headers}
        may_send = self._may_send if creates else None
        request = Request(method, URL(self._base_url + path, encoded=True), authorized, body, may_send)
        try:
            return await self._send(caller, request, lease, seconds=seconds, **bounds)
        except Refusal as refusal:
            newer = await self.tokens.after_refusal(caller, token) if refusal.status == 401 else None
            if newer is None:
                raise
        request = replace(request, headers={**authorized, "Authorization": f"Bearer {newer}"})
        if not creates or lease is None:
            return await self._send(caller, request, None, seconds=seconds, **bounds)
        lease.not_sent()
        # Others wait for the answer to a creation no longer than it may take.
        left = max(_LEAST_SECONDS, give_up - clock())
        return await self._send(caller, request, lease, seconds=left, **bounds)

    async def _send(
        self,
        caller: Caller,
        request: Request,
        lease: Lease | None,
        *,
        seconds: float,
        creates: bool,
        max_answer: int,
    ) -> Answer:
        with nullcontext(lease) if lease else await self._others.acquire(caller.turn) as used:
            now = asyncio.get_running_loop().time
            sent = now()
            try:
                answer = await send(
                    self._connections, request, used, seconds=seconds, creates=creates, max_answer=max_answer
                )
            except HeldBack:
                raise
            except (NotSent, Lost) as error:
                (self.health.answered if isinstance(error, TooLarge) else self.health.failed)()
                raise
            except Refusal as refusal:
                self.health.refused(refusal)
                self.clock.record_date(refusal.headers.get("date"), sent=sent, answered=now())
                if not creates and refusal.status < 500:  # otherwise it may be a gateway's
                    self._on_answer(sent)
                raise
            self.health.answered()
            self.clock.record_date(answer.headers.get("date"), sent=sent, answered=now())
            if not creates:
                self._on_answer(sent)
            return answer

    def _new_client(self, token: str) -> "Client":
        import httpx
        from replicate import Client

        def refuse(request: httpx.Request) -> httpx.Response:
            raise RuntimeError(f"{request.method} {request.url.path} has no lease")

        return Client(api_token=token, base_url=self._base_url, transport=httpx.MockTransport(refuse))


def _json(value: Any) -> bytes:
    """Encode JSON as the official client does. Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _same(prediction: Prediction, prediction_id: str) -> Prediction:
    if prediction.id != prediction_id:
        raise Lost("the answer is another prediction")
    return prediction


def cancel_after_header(seconds: float) -> str:
    """Format seconds as a duration for Replicate (`45s`, `5m30s`, `1h10m`), within its bounds of 5 seconds and
    90 minutes."""
    minutes, rest = divmod(min(max(5, math.ceil(seconds)), LONGEST_DEADLINE), 60)
    hours, minutes = divmod(minutes, 60)
    amounts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in amounts if amount)
