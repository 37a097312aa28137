"""A pooler for tests that gives each transaction another connection to the server, as pgbouncer does in transaction
mode. A client that relies on the session fails before it. It listens on TCP, and can also go silent like a dead host.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.postgres import Server

_SOCKET = ".s.PGSQL.5432"


class Pooler:
    """Listens at `port` from its start. `connections` counts connections to the server."""

    def __init__(self, server: Server) -> None:
        self._path = str(Path(server.directory) / _SOCKET)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._silent: set[socket.socket] = set()
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def silence(self) -> None:
        """Pass nothing between the present clients and the server, and close nothing, until `resume`."""
        self._silent = set(self._clients)

    def resume(self) -> None:
        self._silent = set()

    def break_all(self) -> None:
        """Break the connections of all clients, as a firewall does that forgets them."""
        for client in self._clients:
            with suppress(OSError):  # it may be closed
                client.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.break_all()
        for each in self._threads:
            each.join()

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError, EOFError):
            startup = _startup(client)
            greeted = False
            while True:
                with self._begun(startup) as server:
                    greeting = _until_ready(server)
                    if not greeted:
                        client.sendall(greeting)
                    greeted = True
                    self._pass_transaction(client, server)

    def _begun(self, startup: bytes) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._path)
        server.sendall(startup)
        self.connections += 1
        return server

    def _pass_transaction(self, client: socket.socket, server: socket.socket) -> None:
        """Pass messages until the server is outside of a transaction and has answered everything."""
        pending = 0
        status = b""
        while True:
            readable, _, _ = select.select([client, server], [], [])
            while client in self._silent:
                time.sleep(0.01)
            for each in readable:
                kind, body = _message(each)
                if each is client:
                    pending += kind in b"SQ"
                    server.sendall(kind + body)
                else:
                    client.sendall(kind + body)
                    if kind == b"Z":
                        pending -= 1
                        status = body[-1:]
            if pending == 0 and status == b"I":
                return


@contextmanager
def pooled(server: Server) -> Iterator[Pooler]:
    """A pooler before this server, while the block runs."""
    pooler = Pooler(server)
    try:
        yield pooler
    finally:
        pooler.close()


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _message(peer: socket.socket) -> tuple[bytes, bytes]:
    """The type of the next message, and the rest with its length."""
    kind = _exactly(peer, 1)
    if kind == b"X":
        raise EOFError
    size = _exactly(peer, 4)
    return kind, size + _exactly(peer, int.from_bytes(size) - 4)


def _startup(client: socket.socket) -> bytes:
    """The message that begins a session. Encryption is declined."""
    while True:
        size = _exactly(client, 4)
        body = _exactly(client, int.from_bytes(size) - 4)
        if body[:4] == struct.pack("!HH", 3, 0):
            return size + body
        client.sendall(b"N")  # the client asked for TLS or GSSAPI


def _until_ready(server: socket.socket) -> bytes:
    """All that the server sends until it is ready for a query."""
    sent = b""
    while True:
        kind, body = _message(server)
        sent += kind + body
        if kind == b"Z":
            return sent
