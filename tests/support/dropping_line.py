"""A line to one service process or several that drops some of the answers: it ends the connection in their place."""

import asyncio
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from loop_thread import LoopThread

_CHUNK = 65536
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class DroppingLine:
    """Forwards each connection to one of the `ports` on loopback, in turn. Of the answers to POST requests, it drops
    the `share`: before a byte of them is passed on, and if they are `whole`, only after it has read them."""

    def __init__(self, ports: Sequence[int], *, share: float, whole: bool, seed: int) -> None:
        self.url = ""
        self.dropped = 0
        self._ports = ports
        self._share = share
        self._whole = whole
        self._random = random.Random(seed)
        self._connections = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for each in list(self._open):
            each.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self._ports[self._connections % len(self._ports)]
        self._connections += 1
        far_reader, far = await asyncio.open_connection("127.0.0.1", port)
        self._open |= {writer, far}
        posted = asyncio.Event()
        requests = asyncio.create_task(self._pass_requests(reader, far, posted))
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._pass_answers(far_reader, writer, posted)
        requests.cancel()
        for each in (writer, far):
            each.transport.abort()
            self._open.discard(each)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, posted: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while part := await reader.read(_CHUNK):
                if part.startswith(b"POST "):
                    posted.set()
                far.write(part)
                await far.drain()
        far.close()

    async def _pass_answers(
        self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, posted: asyncio.Event
    ) -> None:
        while part := await far_reader.read(_CHUNK):
            if posted.is_set():
                posted.clear()
                if self._random.random() < self._share:
                    if self._whole:
                        await _rest_of(part, far_reader)
                    self.dropped += 1
                    return
            writer.write(part)
            await writer.drain()


async def _rest_of(part: bytes, reader: asyncio.StreamReader) -> None:
    """Read the rest of an answer that begins with `part`."""
    while b"\r\n\r\n" not in part:
        part += await reader.read(_CHUNK)
    head, _, body = part.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    await reader.readexactly(max(0, int(found[1]) - len(body)) if found else 0)


@contextmanager
def dropping_line(
    ports: Sequence[int], *, share: float = 0.2, whole: bool = False, seed: int = 1
) -> Iterator[DroppingLine]:
    thread = LoopThread("line").start()
    line = DroppingLine(ports, share=share, whole=whole, seed=seed)
    try:
        thread.run(line.start())
        yield line
    finally:
        thread.run(line.stop())
        thread.stop()
