"""A TCP proxy before a Unix socket whose connections can be silenced, slowed, or lost on one side."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loop_thread import LoopThread

_CHUNK = 65536


class TcpProxy:
    """Forwards connections to `port` on loopback to the socket at `path`. Any thread may call its methods."""

    def __init__(self, path: Path, thread: LoopThread) -> None:
        self.port = 0
        self._path = path
        self._thread = thread
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0
        self._far: set[asyncio.StreamWriter] = set()
        self._near: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    def blackhole(self) -> None:
        """Stop passing data in both directions, with all connections open. What arrives is kept for `restore`."""
        self._thread.run(self._set(is_open=False, delay=0.0))

    def delay(self, seconds: float) -> None:
        """From now on each part of the data passes so much later."""
        self._thread.run(self._set(is_open=True, delay=seconds))

    def lose_server(self) -> None:
        """Close the connections to the server. The client's stay open and silent, as after the failure of a router."""
        self._thread.run(self._close(self._far))

    def lose_client(self) -> None:
        """Close the client's connections. The server's stay open, with their transactions."""
        self._thread.run(self._close(self._near))

    def restore(self) -> None:
        """Pass all data at once, including those that were kept."""
        self._thread.run(self._set(is_open=True, delay=0.0))

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._close(self._far | self._near)

    async def _set(self, *, is_open: bool, delay: float) -> None:
        self._delay = delay
        if is_open:
            self._open.set()
        else:
            self._open.clear()

    async def _close(self, writers: set[asyncio.StreamWriter]) -> None:
        for each in list(writers):
            each.transport.abort()
        writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            far_reader, far = await asyncio.open_unix_connection(self._path)
        except OSError:  # the server does not run
            writer.transport.abort()
            return
        self._far.add(far)
        self._near.add(writer)
        try:
            await asyncio.gather(
                self._copy(reader, far, self._near, writer), self._copy(far_reader, writer, self._far, far)
            )
        finally:  # one side may be lost while the other is open
            await self._close({writer, far})

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sources: set[asyncio.StreamWriter],
        source: asyncio.StreamWriter,
    ) -> None:
        """Copy to the end. Pass the end on, unless it is that of a connection that this proxy has lost."""
        with suppress(OSError):
            while part := await reader.read(_CHUNK):
                await self._open.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(part)
                await writer.drain()
        if source in sources:
            sources.discard(source)
            writer.close()


@contextmanager
def tcp_proxies(number: int, path: Path) -> Iterator[list[TcpProxy]]:
    """So many proxies before the socket at `path`, while the block runs."""
    thread = LoopThread("proxies").start()
    proxies = [TcpProxy(path, thread) for _ in range(number)]
    try:
        for each in proxies:
            thread.run(each.start())
        yield proxies
    finally:
        for each in proxies:
            thread.run(each.stop())
        thread.stop()
