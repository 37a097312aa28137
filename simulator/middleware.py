"""The door every API request passes: network, arrival, account, limits, faults, handler, network.

The order is the promise. A request is counted when it arrives, whatever becomes of it then; a token
nobody knows is refused before it could use up anything; a fault strikes only what the limits let
through, as a failing server stands behind the limiter; and the handler's answer goes through here to
the `wire`, so that a fault can do to it what it likes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import format_datetime
from functools import partial

from aiohttp import web

from simulator import responses, sending
from simulator.accounts import Account
from simulator.responses import ApiError, ApiResponse
from simulator.state import SimulatorState

TOKEN: web.RequestKey[str] = web.RequestKey("token", str)
TOKEN_PREFIX = "r8_"  # noqa: S105 - how tokens begin, not one

Handler = Callable[[web.Request], Awaitable[ApiResponse]]
Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request of a known account."""

    request: web.Request
    account: Account
    creation: bool


class Middleware:
    """Puts handlers behind everything that happens to a request before and after them."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def wrap(self, kind: str, handler: Handler) -> Served:
        """`handler`, for requests of `kind`, as a view aiohttp can route to."""

        async def served(request: web.Request) -> web.StreamResponse:
            try:
                return await self._pass(kind, handler, request)
            except ConnectionResetError:  # its sender is gone, and so is whoever would read an answer
                return web.Response()

        return served

    async def _pass(self, kind: str, handler: Handler, request: web.Request) -> web.StreamResponse:
        if kind == "create":
            await request.read()  # it is handled although its sender gives up meanwhile
        await self._travel()
        state, token = self._state, _token(request)
        state.counters.count_request(kind)
        if token is None:
            return await self._answer(request, responses.unauthenticated().answer)
        visit = _Visit(request, state.accounts.get(token), creation=kind == "create")
        now = state.clock()
        arrivals = visit.account.count_arrival(now, creation=visit.creation)
        state.counters.record_peak(arrivals, creation=visit.creation)
        if visit.account.rejected:
            return await self._answer(request, responses.unauthenticated().answer)
        if not visit.account.admit(now, creation=visit.creation):
            return await self._answer(request, _throttled(visit, now), visit)
        request[TOKEN] = token
        fault = state.faults.take(kind, token)
        handle = partial(_handled, handler, request)
        if fault is None:
            return await self._answer(request, await handle(), visit)
        send = partial(self._answer, request, visit=visit)
        return await sending.inject_fault(fault, request, handle=handle, send=send, counters=state.counters)

    async def _answer(
        self,
        request: web.Request,
        answer: ApiResponse,
        visit: _Visit | None = None,
    ) -> web.Response:
        """Send `answer`; a `visit` that reached an account is told what is left of its limit."""
        await self._travel()
        response = sending.counted_response(request, answer, self._state.counters)
        response.headers["Date"] = format_datetime(self._state.predictions.now(), usegmt=True)
        if visit is not None:
            left = visit.account.allowance(self._state.clock(), creation=visit.creation)
            response.headers["ratelimit-remaining"] = str(left.remaining)
            response.headers["ratelimit-reset"] = str(left.seconds)
        return response

    async def _travel(self) -> None:
        delay = self._state.network_delay()
        if delay:
            await asyncio.sleep(delay)
        await self._state.wait_for_stall_end()


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    known = scheme.lower() in ("bearer", "token") and token.startswith(TOKEN_PREFIX)
    return token.strip() if known else None


def _throttled(visit: _Visit, now: int) -> ApiResponse:
    left = visit.account.allowance(now, creation=visit.creation)
    low_credit = visit.creation and visit.account.credit == "low"
    return responses.throttled(max(1, left.seconds), low_credit=low_credit).answer


async def _handled(handler: Handler, request: web.Request) -> ApiResponse:
    try:
        return await handler(request)
    except ApiError as refusal:
        return refusal.answer
