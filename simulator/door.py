"""The door every API request passes: network, arrival, account, limits, faults, handler, network.

The order is the promise. A request is counted when it arrives, whatever becomes of it then; a token
nobody knows is refused before it could use up anything; a fault strikes only what the limits let
through, as a failing server stands behind the limiter; and the handler's answer is put on the wire
here and nowhere else, so that a fault can do to it what it likes.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from aiohttp import web

from simulator import faults, refusals
from simulator.accounts import Account
from simulator.faults import Fault
from simulator.refusals import JSON, Answer, Refusal
from simulator.world import World

TOKEN: web.RequestKey[str] = web.RequestKey("token", str)
TOKEN_PREFIX = "r8_"  # noqa: S105 - how tokens begin, not one

Handler = Callable[[web.Request], Awaitable[Answer]]
Served = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request of a known account."""

    request: web.Request
    account: Account
    creation: bool


class Door:
    """Puts handlers behind everything that happens to a request before and after them."""

    def __init__(self, world: World) -> None:
        self._world = world

    def guard(self, kind: str, handler: Handler) -> Served:
        """`handler`, for requests of `kind`, as a view aiohttp can route to."""

        async def served(request: web.Request) -> web.StreamResponse:
            try:
                return await self._pass(kind, handler, request)
            except ConnectionResetError:  # its sender is gone, and so is whoever would read an answer
                return web.Response()

        return served

    async def _pass(self, kind: str, handler: Handler, request: web.Request) -> web.StreamResponse:
        await self._travel()
        world, token = self._world, _token(request)
        world.tally.arrived(kind)
        if token is None:
            return await self._answer(request, refusals.unauthenticated().answer)
        visit = _Visit(request, world.accounts.of(token), creation=kind == "create")
        now = world.clock()
        arrivals = visit.account.arrive(now, creation=visit.creation)
        world.tally.dense(arrivals, creation=visit.creation)
        if visit.account.rejected:
            return await self._answer(request, refusals.unauthenticated().answer)
        if not visit.account.admit(now, creation=visit.creation):
            return await self._answer(request, _throttled(visit, now), visit)
        request[TOKEN] = token
        fault = world.faults.strike(kind, token)
        if fault is not None:
            return await self._suffer(fault, handler, visit)
        return await self._answer(request, await _handled(handler, request), visit)

    async def _suffer(self, fault: Fault, handler: Handler, visit: _Visit) -> web.StreamResponse:
        request = visit.request
        if fault.kind == "status":
            return await self._answer(request, _ordered(fault), visit)
        if fault.kind == "reset" and fault.value == "before":
            return _hang_up(request)
        answer = await _handled(handler, request)
        if fault.kind in ("reset", "hang", "truncate", "garbage"):
            self._world.tally.lost()
        match fault.kind:
            case "reset":
                return _hang_up(request)
            case "hang":
                await asyncio.sleep(fault.value)
                return _hang_up(request)
            case "truncate":
                await self._travel()
                return await _truncated(request, answer)
            case "garbage":
                answer = replace(answer, body="<html><body>upstream connect error</body></html>")
            case "delay":
                await asyncio.sleep(fault.value)
            case _:
                answer = replace(answer, body=faults.edited(answer.body, fault))
        return await self._answer(request, answer, visit)

    async def _answer(
        self,
        request: web.Request,
        answer: Answer,
        visit: _Visit | None = None,
    ) -> web.StreamResponse:
        """Send `answer`; a `visit` that reached an account is told what is left of its limit."""
        await self._travel()
        self._world.tally.answered(answer.status)
        if request.transport is None or request.transport.is_closing():
            self._world.tally.lost()
        response = sendable(answer)
        if visit is not None:
            left = visit.account.allowance(self._world.clock(), creation=visit.creation)
            response.headers["ratelimit-remaining"] = str(left.remaining)
            response.headers["ratelimit-reset"] = str(left.seconds)
        return response

    async def _travel(self) -> None:
        delay = self._world.network_delay()
        if delay:
            await asyncio.sleep(delay)


def sendable(answer: Answer) -> web.Response:
    """An answer as bytes and headers; a body that is text already goes as it is."""
    text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    headers = {"Content-Type": answer.content_type, **answer.headers}
    return web.Response(body=text.encode(), status=answer.status, headers=headers)


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    known = scheme.lower() in ("bearer", "token") and token.startswith(TOKEN_PREFIX)
    return token.strip() if known else None


def _throttled(visit: _Visit, now: int) -> Answer:
    left = visit.account.allowance(now, creation=visit.creation)
    low_credit = visit.creation and visit.account.credit == "low"
    return refusals.throttled(max(1, left.seconds), low_credit=low_credit).answer


async def _handled(handler: Handler, request: web.Request) -> Answer:
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.answer


def _ordered(fault: Fault) -> Answer:
    answer = refusals.of_status(fault.value)
    if fault.body is not None:
        answer = replace(answer, body=fault.body, content_type=JSON)
    if fault.headers is not None:
        answer = replace(answer, headers=dict(fault.headers))
    return answer


def _hang_up(request: web.Request) -> web.StreamResponse:
    """Reset the connection: no goodbye, and whatever was on its way is lost."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _truncated(request: web.Request, answer: Answer) -> web.StreamResponse:
    content = sendable(answer).body
    promised = content if isinstance(content, bytes) else b""
    response = web.StreamResponse(status=answer.status)
    response.content_type = answer.content_type
    response.content_length = len(promised)
    await response.prepare(request)
    await response.write(promised[: len(promised) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
