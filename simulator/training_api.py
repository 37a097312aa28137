"""Replicate's API of trainings: a thin handler for each call.

A training is made by a version that publishes `TrainingInput`. The response to its creation has the addresses of a
prediction, as Replicate's has; those of a training are right in every later response.
"""

from datetime import timedelta

from aiohttp import web

from simulator import creation, paging, representations, responses
from simulator.api import base_url, named
from simulator.middleware import TOKEN, Middleware
from simulator.responses import ApiResponse
from simulator.state import SimulatorState
from simulator.trainings import Training


class TrainingApi:
    """The handlers of trainings."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def routes(self, middleware: Middleware) -> list[web.RouteDef]:
        """The routes. `middleware` wraps each handler and counts its requests by kind."""
        return [
            web.post(
                "/v1/models/{owner}/{name}/versions/{id}/trainings", middleware.wrap("train", self.create)
            ),
            web.get("/v1/trainings/{id}", middleware.wrap("training", self.get)),
            web.post("/v1/trainings/{id}/cancel", middleware.wrap("train_cancel", self.cancel)),
            web.get("/v1/trainings", middleware.wrap("trainings", self.history)),
        ]

    async def create(self, request: web.Request) -> ApiResponse:
        """`POST /v1/models/{owner}/{name}/versions/{id}/trainings`"""
        token = request[TOKEN]
        account = self._state.accounts.get(token)
        if account.credit == "empty":
            raise responses.insufficient_credit()
        created = await creation.parse_training(
            request,
            token=token,
            username=account.username,
            base_url=base_url(request),
            models=self._state.models,
            name=named(request),
            version=request.match_info["id"],
        )
        return ApiResponse(representations.created_training(self._state.train(created)), 201)

    async def get(self, request: web.Request) -> ApiResponse:
        """`GET /v1/trainings/{id}`"""
        return ApiResponse(representations.training(self._mine(request)))

    async def cancel(self, request: web.Request) -> ApiResponse:
        """`POST /v1/trainings/{id}/cancel`: no effect on an ended training."""
        training = self._mine(request)
        self._state.trainings.cancel(training)
        return ApiResponse(representations.training(training))

    async def history(self, request: web.Request) -> ApiResponse:
        """`GET /v1/trainings`: a hundred a page, newest first."""
        latest = self._state.trainings.now() - timedelta(seconds=self._state.list_lag())
        return paging.answer(
            request,
            self._state.trainings,
            token=request[TOKEN],
            base_url=base_url(request),
            keep=lambda each: each.created_at <= latest,
            show=representations.listed_training,
        )

    def _mine(self, request: web.Request) -> Training:
        found = self._state.trainings.find(request.match_info["id"], token=request[TOKEN])
        if found is None:
            raise responses.not_found()
        return found
