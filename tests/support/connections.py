"""Connections to a Replicate that a test plays, with the requests and responses of httpx."""

from abc import abstractmethod
from collections.abc import AsyncIterator

import httpx

from providers.connections import HeldBack, Lost
from providers.replicate.transport import Connections, Request, Response, read_body


class FakeConnections(Connections):
    """Connections that pass each request to `respond`. An httpx error in it, or in its stream, loses the response."""

    @abstractmethod
    async def respond(self, request: httpx.Request) -> httpx.Response: ...

    async def send(self, request: Request, *, most: int) -> Response:
        encoded = await as_httpx(request)
        if request.may_send is not None and not request.may_send():
            raise HeldBack
        try:
            response = await self.respond(encoded)
        except httpx.HTTPError as error:
            raise Lost(type(error).__name__) from error
        encoding = response.headers.pop("content-encoding", "")
        body = await read_body(response.status_code, encoding, _chunks(response), most)
        return Response(response.status_code, response.headers, body)

    async def aclose(self) -> None: ...


async def as_httpx(request: Request) -> httpx.Request:
    body = request.body
    if body is not None and not isinstance(body, bytes):
        body = b"".join([part async for part in body])
    return httpx.Request(request.method, str(request.url), headers=dict(request.headers), content=body)


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        async for chunk in response.stream:
            yield chunk
    except httpx.HTTPError as error:
        raise Lost(type(error).__name__) from error
