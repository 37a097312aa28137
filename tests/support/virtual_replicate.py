"""Runs generations in virtual time through the gate, client, transport, watcher and the simulator itself.
Only the network is missing. `Loopback` replaces the connections: it passes a request of the service's
transport to the simulator's own routes, and returns the answer. The simulator runs on the same loop, so its
network delays, limits, counts and predictions follow the virtual clock.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import Application, Request, Response
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from simulator import Options
from simulator.server import application
from simulator.state import SimulatorState
from tests.support.connections import FakeConnections
from tests.support.wiring import Parts, parts

_CREATIONS = ("/predictions", "/trainings")
_MOST_BYTES = 2**20
"""The longest body that aiohttp reads where nothing else is set."""


class _Line:
    """The part of a connection that a handler uses: to check whether it is open, and to cut it."""

    cut = False

    def is_closing(self) -> bool:
        return self.cut

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return None

    def abort(self) -> None:
        self.cut = True

    close = abort


class _Protocol:
    """The server's side of a connection, as aiohttp needs it."""

    max_field_size = max_line_length = 8190
    max_headers = 128
    peername = sockname = ssl_context = None

    def __init__(self, line: _Line, writer: "_Writer") -> None:
        self.transport = line
        self.writer = writer


class _Writer:
    """Receives the part of an answer that a handler writes itself before it cuts the connection."""

    transport = None

    async def write_headers(self, *_: Any) -> None: ...

    def send_headers(self) -> None: ...

    async def write(self, *_: Any) -> None: ...

    async def write_eof(self, *_: Any) -> None: ...

    async def drain(self) -> None: ...


class Loopback(FakeConnections, httpx.AsyncBaseTransport):
    """Connections to a simulator on this loop, for the service or for httpx. Raises httpx.ReadError if the simulator
    cuts the connection."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def respond(self, request: httpx.Request) -> httpx.Response:
        line, loop = _Line(), asyncio.get_running_loop()
        body = StreamReader(_Unlimited(), 2**16, loop=loop)  # type: ignore[arg-type]
        body.feed_data(await request.aread())
        body.feed_eof()
        asked = _asked(request, body, line)
        found = await self._app.router.resolve(asked)
        asked._match_info = found  # noqa: SLF001 - as aiohttp's own router does
        response = await found.handler(asked)
        if line.cut or not isinstance(response, Response):  # a part of an answer
            raise httpx.ReadError("the connection was reset")
        assert response.body is None or isinstance(response.body, bytes)
        return httpx.Response(response.status, headers=response.headers, content=response.body)

    handle_async_request = respond


class Stalling(FakeConnections):
    """Connections to a Replicate that stops at times. Meanwhile it accepts requests, and serves them when it
    continues, even if their senders no longer wait. A message takes 0 to `jitter` seconds each way."""

    def __init__(self, inner: FakeConnections, *, jitter: float = 0.0, seed: int = 1) -> None:
        self._inner = inner
        self._jitter = jitter
        self._chance = random.Random(seed)
        self._serving: set[asyncio.Task[httpx.Response]] = set()
        self.arrivals: list[float] = []
        """The times by the loop's clock at which the creations were served."""
        self._goes_on = asyncio.Event()
        self._goes_on.set()

    def stop(self) -> None:
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()

    async def stall(self, seconds: float) -> None:
        self.stop()
        await asyncio.sleep(seconds)
        self.go_on()

    async def respond(self, request: httpx.Request) -> httpx.Response:
        served = asyncio.create_task(self._serve(request), name="the world's")
        self._serving.add(served)
        served.add_done_callback(self._done)
        return await asyncio.shield(served)

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        await self._under_way()
        if request.method == "POST" and request.url.path.endswith(_CREATIONS):
            self.arrivals.append(asyncio.get_running_loop().time())
        response = await self._inner.respond(request)
        await self._under_way()
        return response

    async def _under_way(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._jitter))
        await self._goes_on.wait()

    def _done(self, served: asyncio.Task[httpx.Response]) -> None:
        self._serving.discard(served)
        if not served.cancelled():
            served.exception()


class _Unlimited:
    """Flow control for a body that is already complete."""

    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, *, resume_parser: bool = True) -> None: ...


class Losing(FakeConnections):
    """Connections that lose some creations: the share `answers` loses the answer of a creation that was made,
    and the share `requests` loses the request itself. `chance.random()` decides."""

    def __init__(
        self,
        connections: FakeConnections,
        chance: random.Random,
        *,
        answers: float = 0.0,
        requests: float = 0.0,
    ) -> None:
        self._connections = connections
        self._chance = chance
        self._answers = answers
        self._requests = requests

    async def respond(self, request: httpx.Request) -> httpx.Response:
        drawn = self._chance.random() if request.url.path.endswith(_CREATIONS) else 1.0
        if request.method == "GET" or drawn >= self._answers + self._requests:
            return await self._connections.respond(request)
        if drawn < self._answers:
            await self._connections.respond(request)
        raise httpx.ReadError("the connection was reset")


def _asked(request: httpx.Request, body: StreamReader, line: _Line) -> Request:
    """A request as aiohttp reads it from a connection. Its own `make_mocked_request` makes mocks, which take longer
    than all that a handler does."""
    headers = CIMultiDictProxy(CIMultiDict(request.headers.multi_items()))
    path = request.url.raw_path.decode()
    message = RawRequestMessage(
        request.method,
        path,
        HttpVersion11,
        headers,
        raw_headers=tuple(request.headers.raw),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(path),
    )
    writer: Any = _Writer()
    protocol: Any = _Protocol(line, writer)
    return Request(
        message,
        body,
        protocol,
        writer,
        asyncio.current_task(),  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        client_max_size=_MOST_BYTES,
    )


def simulator_here(options: Options) -> tuple[SimulatorState, Loopback]:
    """A simulator on the running loop, and connections to it."""
    loop = asyncio.get_running_loop()
    world = SimulatorState(options, clock=lambda: round(loop.time() * 1e9))
    app = application(world)
    app.freeze()
    return world, Loopback(app)


@asynccontextmanager
async def replicate(
    options: Options,
    line: Callable[[FakeConnections], FakeConnections] = lambda loopback: loopback,
    **limits: Any,
) -> AsyncIterator[tuple[Parts, SimulatorState]]:
    """A service without HTTP (see `wiring.parts`) and a simulator, both on this loop. `line` may replace the
    connections between them."""
    world, loopback = simulator_here(options)
    try:
        async with parts("http://replicate.test", connections=line(loopback), **limits) as service:
            yield service, world
    finally:
        await world.close()
