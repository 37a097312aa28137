"""Replicate's API: each call of it that a caller of models makes, as one thin handler.

A handler runs behind the door, so its request has a good token and a place within the limits. It
returns an `Answer` or raises a `Refusal`. Another account's prediction is no prediction at all.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import web
from yarl import URL

from simulator import answers, catalog, creation, refusals
from simulator.door import TOKEN, Door
from simulator.predictions import Prediction
from simulator.refusals import Answer
from simulator.world import World, page

PAGE = 100


class Api:
    """The handlers under `/v1`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def routes(self, door: Door) -> list[web.RouteDef]:
        """The routes, each behind `door` and counted as its kind."""
        return [
            web.post("/v1/models/{owner}/{name}/predictions", door.guard("create", self.create_official)),
            web.post("/v1/predictions", door.guard("create", self.create_version)),
            web.get("/v1/predictions/{id}", door.guard("get", self.get)),
            web.post("/v1/predictions/{id}/cancel", door.guard("cancel", self.cancel)),
            web.get("/v1/predictions", door.guard("list", self.history)),
            web.post("/v1/files", door.guard("file", self.upload)),
            web.get("/v1/files/{id}", door.guard("file", self.file)),
            web.get("/v1/account", door.guard("account", self.account)),
            web.get("/v1/webhooks/default/secret", door.guard("secret", self.secret)),
            web.get("/v1/models/{owner}/{name}", door.guard("model", self.model)),
            web.get("/v1/models/{owner}/{name}/versions/{id}", door.guard("model", self.version)),
            web.route("*", "/v1/{rest:.*}", door.guard("unknown", self.unknown)),
        ]

    async def create_official(self, request: web.Request) -> Answer:
        """`POST /v1/models/{owner}/{name}/predictions`"""
        return await self._create(request, _named(request))

    async def create_version(self, request: web.Request) -> Answer:
        """`POST /v1/predictions`"""
        return await self._create(request, None)

    async def get(self, request: web.Request) -> Answer:
        """`GET /v1/predictions/{id}`"""
        return Answer(answers.prediction(self._mine(request)))

    async def cancel(self, request: web.Request) -> Answer:
        """`POST /v1/predictions/{id}/cancel`: what has ended stays as it ended."""
        prediction = self._mine(request)
        self._world.book.cancel(prediction)
        return Answer(answers.prediction(prediction))

    async def history(self, request: web.Request) -> Answer:
        """`GET /v1/predictions`: a hundred a page, newest first."""
        query = request.query
        wanted = _between(query.get("created_after"), query.get("created_before"))
        seen = self._world.book.now() - timedelta(seconds=self._world.list_lag())
        try:
            found = page(
                self._world.book,
                request[TOKEN],
                query.get("cursor"),
                size=PAGE,
                keep=lambda each: wanted(each) and each.created_at <= seen,
            )
        except ValueError as reason:
            raise refusals.malformed("Invalid cursor") from reason
        here = URL(f"{_base(request)}{request.path}").with_query(query)
        links = {"next": found.next, "previous": found.previous}
        body = {
            name: str(here.update_query(cursor=cursor)) if cursor else None for name, cursor in links.items()
        }
        return Answer(body | {"results": [answers.listed(each) for each in found.predictions]})

    async def upload(self, request: web.Request) -> Answer:
        """`POST /v1/files`"""
        uploads, base_url = self._world.uploads, _base(request)
        return Answer(await uploads.receive(request, token=request[TOKEN], base_url=base_url), 201)

    async def file(self, request: web.Request) -> Answer:
        """`GET /v1/files/{id}`"""
        facts = self._world.uploads.find(request.match_info["id"], token=request[TOKEN])
        if facts is None:
            raise refusals.not_found()
        return Answer(facts)

    async def account(self, request: web.Request) -> Answer:
        """`GET /v1/account`"""
        name = self._world.accounts.of(request[TOKEN]).username
        return Answer({"type": "organization", "username": name, "name": "Simulated", "github_url": None})

    async def secret(self, request: web.Request) -> Answer:
        """`GET /v1/webhooks/default/secret`"""
        return Answer({"key": self._world.webhooks.secret(request[TOKEN])})

    async def model(self, request: web.Request) -> Answer:
        """`GET /v1/models/{owner}/{name}`"""
        found = catalog.find(_named(request))
        if found is None:
            raise refusals.not_found()
        return Answer(answers.model(found))

    async def version(self, request: web.Request) -> Answer:
        """`GET /v1/models/{owner}/{name}/versions/{id}`, read before a run."""
        asked = request.match_info["id"]
        return Answer(answers.version(creation.model_of(f"{_named(request)}:{asked}"), asked))

    async def unknown(self, _request: web.Request) -> Answer:
        """Anything else under `/v1`."""
        raise refusals.not_found()

    async def _create(self, request: web.Request, name: str | None) -> Answer:
        token = request[TOKEN]
        if self._world.accounts.of(token).credit == "empty":
            raise refusals.insufficient_credit()
        asked = await creation.read(request, token=token, base_url=_base(request), name=name)
        prediction = self._world.create(asked)
        seconds = creation.wait_seconds(request.headers.get("Prefer"))
        if seconds is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(prediction.settled.wait(), seconds)
        return Answer(answers.prediction(prediction), 201)

    def _mine(self, request: web.Request) -> Prediction:
        found = self._world.book.find(request.match_info["id"], token=request[TOKEN])
        if found is None:
            raise refusals.not_found()
        return found


def _named(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def _base(request: web.Request) -> str:
    """Where the caller reached this server, so that URLs work from where it stands."""
    return f"{request.scheme}://{request.host}"


def _between(after: str | None, before: str | None) -> Callable[[Prediction], bool]:
    start, end = _moment("created_after", after), _moment("created_before", before)
    return lambda prediction: (
        (start is None or prediction.created_at >= start) and (end is None or prediction.created_at < end)
    )


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as reason:
        raise refusals.malformed(f"{name} must be an ISO 8601 date-time") from reason
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
