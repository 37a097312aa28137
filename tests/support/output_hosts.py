"""Shared code of the tests of output files: misbehaving output hosts, a fake source in virtual time, and storages on
disk and in a bucket.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import requests
from moto.server import ThreadedMotoServer

from files.bucket import Bucket
from files.hosts import OutputResponse
from files.storage import FileStorage, OpenFile, Source
from media.formats import black_png
from tests.support.wiring import listening

Outcome = bytes | Exception | Sequence[tuple[float, bytes | Exception]]
Write = Callable[[asyncio.StreamWriter], Awaitable[None]]
"""Writes a response."""

PNG = black_png(2, 2)
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41"
PAGE = b"<!doctype html><title>Sorry</title>" + b" " * 2000

GEN = "gen_" + "0123456789abcdef" * 2


def generation(number: int) -> str:
    return f"gen_{number:032x}"


def picture(size: int) -> bytes:
    """Return `size` bytes with the first bytes of a PNG."""
    return PNG[:16].ljust(size, b"\7")


def content(opened: OpenFile) -> bytes:
    """Read a whole file and close it."""
    with closing(opened):
        return opened.content()


def names(storage: FileStorage) -> list[str]:
    return sorted(each.name for each in storage.list())


class FakeSource:
    """A fake output host in virtual time. Each download takes the next of `outcomes`, and the last one repeats: bytes,
    an exception, or pairs of seconds and bytes (or an exception) that arrive so much later."""

    def __init__(self, *outcomes: Outcome, length: int | None = None, media_type: str = "") -> None:
        self._outcomes = list(outcomes)
        self._media_type = media_type
        self._length = length
        self.asked: list[tuple[float, str]] = []
        """The loop's time and the URL of each download."""
        self.tokens: list[str | None] = []

    @asynccontextmanager
    async def get(self, url: str, *, token: str | None = None) -> AsyncIterator[OutputResponse]:
        self.asked.append((asyncio.get_running_loop().time(), url))
        self.tokens.append(token)
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        parts = [(0, outcome)] if isinstance(outcome, bytes) else outcome
        yield OutputResponse(self._length, _coming(parts), self._media_type)

    async def aclose(self) -> None:
        pass


async def _coming(parts: Iterable[tuple[float, bytes | Exception]]) -> AsyncIterator[bytes]:
    for seconds, part in parts:
        await asyncio.sleep(seconds)
        if isinstance(part, Exception):
            raise part
        yield part


@dataclass
class Host:
    """A server that records the head of each request, answers it with `answer(target, writer)`, and closes the
    connection."""

    answer: Callable[[str, asyncio.StreamWriter], Awaitable[None]]
    seen: list[str] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            self.seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self.answer(self.seen[-1].split(" ")[1], writer)
            await writer.drain()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Host"]:
        async with listening(self.serve) as self.url:
            yield self


def host(answers: Mapping[str, bytes | Write]) -> AbstractAsyncContextManager[Host]:
    """A `Host` that listens while the block runs. `answers` maps request targets to responses; any other target gets a
    410."""

    async def answer(target: str, writer: asyncio.StreamWriter) -> None:
        found = answers.get(target, reply(b"", status="410 Gone"))
        if isinstance(found, bytes):
            writer.write(found)
        else:
            await found(writer)

    return Host(answer).listening()


def reply(body: bytes, *, status: str = "200 OK", length: int | None = None, headers: str = "") -> bytes:
    """Build an HTTP response. `length` is its Content-Length, by default the true one. Each line of `headers` ends in
    CRLF. It announces that the host closes the connection, so that no client sends another request on it."""
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


def redirect(location: str, *, status: str = "302 Found") -> bytes:
    return reply(b"", status=status, headers=f"Location: {location}\r\n")


def for_ever(first: bytes) -> Write:
    """A response without an end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + first)
        while not writer.is_closing():
            writer.write(b"\7" * 65536)
            await writer.drain()
            # Over TLS, `drain` may return at once, and the loop would not see the client go.
            await asyncio.sleep(0)

    return answer


def then_silence(first: bytes) -> Write:
    """A response that begins with `first`, after which nothing arrives and the connection stays open."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


class Buckets:
    """An S3 server on loopback and its buckets."""

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"bucket-{uuid4()}"  # the servers of one process share their buckets
        requests.put(f"{self.url}/{name}", timeout=10).raise_for_status()
        return name

    def new(self) -> Bucket:
        return at(self.url, self.make())


def at(endpoint: str, name: str) -> Bucket:
    """A bucket on the S3 server at `endpoint`. The server need not be running."""
    return Bucket(
        f"s3://{name}/kept/here",
        config={
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": "id",
            "secret_access_key": "secret",
        },
        client_options={"allow_http": True},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=5)},
    )


@contextmanager
def buckets() -> Iterator[Buckets]:
    """An S3 server that runs while the block does."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address, port = server.get_host_and_port()
        yield Buckets(f"http://{address}:{port}")
    finally:
        server.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, for 30 seconds at most."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - other threads and processes set no event
            await asyncio.sleep(0.005)


def written(path: Path, body: bytes) -> Path:
    path.write_bytes(body)
    return path


def in_file(path: Path, body: bytes) -> Source:
    """An output in a temporary file at this path."""
    written(path, body)
    return Source(lambda _: path)
