"""An HTTP proxy on loopback. It tunnels CONNECT requests to one plain HTTP server and terminates the client's TLS."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loop_thread import LoopThread
from tests.support.wiring import listening

TUNNELLED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class ConnectProxy:
    """`heads` has the heads of the requests that the proxy got, and `asked` their targets."""

    certificate: ssl.SSLContext
    to: str
    answer: bytes
    url: str = ""
    heads: list[str] = field(default_factory=list)

    @property
    def asked(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, OSError):
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.answer)
            await writer.drain()
            if self.answer == TUNNELLED:
                await writer.start_tls(self.certificate)
                target = urlsplit(self.to)
                there, back = await asyncio.open_connection(target.hostname, target.port)
                with closing(back):
                    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()


@contextmanager
def proxying(
    to: str, certificate: ssl.SSLContext, *, answer: bytes = TUNNELLED, tls: bool = False
) -> Iterator[ConnectProxy]:
    """A proxy that runs while the block does. Every tunnel leads to the plain HTTP server at the URL `to`, for any
    target; `certificate` terminates the client's TLS. With `tls` the proxy itself is reached over TLS, as `localhost`.
    """
    proxy = ConnectProxy(certificate, to, answer)
    thread, stack = LoopThread("proxy").start(), AsyncExitStack()
    try:
        tunnels = listening(proxy.serve, tls=certificate if tls else None)
        proxy.url = thread.run(stack.enter_async_context(tunnels))
        yield proxy
    finally:
        thread.run(stack.aclose())
        thread.stop()
