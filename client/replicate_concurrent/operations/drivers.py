"""The two drivers: they perform the steps of operations, one with blocking calls and one on asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import httpx

from replicate_concurrent.operations.lazy_files import LazyFile
from replicate_concurrent.operations.steps import (
    Chunk,
    Close,
    Do,
    Emit,
    Now,
    Open,
    Operation,
    Part,
    Pause,
    Read,
    Request,
    Send,
    T,
)

_CONNECT = 10.0
"""Seconds to connect."""

Clock = Callable[[], float]

_UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0)
"""The service limits how many requests wait; a second queue in the client would hide its answers."""

_NO_PROXY: Final = {"all://127.0.0.1": None}
"""A proxy does not reach the service of this machine."""


class Driver:
    """Performs steps with blocking calls. The times are arguments, so that tests need not wait."""

    def __init__(
        self,
        http: httpx.Client | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._owned = http is None
        self.http = http or httpx.Client(limits=_UNLIMITED, mounts=_NO_PROXY)
        self._clock = clock
        self._sleep = sleep

    def run(self, operation: Operation[T]) -> T:
        """The result of an operation. Raises what it raises."""
        result: list[T] = []
        for _ in self._steps(operation, result):
            pass
        return result[0]

    def iterate(self, operation: Operation[Any]) -> Iterator[Any]:
        """The values that an operation emits."""
        yield from self._steps(operation, [])

    def close(self) -> None:
        if self._owned:
            self.http.close()

    def _steps(self, operation: Operation[T], result: list[T]) -> Iterator[Any]:
        opened: dict[httpx.Response, Iterator[bytes]] = {}
        try:
            step = next(operation)
            while True:
                if isinstance(step, Emit):
                    yield step.value
                    step = operation.send(None)
                    continue
                try:
                    done = self._perform(step, opened)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(done)
        except StopIteration as end:
            result.append(end.value)
        finally:
            operation.close()
            for each in opened:
                each.close()

    def _perform(self, step: object, opened: dict[httpx.Response, Iterator[bytes]]) -> Any:
        match step:
            case Send(request):
                with ExitStack() as files:
                    return self.http.send(
                        built(self.http, request, files), follow_redirects=request.follow_redirects
                    )
            case Open(request):
                with ExitStack() as files:
                    response = self.http.send(
                        built(self.http, request, files),
                        stream=True,
                        follow_redirects=request.follow_redirects,
                    )
                opened[response] = response.iter_bytes()
                return response
            case Chunk(response):
                return next(opened[response], None)
            case Read(response):
                return response.read()
            case Close(response):
                response.close()
                return None
            case Now():
                return self._clock()
            case Pause(seconds):
                self._sleep(seconds)
                return None
            case Do(function, arguments):
                return function(*arguments)
        raise TypeError(f"not a step: {step!r}")


class AsyncDriver:
    """Performs steps on asyncio. What may block runs in a thread."""

    def __init__(
        self,
        http: httpx.AsyncClient | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._owned = http is None
        self.http = http or httpx.AsyncClient(limits=_UNLIMITED, mounts=_NO_PROXY)
        self._clock = clock
        self._sleep = sleep

    async def run(self, operation: Operation[T]) -> T:
        """The result of an operation. Raises what it raises."""
        result: list[T] = []
        async for _ in self._steps(operation, result):
            pass
        return result[0]

    async def iterate(self, operation: Operation[Any]) -> AsyncIterator[Any]:
        """The values that an operation emits."""
        async for value in self._steps(operation, []):
            yield value

    async def close(self) -> None:
        if self._owned:
            await self.http.aclose()

    async def _steps(self, operation: Operation[T], result: list[T]) -> AsyncIterator[Any]:
        opened: dict[httpx.Response, AsyncIterator[bytes]] = {}
        try:
            step = next(operation)
            while True:
                if isinstance(step, Emit):
                    yield step.value
                    step = operation.send(None)
                    continue
                try:
                    done = await self._perform(step, opened)
                except Exception as error:
                    step = operation.throw(error)
                else:
                    step = operation.send(done)
        except StopIteration as end:
            result.append(end.value)
        finally:
            operation.close()
            for each in opened:
                await each.aclose()

    async def _perform(self, step: object, opened: dict[httpx.Response, AsyncIterator[bytes]]) -> Any:
        match step:
            case Send(request):
                with ExitStack() as files:
                    return await self.http.send(
                        built(self.http, request, files), follow_redirects=request.follow_redirects
                    )
            case Open(request):
                with ExitStack() as files:
                    response = await self.http.send(
                        built(self.http, request, files),
                        stream=True,
                        follow_redirects=request.follow_redirects,
                    )
                opened[response] = response.aiter_bytes()
                return response
            case Chunk(response):
                return await anext(opened[response], None)
            case Read(response):
                return await response.aread()
            case Close(response):
                await response.aclose()
                return None
            case Now():
                return self._clock()
            case Pause(seconds):
                await self._sleep(seconds)
                return None
            case Do(function, arguments):
                return await asyncio.to_thread(function, *arguments)
        raise TypeError(f"not a step: {step!r}")


def built(http: httpx.Client | httpx.AsyncClient, request: Request, files: ExitStack) -> httpx.Request:
    """The request for httpx. Files of its parts are opened when they are read, until the end of `files`."""
    parts = [(part.name, _content(part, files)) for part in request.parts]
    return http.build_request(
        request.method,
        request.url,
        headers=dict(request.headers),
        json=request.json,
        params=request.params,
        files=parts or None,
        timeout=httpx.Timeout(request.timeout, connect=min(_CONNECT, request.timeout), pool=None),
    )


def _content(part: Part, files: ExitStack) -> Any:
    content: Any = part.content
    if isinstance(content, Path):
        content = files.enter_context(closing(LazyFile(content)))
    if part.filename is None:
        return None, content
    return part.filename, content, part.content_type or "application/octet-stream"
