"""Replicate's HTTP API, with one method for each endpoint in use. Methods return parsed answers
(`answers.py`).

The module `api` sends each request, with a lease. The methods of the official client (`replicate` 1.0.7) are
not used. They repeat a GET up to ten times on 429, 503 and 504 without counting it in any window. They take most of a
millisecond to read a prediction. They raise on `aborted`, on a missing `version` and on an `error` that is no string,
and they keep neither headers nor most fields of an error. To put a request together, they take a quarter of a
millisecond. So the official client only encodes the files that are uploaded, and a test compares every request with
the one that it makes.

One official client serves a token, in a bounded cache, and holds no connection. A token never goes into `os.environ`,
and clients share no headers: the client writes its Authorization header into the dict that it is given.

Every method but `account` raises Refusal, NotSent, Lost or TooLarge. Facts of the API:
replicate.com/docs/reference/http. Facts of the client: its source at 1.0.7.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from auth import Caller, Secret
from catalog.references import Upload
from catalog.targets import Target
from concurrency import Lease
from providers import Created
from providers.connections import Lost, NotSent
from providers.models import ListedVersion, ModelFacts
from providers.replicate.answers import (
    Account,
    exhausted_for,
    read_account,
    read_file_address,
    read_prediction,
    read_secret,
    refused_account,
)
from providers.replicate.api import MAX_POLL, Api
from providers.replicate.model_facts import (
    read_deployment,
    read_model,
    read_search,
    read_version,
    read_versions,
)  # fmt: skip
from providers.replicate.resources import MAX_PREDICTION, Resource
from providers.replicate.training_answers import read_training, training_origin
from providers.replicate.transport import Refusal

if TYPE_CHECKING:
    from replicate import Client

LONGEST_DEADLINE: Final = 5400
"""Seconds from a creation to its deadline, the longest of which Replicate's documents have an example (1h30m)."""

CLIENTS_KEPT: Final = 64

MAX_LOOKUP: Final = 16 * 1024 * 1024
"""The most bytes of a model with its example prediction, or of a search, which repeats the schemas of 20 models."""


