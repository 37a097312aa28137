"""Replicate's API: a thin handler for each call that the service or its tests make.

The middleware has checked token and limits before a handler runs. A handler returns an `ApiResponse` or raises an
`ApiError`. Another account's prediction is treated as missing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import web

from simulator import creation, destinations, paging, representations, responses
from simulator.middleware import TOKEN, Middleware
from simulator.model import HIDDEN, Model
from simulator.predictions import Prediction
from simulator.responses import ApiResponse
from simulator.state import SimulatorState

_LONGEST_SEARCH = 50


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
            web.delete("/v1/files/{id}", middleware.wrap("file_delete", self.delete_file)),
            web.get("/v1/account", middleware.wrap("account", self.account)),
            web.get("/v1/webhooks/default/secret", middleware.wrap("secret", self.secret)),
            web.post("/v1/models", middleware.wrap("model_create", self.create_model)),
            web.get("/v1/models/{owner}/{name}", middleware.wrap("model", self.model)),
            web.get("/v1/models/{owner}/{name}/versions", middleware.wrap("versions", self.versions)),
            web.get("/v1/models/{owner}/{name}/versions/{id}", middleware.wrap("version", self.version)),
            web.get("/v1/deployments/{owner}/{name}", middleware.wrap("deployment", self.deployment)),
            web.post(
                "/v1/deployments/{owner}/{name}/predictions",
                middleware.wrap("create", self.create_deployed),
            ),
            web.get("/v1/search", middleware.wrap("search", self.search)),
            web.route("*", "/v1/{rest:.*}", middleware.wrap("unknown", self.unknown)),
        ]

    async def create_official(self, request: web.Request) -> ApiResponse:
        """`POST /v1/models/{owner}/{name}/predictions`"""
        return await self._create(request, name=named(request))

    async def create_deployed(self, request: web.Request) -> ApiResponse:
        """`POST /v1/deployments/{owner}/{name}/predictions`"""
        return await self._create(request, deployment=named(request))

    async def create_version(self, request: web.Request) -> ApiResponse:
        """`POST /v1/predictions`"""
        return await self._create(request)

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
        is_in_period = _between(request.query.get("created_after"), request.query.get("created_before"))
        latest = self._state.predictions.now() - timedelta(seconds=self._state.list_lag())
        return paging.answer(
            request,
            self._state.predictions,
            token=request[TOKEN],
            base_url=base_url(request),
            keep=lambda each: is_in_period(each) and each.created_at <= latest,
            show=representations.listed,
        )

    async def upload(self, request: web.Request) -> ApiResponse:
        """`POST /v1/files`"""
        made = await self._state.uploads.receive(request, token=request[TOKEN], base_url=base_url(request))
        return ApiResponse(made, 201)

    async def file(self, request: web.Request) -> ApiResponse:
        """`GET /v1/files/{id}`"""
        facts = self._state.uploads.find(request.match_info["id"], token=request[TOKEN])
        if facts is None:
            raise responses.not_found()
        return ApiResponse(facts)

    async def delete_file(self, request: web.Request) -> ApiResponse:
        """`DELETE /v1/files/{id}`"""
        if not self._state.uploads.delete(request.match_info["id"], token=request[TOKEN]):
            raise responses.not_found()
        return ApiResponse(b"", 204)

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
        return ApiResponse(representations.model(self._model(request)))

    async def create_model(self, request: web.Request) -> ApiResponse:
        """`POST /v1/models`: a model without a version, such as the destination of a training."""
        token = request[TOKEN]
        document = destinations.parse(
            await request.read(), username=self._state.accounts.get(token).username, token=token
        )
        if self._state.models.is_taken(f"{document['owner']}/{document['name']}"):
            raise responses.model_exists()
        return ApiResponse(representations.model(self._state.models.publish(document)), 201)

    async def versions(self, request: web.Request) -> ApiResponse:
        """`GET /v1/models/{owner}/{name}/versions`, which an official model does not have."""
        model = self._model(request)
        if model.is_official:
            raise responses.not_found()
        shown = [representations.version(each) for each in model.versions]
        return ApiResponse({"next": None, "previous": None, "results": shown})

    async def version(self, request: web.Request) -> ApiResponse:
        """`GET /v1/models/{owner}/{name}/versions/{id}`"""
        version = request.match_info["id"]
        found = self._model(request).find(version) if version != HIDDEN else None
        if found is None:
            raise responses.not_found()
        return ApiResponse(representations.version(found))

    async def deployment(self, request: web.Request) -> ApiResponse:
        """`GET /v1/deployments/{owner}/{name}`"""
        found = self._state.models.deployment(named(request), token=request[TOKEN])
        if found is None:
            raise responses.not_found()
        return ApiResponse(representations.deployment(found))

    async def search(self, request: web.Request) -> ApiResponse:
        """`GET /v1/search?query=&limit=`: public models, at most 50."""
        query, limit = request.query.get("query", ""), request.query.get("limit", "20")
        if not query or not limit.isdecimal() or not 1 <= int(limit) <= _LONGEST_SEARCH:
            raise responses.malformed(f"query is required, and limit is between 1 and {_LONGEST_SEARCH}")
        found = self._state.models.search(query, limit=int(limit), token=request[TOKEN])
        return ApiResponse(representations.found(query, found))

    async def unknown(self, _request: web.Request) -> ApiResponse:
        """Any other path under `/v1`."""
        raise responses.not_found()

    async def _create(
        self, request: web.Request, *, name: str | None = None, deployment: str | None = None
    ) -> ApiResponse:
        token = request[TOKEN]
        if self._state.accounts.get(token).credit == "empty":
            raise responses.insufficient_credit()
        created = await creation.parse(
            request,
            token=token,
            base_url=base_url(request),
            models=self._state.models,
            name=name,
            deployment=deployment,
        )
        prediction = self._state.create(created)
        seconds = creation.wait_seconds(request.headers.get("Prefer"))
        if seconds is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(prediction.settled.wait(), seconds)
        return ApiResponse(representations.prediction(prediction), 201)

    def _model(self, request: web.Request) -> Model:
        found = self._state.models.find(named(request), token=request[TOKEN])
        if found is None:
            raise responses.not_found()
        return found

    def _mine(self, request: web.Request) -> Prediction:
        found = self._state.predictions.find(request.match_info["id"], token=request[TOKEN])
        if found is None:
            raise responses.not_found()
        return found


def named(request: web.Request) -> str:
    """The `owner/name` in the path of a request."""
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def base_url(request: web.Request) -> str:
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
