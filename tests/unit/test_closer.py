"""Closing connections: a refused client that still sends can read the response, within time limits."""

import socket
from contextlib import suppress

import pytest

from harness.service_process import until
from server.closer import BYTES, MOST, SECONDS, Closer
from server.peer import Peer

ANSWER = b"HTTP/1.1 413 "


class Connection:
    """As gunicorn has it."""

    def __init__(self, sock):
        self.sock = sock

    def close(self):
        self.sock.close()


@pytest.fixture
def closer(clock):
    closer = Closer(clock)
    closer.start()
    return closer


@pytest.fixture
def answered(closer):
    """Gives the caller's end of a connection that was answered and handed to the closer, and the service's end."""
    opened = []

    def answered():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname(), timeout=10)
            accepted, _ = listener.accept()
        ours = Peer.of(accepted)
        opened.extend([theirs, ours])
        ours.sendall(ANSWER)
        closer.close(Connection(ours))
        return theirs, ours

    yield answered
    for each in opened:
        each.close()


def is_closed(end):
    return end.fileno() < 0


def test_a_client_that_still_sends_its_body_reads_the_answer(answered):
    theirs, ours = answered()

    theirs.sendall(bytes(5_000_000))

    assert ANSWER == theirs.recv(100)
    assert b"" == theirs.recv(100)
    theirs.close()
    until(lambda: is_closed(ours))


def test_a_client_that_sends_without_end_is_closed(answered):
    theirs, ours = answered()

    with suppress(ConnectionError):
        for _ in range(2 * BYTES // 1_000_000):
            theirs.sendall(bytes(1_000_000))

    until(lambda: is_closed(ours))


def test_a_client_that_neither_sends_nor_closes_is_closed_after_a_while(answered, closer, clock):
    _, ours = answered()
    other, others = answered()
    other.sendall(b"x")
    until(lambda: len(closer.lingering) == 2)
    assert not is_closed(ours)

    clock.now = SECONDS
    answered()  # wakes the thread

    until(lambda: is_closed(ours) and is_closed(others))


def test_beyond_the_bound_a_connection_is_closed_at_once(answered):
    lingering = [answered() for _ in range(MOST)]

    _, late = answered()

    until(lambda: is_closed(late))
    assert not any(is_closed(ours) for _, ours in lingering)


def test_a_connection_that_the_peer_has_closed_is_closed(answered, closer):
    theirs, ours = answered()
    theirs.close()
    until(lambda: is_closed(ours))

    closer.close(Connection(ours))
    other, others = answered()
    other.close()
    until(lambda: is_closed(others))