class ReplicateClient(Api):
    """The endpoints, for every caller."""

    @cached_property
    def official_client(self) -> "Callable[[str], Client]":
        """Makes, or remembers, the official client of a token, which only encodes files."""
        return lru_cache(CLIENTS_KEPT)(self._new_client)

    @cached_property
    def predictions(self) -> Resource:
        return Resource(self, "/v1/predictions")

    @cached_property
    def trainings(self) -> Resource:
        origin_of = partial(training_origin, self.files)
        return Resource(self, "/v1/trainings", read=read_training, origin_of=origin_of)

    @property
    def files(self) -> str:
        """The beginning of the addresses of uploaded files."""
        return f"{self.base_url}/v1/files/"

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
        answer = await self.call(
            caller,
            "POST",
            path,
            lease,
            seconds=self.timeouts.create,
            creates=True,
            max_answer=MAX_PREDICTION,
            body=_json({"input": sent, **runs, **hooks}),
            headers={"Content-Type": "application/json", "Cancel-After": cancel_after_header(cancel_after)},
        )
        created = read_prediction(answer.json(), self.redaction(caller))
        prediction = created if webhook is None else replace(created, is_announced=True)
        return Created(prediction, exhausted_for(answer.headers))

    async def create_training(
        self,
        caller: Caller,
        target: str,
        sent: Mapping[str, Any],
        *,
        destination: str,
        lease: Lease,
        webhook: str | None = None,
    ) -> Created:
        """`target` is a version (`owner/name:<64 hex digits>`) that can be trained, and `destination` the model
        `owner/name` that gets the version it makes.

        Replicate's documents count a creation among "all other endpoints", so it takes a place of that window as well.
        They name neither `Prefer` nor `Cancel-After` for it (`trainings.create`).
        """
        trainer = Target.parse(target)
        hooks = {"webhook": webhook, "webhook_events_filter": ["completed"]} if webhook else {}
        with await self.others.acquire(caller.turn) as place:
            place.sent()
            try:
                answer = await self.call(
                    caller,
                    "POST",
                    f"/v1/models/{quote(trainer.name)}/versions/{quote(str(trainer.version))}/trainings",
                    lease,
                    seconds=self.timeouts.create,
                    creates=True,
                    max_answer=MAX_PREDICTION,
                    body=_json({"destination": destination, "input": sent, **hooks}),
                    headers={"Content-Type": "application/json"},
                )
            except NotSent:
                place.not_sent()
                raise
            finally:
                place.answered()
        created = read_training(answer.json(), self.redaction(caller))
        return Created(created if webhook is None else replace(created, is_announced=True))

    async def create_file(
        self, caller: Caller, upload: Upload, *, name: str | None = None, media: str | None = None
    ) -> str:
        """The address of the file. Its name and its media type follow from its content, unless they are set."""
        client = self.official_client(self.tokens.token_of(caller))
        name = name or f"image{upload.media.extension}"
        content = (name, upload.reader(), media or upload.media.name)
        encoded = client._async_client.build_request("POST", "/v1/files", files={"content": content})  # noqa: SLF001
        assert isinstance(encoded.stream, AsyncIterable)  # noqa: S101 - as httpx encodes files
        answer = await self.call(
            caller,
            "POST",
            "/v1/files",
            seconds=self.timeouts.upload,
            max_answer=MAX_POLL,
            body=encoded.stream,
            headers={name: encoded.headers[name] for name in ("Content-Type", "Content-Length")},
        )
        return read_file_address(answer.json(), self.redaction(caller))

    async def delete_file(self, caller: Caller, file_id: str) -> None:
        path = f"/v1/files/{quote(file_id, safe='')}"
        await self.call(caller, "DELETE", path, seconds=self.timeouts.poll, max_answer=MAX_POLL)

    async def create_model(self, caller: Caller, name: str, *, visibility: str, hardware: str) -> None:
        """Create the model `owner/name`. Replicate refuses one that exists with 409."""
        owner, _, own = name.partition("/")
        await self.call(
            caller,
            "POST",
            "/v1/models",
            seconds=self.timeouts.poll,
            max_answer=MAX_LOOKUP,
            body=_json({"owner": owner, "name": own, "visibility": visibility, "hardware": hardware}),
            headers={"Content-Type": "application/json"},
        )

    async def get_model(self, caller: Caller, name: str) -> ModelFacts:
        """The model `owner/name`."""
        answer = await self.get(caller, f"/v1/models/{quote(name)}", max_answer=MAX_LOOKUP)
        return read_model(answer, self.redaction(caller))

    async def get_version(self, caller: Caller, name: str, version: str) -> ModelFacts:
        path = f"/v1/models/{quote(name)}/versions/{quote(version)}"
        return read_version(await self.get(caller, path, max_answer=MAX_LOOKUP), name, self.redaction(caller))

    async def list_versions(self, caller: Caller, name: str) -> list[ListedVersion]:
        """The first page of the versions of the model `owner/name`, the newest first."""
        path = f"/v1/models/{quote(name)}/versions"
        return read_versions(await self.get(caller, path, max_answer=MAX_LOOKUP))

    async def get_deployment(self, caller: Caller, name: str) -> ModelFacts:
        return read_deployment(
            await self.get(caller, f"/v1/deployments/{quote(name)}", max_answer=MAX_LOOKUP)
        )

    async def search_models(self, caller: Caller, query: str) -> list[ModelFacts]:
        answer = await self.get(caller, f"/v1/search?{urlencode({'query': query})}", max_answer=MAX_LOOKUP)
        return read_search(answer, self.redaction(caller))

    async def default_webhook_secret(self, caller: Caller) -> Secret:
        """The secret that signs the account's webhooks. Raises UpstreamError if the answer has none."""
        return read_secret(await self.get(caller, "/v1/webhooks/default/secret", max_answer=MAX_POLL))

    async def account(self, caller: Caller) -> Account:
        """The account of the caller's token (`GET /v1/account`). Does not raise: without an answer in time,
        or with an inconclusive one, the status is `unknown`."""
        try:
            async with asyncio.timeout(self.timeouts.account):
                answer = await self.get(caller, "/v1/account", max_answer=MAX_POLL)
                return read_account(answer, self.redaction(caller))
        except Refusal as refusal:
            return refused_account(refusal)
        except (TimeoutError, NotSent, Lost):
            return Account("unknown")

    def _new_client(self, token: str) -> "Client":
        import httpx
        from replicate import Client

        def refuse(request: httpx.Request) -> httpx.Response:
            raise RuntimeError(f"{request.method} {request.url.path} has no lease")

        return Client(api_token=token, base_url=self.base_url, transport=httpx.MockTransport(refuse))


def _json(value: Any) -> bytes:
    """Encode JSON as the official client does. Raises ValueError for a number that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def cancel_after_header(seconds: float) -> str:
    """Format seconds as a duration for Replicate (`45s`, `5m30s`, `1h10m`), within its bounds of 5 seconds and
    90 minutes."""
    minutes, rest = divmod(min(max(5, math.ceil(seconds)), LONGEST_DEADLINE), 60)
    hours, minutes = divmod(minutes, 60)
    amounts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in amounts if amount)
