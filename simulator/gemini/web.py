"""Gemini's API over HTTP: reads a request, sends the answer part by part, and notices callers that disconnect.

aiohttp does not stop a handler after its caller has disconnected. A call is billed by the chunks sent until then, so a
watch ends the handlers of closed connections ten times a second: one timer for all, however many calls there are.
"""

import asyncio
from asyncio import Task, TimerHandle
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from simulator.gemini.course import Cut
from simulator.gemini.replies import ApiRequest, Parts, Reply
from simulator.gemini.service import Gemini
from simulator.sending import reset

_PERIOD_SECONDS = 0.1

_LARGEST_BODY_BYTES = 100_000_000
"""Google takes inline media of 100 MB in a request since 2026-01-08."""


class Watch:
    """Cancels the handlers of closed connections."""

    def __init__(self) -> None:
        self._tasks: dict[Task[Any], web.Request] = {}
        self._gone: set[Task[Any]] = set()
        self._timer: TimerHandle | None = None

    def add(self, task: Task[Any], request: web.Request) -> None:
        """Watch the connection of a request that a task handles."""
        self._tasks[task] = request
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD_SECONDS, self._look)

    def has_cancelled(self, task: Task[Any]) -> bool:
        """Whether this watch has cancelled the task."""
        return task in self._gone

    def remove(self, task: Task[Any]) -> None:
        """Watch it no more."""
        self._tasks.pop(task, None)
        self._gone.discard(task)

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        for task, request in self._tasks.items():
            if (request.transport is None or request.transport.is_closing()) and task not in self._gone:
                self._gone.add(task)
                task.cancel()
        if self._tasks:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD_SECONDS, self._look)


class GeminiApi:
    """The handlers under `/v1beta`. `network` waits as long as a message is under way."""

    def __init__(self, gemini: Gemini, network: Callable[[], Awaitable[None]]) -> None:
        self._gemini = gemini
        self._network = network
        self._watch = Watch()

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [web.route("*", "/v1beta/{rest:.*}", self.handle)]

    def close(self) -> None:
        """Stop watching connections."""
        self._watch.close()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any call."""
        call = ApiRequest(
            method=request.method,
            path=request.path,
            query=request.query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.clone(client_max_size=_LARGEST_BODY_BYTES).read(),
        )
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handler runs in a task")
        self._watch.add(task, request)
        try:
            await self._network()
            return await self._send(request, await self._gemini.answer(call))
        except Cut:
            return reset(request)
        except ConnectionResetError:
            return web.Response()
        except asyncio.CancelledError:
            if not self._watch.has_cancelled(task):
                raise
            task.uncancel()
            return web.Response()
        finally:
            self._watch.remove(task)

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        headers = {**reply.headers, "Server-Timing": "gfet4t7; dur=12"}
        if reply.parts is None:
            await self._network()
            return web.Response(status=reply.status, headers=headers, body=reply.body)
        response = web.StreamResponse(status=reply.status, headers=headers)
        try:
            if reply.head is not None:
                await asyncio.sleep(reply.head)
            await self._network()
            await response.prepare(request)
            await _write(response, reply.parts)
        finally:
            await reply.parts.aclose()
        return response


async def _write(response: web.StreamResponse, parts: Parts) -> None:
    async for part in parts:
        await response.write(part)
    await response.write_eof()
