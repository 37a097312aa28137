"""Replicate's API: a thin handler for each call that the service or its tests make.

The middleware has checked token and limits before a handler runs. A handler returns an `ApiResponse` or raises an
`ApiError`. Another account's prediction is treated as missing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import web
from yarl import URL

from simulator import catalog, creation, representations, responses
from simulator.middleware import TOKEN, Middleware
from simulator.predictions import Prediction
from simulator.responses import ApiResponse
from simulator.state import SimulatorState, page

PAGE = 100


class Api:
    """The handlers under `/v1`."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def routes(self, middleware: Middleware) -> list[web.RouteDef]:
        """The routes. `middleware` wraps each handler and counts its requests by kind."""
        return [
            web.post(
                "/v1/models/{owner}/{name}/predictions", middleware.wrap("create", self.create_official)
            ),
            web.post("/v1/predictions", middleware.wrap("create", self.create_version)),
            web.get("/v1/predictions/{id}", middleware.wrap("get", self.get)),
            web.post("/v1/predictions/{id}/cancel", middleware.wrap("cancel", self.cancel)),
            web.get("/v1/predictions", middleware.wrap("list", self.history)),
            web.post("/v1/files", middleware.wrap("file", self.upload)),
            web.get("/v1/files/{id}", middleware.wrap("file", self.file)),
            web.get("/v1/account", middleware.wrap("account", self.account)),
            web.get("/v1/webhooks/default/secret", middleware.wrap("secret", self.secret)),
            web.get("/v1/models/{owner}/{name}", middleware.wrap("model", self.model)),
            web.get("/v1/models/{owner}/{name}/versions/{id}", middleware.wrap("model", self.version)),
            web.route("*", "/v1/{rest:.*}", middleware.wrap("unknown", self.unknown)),
        ]

    async def create_official(self, request: web.Request) -> ApiResponse:
        """`POST /v1/models/{owner}/{name}/predictions`"""
        return await self._create(request, _named(request))

    async def create_version(self, request: web.Request) -> ApiResponse:
        """`POST /v1/predictions`"""
        return await self._create(request, None)

    async def get(self, request: web.Request) -> ApiResponse:
        """`GET /v1/predictions/{id}`"""
        return ApiResponse(representations.prediction(self._mine(request)))

    async def cancel(self, request: web.Request) -> ApiResponse:
        """`POST /v1/predictions/{id}/cancel`: no effect on an ended prediction."""
        prediction = self._mine(request)
        self._state.predictions.cancel(prediction)
        return ApiResponse(representations.prediction(prediction))

    async def history(self, request: web.Request) -> ApiResponse:
        """`GET /v1/predictions`: a hundred a page, newest first."""
        query = request.query
        is_in_period = _between(query.get("created_after"), query.get("created_before"))
        latest = self._state.predictions.now() - timedelta(seconds=self._state.list_lag())
        try:
            found = page(
                self._state.predictions,
                request[TOKEN],
                query.get("cursor"),
                size=PAGE,
                keep=lambda each: is_in_period(each) and each.created_at <= latest,
            )
        except ValueError as reason:
            raise responses.malformed("Invalid cursor") from reason
        here = URL(f"{_base(request)}{request.path}").with_query(query)
        links = {"next": found.next, "previous": found.previous}
        body = {
            name: str(here.update_query(cursor=cursor)) if cursor else None for name, cursor in links.items()
        }
        return ApiResponse(body | {"results": [representations.listed(each) for each in found.predictions]})

    async def upload(self, request: web.Request) -> ApiResponse:
        """`POST /v1/files`"""
        uploads, base_url = self._state.uploads, _base(request)
        return ApiResponse(await uploads.receive(request, token=request[TOKEN], base_url=base_url), 201)

    async def file(self, request: web.Request) -> ApiResponse:
        """`GET /v1/files/{id}`"""
        facts = self._state.uploads.find(request.match_info["id"], token=request[TOKEN])
        if facts is None:
            raise responses.not_found()
        return ApiResponse(facts)

    async def account(self, request: web.Request) -> ApiResponse:
        """`GET /v1/account`"""
        name = self._state.accounts.get(request[TOKEN]).username
        return ApiResponse(
            {"type": "organization", "username": name, "name": "Simulated", "github_url": None}
        )

    async def secret(self, request: web.Request) -> ApiResponse:
        """`GET /v1/webhooks/default/secret`"""
        return ApiResponse({"key": self._state.webhooks.secret(request[TOKEN])})

    async def model(self, request: web.Request) -> ApiResponse:
        """`GET /v1/models/{owner}/{name}`"""
        found = catalog.find(_named(request))
        if found is None:
            raise responses.not_found()
        return ApiResponse(representations.model(found))

    async def version(self, request: web.Request) -> ApiResponse:
        """`GET /v1/models/{owner}/{name}/versions/{id}`, which the client reads before a run."""
        version = request.match_info["id"]
        return ApiResponse(
            representations.version(creation.model_of(f"{_named(request)}:{version}"), version)
        )

    async def unknown(self, _request: web.Request) -> ApiResponse:
        """Any other path under `/v1`."""
        raise responses.not_found()

    async def _create(self, request: web.Request, name: str | None) -> ApiResponse:
        token = request[TOKEN]
        if self._state.accounts.get(token).credit == "empty":
            raise responses.insufficient_credit()
        created = await creation.parse(request, token=token, base_url=_base(request), name=name)
        prediction = self._state.create(created)
        seconds = creation.wait_seconds(request.headers.get("Prefer"))
        if seconds is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(prediction.settled.wait(), seconds)
        return ApiResponse(representations.prediction(prediction), 201)

    def _mine(self, request: web.Request) -> Prediction:
        found = self._state.predictions.find(request.match_info["id"], token=request[TOKEN])
        if found is None:
            raise responses.not_found()
        return found


def _named(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def _base(request: web.Request) -> str:
    """The address by which the caller reached this server, so that the URLs in responses work for it."""
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
        raise responses.malformed(f"{name} must be an ISO 8601 date-time") from reason
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
