"""The wire: how an answer leaves, whole as it should or as a fault would have it.

Handlers say what to answer and never see a connection. It is held, cut and starved here, for requests of the API and
for downloads alike. A spoiled answer has the status and headers of the good one: its receiver is promised everything.
"""

import asyncio
import json
import math
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

from aiohttp import web
from multidict import CIMultiDict

from simulator import faults, responses
from simulator.counts import Counters
from simulator.faults import Fault
from simulator.responses import JSON, ApiResponse

Handler = Callable[[], Awaitable[ApiResponse]]
Send = Callable[[ApiResponse], Awaitable[web.Response]]

_GARBAGE = "<html><body>upstream connect error</body></html>"
_LONGEST_PAUSE_SECONDS = 0.05
_UNREADABLE = ("reset", "hang", "truncate", "garbage")


def web_response(answer: ApiResponse) -> web.Response:
    """An answer as bytes and headers; a body that is bytes or text already goes as it is."""
    body = answer.body
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = CIMultiDict({"Content-Type": answer.content_type})
    headers.update(answer.headers)
    return web.Response(body=body, status=answer.status, headers=headers)


def counted_response(request: web.Request, answer: ApiResponse, counters: Counters) -> web.Response:
    """Count `answer` as it leaves, and make it sendable."""
    counters.count_response(answer.status)
    if request.transport is None or request.transport.is_closing():
        counters.count_lost_response()
    return web_response(answer)


async def inject_fault(
    fault: Fault, request: web.Request, *, handle: Handler, send: Send, counters: Counters
) -> web.StreamResponse:
    """Let `fault` do to a request what it does.

    Args:
        fault: What was ordered.
        request: Whom it strikes.
        handle: Handles the request, and answers; a fault may do without.
        send: Makes an answer leave as it would without a fault.
        tally: Counts the answers nobody could read.
    """
    if fault.kind == "status":
        return await send(_ordered(fault))
    if fault.kind == "reset" and fault.value == "before":
        return _hang_up(request)
    answer = await handle()
    if fault.kind in _UNREADABLE:
        counters.count_lost_response()
    match fault.kind:
        case "reset":
            return _hang_up(request)
        case "hang":
            await asyncio.sleep(fault.value)
            return _hang_up(request)
        case "truncate":
            return await _truncated(request, await send(answer))
        case "slow":
            return await _trickled(request, await send(answer), fault.value, counters)
        case "garbage":
            answer = replace(answer, body=_GARBAGE)
        case "delay":
            await asyncio.sleep(fault.value)
        case _:
            answer = replace(answer, body=faults.edit(answer.body, fault))
    return await send(answer)


def _ordered(fault: Fault) -> ApiResponse:
    answer = responses.of_status(fault.value)
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


async def _truncated(request: web.Request, whole: web.Response) -> web.StreamResponse:
    response, content = await _promised(request, whole)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _trickled(
    request: web.Request, whole: web.Response, seconds: float, counters: Counters
) -> web.StreamResponse:
    """Send the answer in pieces: the first at once, the last after `seconds`, with no long pause in between.

    A client that only minds the time between two pieces never notices; one that minds the whole does.
    """
    now = asyncio.get_running_loop().time
    start = now()
    try:
        response, content = await _promised(request, whole)
        pieces = min(len(content), math.ceil(seconds / _LONGEST_PAUSE_SECONDS) + 1)
        pause = seconds / max(1, pieces - 1)
        for piece in range(pieces):
            await asyncio.sleep(max(0.0, start + piece * pause - now()))
            await response.write(
                content[len(content) * piece // pieces : len(content) * (piece + 1) // pieces]
            )
    except ConnectionResetError:
        counters.count_lost_response()
        raise
    return response


async def _promised(request: web.Request, whole: web.Response) -> tuple[web.StreamResponse, bytes]:
    """An answer whose headers have left and promise all of its content, and that content."""
    content = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(content)
    await response.prepare(request)
    return response, content
