"""The simulated Gemini without a server, on the clock of the loop, which may be virtual."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from concurrency import Gate
from providers.connections import HeldBack, Lost
from providers.gemini.client import GeminiClient
from providers.gemini.transport import Connections, Incoming, Request
from simulator.gemini.course import Cut
from simulator.gemini.options import GeminiOptions
from simulator.gemini.replies import ApiRequest, Reply
from simulator.gemini.service import Gemini


def gemini_here(**options: Any) -> Gemini:
    """A simulated Gemini on the clock of the running loop."""
    now = asyncio.get_running_loop().time
    return Gemini(GeminiOptions(**options), clock=lambda: round(now() * 10**9), seed=1)


class SimulatedGemini(Connections):
    """Connections to a Gemini of its own. Create it on a loop. `gemini` has its counts, bills and faults."""

    def __init__(self, **options: Any) -> None:
        self.gemini = gemini_here(**options)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Incoming]:
        if not request.may_send():
            raise HeldBack
        request.on_send()
        call = ApiRequest(
            method=request.method,
            path=request.url.path,
            query=dict(request.url.query),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request.body,
        )
        began = asyncio.get_running_loop().time()
        try:
            reply = await self.gemini.answer(call)
        except Cut:
            raise Lost("the connection was reset") from None
        if reply.head is not None:
            await asyncio.sleep(began + reply.head - asyncio.get_running_loop().time())
        incoming = _Incoming(reply)
        try:
            yield incoming
        finally:
            await incoming.aclose()

    async def aclose(self) -> None: ...

    def client(self, **options: Any) -> GeminiClient:
        others = Gate(concurrent_limit=100, requests_per_minute=1000)
        return GeminiClient(base_url="https://gemini.test", others=others, connections=self, **options)


class _Incoming(Incoming):
    def __init__(self, reply: Reply) -> None:
        self._status = reply.status
        self._parts = _parts(reply)

    @property
    def status(self) -> int:
        return self._status

    async def read(self) -> bytes:
        try:
            return await anext(self._parts, b"")
        except Cut:
            raise Lost("the connection was reset") from None

    async def aclose(self) -> None:
        await self._parts.aclose()


async def _parts(reply: Reply) -> AsyncGenerator[bytes, None]:
    if reply.parts is None:
        yield reply.body
        return
    try:
        async for part in reply.parts:
            yield part
    finally:
        await reply.parts.aclose()
