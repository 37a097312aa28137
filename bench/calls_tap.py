"""A forwarder of bytes between the service and its upstream, which notes when the first chunk of an answer passes."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from loop_thread import LoopThread

T = TypeVar("T")

_CHUNK = b"data: "
_MOST = 65_536


class Tap:
    """Forwards to the server at `upstream`, a URL, as long as its block runs. `url` is its own.

    `first_chunk` is the loop's time at which the first chunk passed since it was None."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._address = parts.hostname, parts.port
        self._thread = LoopThread("tap")
        self._tasks: set[asyncio.Task[None]] = set()
        self.first_chunk: float | None = None
        self.url = ""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work on the loop of the forwarder."""
        return self._thread.run(work)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self.run(asyncio.start_server(self._forward, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._close())
        self._thread.stop()

    async def _close(self) -> None:
        self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(*self._address)
        for work in (
            self._pump(reader, upstream_writer, is_answer=False),
            self._pump(upstream_reader, writer, is_answer=True),
        ):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(_MOST):
                if is_answer and self.first_chunk is None and _CHUNK in part:
                    self.first_chunk = asyncio.get_running_loop().time()
                writer.write(part)
                await writer.drain()
        writer.close()
