"""The steps around every API request: network delay, arrival count, account, limits, faults, handler, network delay.

The order of the steps matters:

- A request is counted when it arrives, also if it fails afterwards.
- An invalid token is refused before it uses up any limit.
- A fault applies only to requests within the limits, as a failing server is behind the rate limiter.
- Each response is sent by `sending`, where a fault can change it.
"""

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
TOKEN_PREFIX = "r8_"  # noqa: S105 - the prefix of tokens, not a token

Handler = Callable[[web.Request], Awaitable[ApiResponse]]
View = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _AccountRequest:
    """A request with a valid token."""

    request: web.Request
    account: Account
    creation: bool


class Middleware:
    """Wraps handlers in the steps before and after them."""

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def wrap(self, kind: str, handler: Handler) -> View:
        """`handler`, for requests of `kind`, as an aiohttp view."""

        async def view(request: web.Request) -> web.StreamResponse:
            try:
                return await self._process(kind, handler, request)
            except ConnectionResetError:  # the caller has disconnected, so any response will do
                return web.Response()

        return view

    async def _process(self, kind: str, handler: Handler, request: web.Request) -> web.StreamResponse:
        if kind in ("create", "train"):
            await request.read()  # a creation is handled even if its caller disconnects meanwhile
        await self._state.travel()
        state, token = self._state, token_of(request)
        state.counters.count_request(kind)
        if token is None:
            return await self._respond(request, responses.unauthenticated().response)
        if state.accounts.is_rejected(token):
            return await self._respond(request, responses.unauthenticated().response)
        known = _AccountRequest(request, state.accounts.get(token), creation=kind == "create")
        now = state.clock()
        arrivals = known.account.count_arrival(now, creation=known.creation)
        state.counters.record_peak(arrivals, creation=known.creation)
        if not known.account.admit(now, creation=known.creation):
            return await self._respond(request, _throttled(known, now), known)
        request[TOKEN] = token = state.accounts.owner(token)
        fault = state.faults.take(kind, token)
        handle = partial(_handle, handler, request)
        if fault is None:
            return await self._respond(request, await handle(), known)
        send = partial(self._respond, request, known=known)
        return await sending.inject_fault(
            fault, request, handle=handle, send=send, pause=state.faults.pause, counters=state.counters
        )

    async def _respond(
        self, request: web.Request, response: ApiResponse, known: _AccountRequest | None = None
    ) -> web.Response:
        """Send `response`. With an account, its headers have the rest of the limit."""
        await self._state.travel()
        sent = sending.counted_response(request, response, self._state.counters)
        sent.headers["Date"] = format_datetime(self._state.predictions.now(), usegmt=True)
        if known is not None:
            left = known.account.allowance(self._state.clock(), creation=known.creation)
            sent.headers["ratelimit-remaining"] = str(left.remaining)
            sent.headers["ratelimit-reset"] = str(left.seconds)
        return sent


def token_of(request: web.Request) -> str | None:
    """The token of a request, or None if it has none of the right form."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    valid = scheme.lower() in ("bearer", "token") and token.startswith(TOKEN_PREFIX)
    return token.strip() if valid else None


def _throttled(known: _AccountRequest, now: int) -> ApiResponse:
    left = known.account.allowance(now, creation=known.creation)
    low_credit = known.creation and known.account.credit == "low"
    return responses.throttled(max(1, left.seconds), low_credit=low_credit).response


async def _handle(handler: Handler, request: web.Request) -> ApiResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error.response
