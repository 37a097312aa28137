"""Sends responses, intact or damaged by a fault.

Only this module uses connections: it delays, resets, truncates and slows them, for API requests and downloads. A
damaged response keeps the status and headers of the intact one, so its receiver expects all of it.
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
Pause = Callable[[float], Awaitable[None]]

_GARBAGE = "<html><body>upstream connect error</body></html>"
_LONGEST_PAUSE_SECONDS = 0.05
_UNREADABLE = ("reset", "hang", "truncate", "garbage")


def web_response(response: ApiResponse) -> web.Response:
    """The response for aiohttp. A body of bytes or text is sent as it is, any other as JSON."""
    body = response.body
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = CIMultiDict({"Content-Type": response.content_type})
    headers.update(response.headers)
    return web.Response(body=body, status=response.status, headers=headers)


def counted_response(request: web.Request, response: ApiResponse, counters: Counters) -> web.Response:
    """The response for aiohttp, counted as sent, or as lost if the caller has disconnected."""
    counters.count_response(response.status)
    if request.transport is None or request.transport.is_closing():
        counters.count_lost_response()
    return web_response(response)


async def inject_fault(
    fault: Fault, request: web.Request, *, handle: Handler, send: Send, pause: Pause, counters: Counters
) -> web.StreamResponse:
    """Respond to `request` as `fault` says.

    Args:
        fault: The fault.
        request: The request that it affects.
        handle: Handles the request and returns its response. Some faults do not call it.
        send: Sends a response as it would be sent without a fault.
        pause: Waits for so many seconds.
        counters: Counts the responses that the caller could not read.
    """
    if fault.kind == "status":
        return await send(_status_response(fault))
    if fault.kind == "reset" and fault.value == "before":
        return reset(request)
    response = await handle()
    if fault.kind in _UNREADABLE:
        counters.count_lost_response()
    match fault.kind:
        case "reset":
            return reset(request)
        case "hang":
            await pause(fault.value)
            return reset(request)
        case "truncate":
            return await _truncate(request, await send(response))
        case "slow":
            return await _slow(request, await send(response), fault.value, counters)
        case "garbage":
            response = replace(response, body=_GARBAGE)
        case "delay":
            await pause(fault.value)
        case _:
            response = replace(response, body=faults.edit(response.body, fault))
    return await send(response)


def _status_response(fault: Fault) -> ApiResponse:
    response = responses.of_status(fault.value)
    if fault.body is not None:
        response = replace(response, body=fault.body, content_type=JSON)
    if fault.headers is not None:
        response = replace(response, headers=dict(fault.headers))
    return response


def reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection. Unsent data is lost."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response()


async def _truncate(request: web.Request, whole: web.Response) -> web.StreamResponse:
    response, content = await _start_response(request, whole)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _slow(
    request: web.Request, whole: web.Response, seconds: float, counters: Counters
) -> web.StreamResponse:
    """Send the response in pieces: the first at once, the last after `seconds`, with short pauses.

    A client with a timeout for each read succeeds. A client with a timeout for the whole response fails.
    """
    now = asyncio.get_running_loop().time
    start = now()
    try:
        response, content = await _start_response(request, whole)
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


async def _start_response(request: web.Request, whole: web.Response) -> tuple[web.StreamResponse, bytes]:
    """A response whose headers have been sent, with the full content length, and its content."""
    content = whole.body if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(content)
    await response.prepare(request)
    return response, content
