"""The whole way of a generation in virtual time: gate, client, transport, watcher, and the simulator itself.

Only the network is missing. `Loopback` stands where the connections would: it takes a request from the service's
transport, hands it to the simulator's own routes, and brings the answer back. The simulator lives on the same
loop, so its network delays, limits, counts and predictions all go by the clock that jumps.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Application, Response
from multidict import CIMultiDict
from parts import Parts, parts

from simulator import Options
from simulator.server import application
from simulator.world import World


class _Line:
    """What a handler sees of a connection: enough to ask after it and to cut it."""

    cut = False

    def is_closing(self) -> bool:
        return self.cut

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return None

    def abort(self) -> None:
        self.cut = True

    close = abort


class Loopback(httpx.AsyncBaseTransport):
    """Connections to a simulator on this loop. Raises httpx.ReadError where the simulator cuts the line."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        line, body = _Line(), StreamReader(_Unlimited(), 2**16, loop=asyncio.get_running_loop())
        body.feed_data(await request.aread())
        body.feed_eof()
        asked = make_mocked_request(
            request.method,
            request.url.raw_path.decode(),
            headers=CIMultiDict(request.headers.multi_items()),
            transport=line,
            payload=body,
            app=self._app,
        )
        found = await self._app.router.resolve(asked)
        asked._match_info = found
        response = await found.handler(asked)
        if line.cut or not isinstance(response, Response):  # a part of an answer
            raise httpx.ReadError("the connection was reset")
        return httpx.Response(response.status, headers=response.headers, content=response.body)


class _Unlimited:
    """Flow control for a body that is here already."""

    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, *, resume_parser: bool = True) -> None: ...


@asynccontextmanager
async def replicate(options: Options, **limits: Any) -> AsyncIterator[tuple[Parts, World]]:
    """The inside of a service (see `parts.parts`) before a simulator, both on this loop."""
    world = World(options, clock=lambda: round(asyncio.get_running_loop().time() * 1e9))
    app = application(world)
    app.freeze()
    try:
        async with parts("http://replicate.test", connections=Loopback(app), **limits) as service:
            yield service, world
    finally:
        await world.close()
