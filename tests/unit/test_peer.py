"""The socket of a caller: a peer that reads or sends too slowly is dropped, also if it moves a byte now and then."""

import os
import socket
import sys
from contextlib import suppress

import pytest

from harness.service_process import until
from server.peer import BODY_SECONDS, PATIENCE, Peer, TooSlow
from settings.capacity import SLOWEST


class Patient(Peer):
    """A peer in virtual time. While it is waited for, half a second passes, and `meanwhile` happens."""

    now = 0.0
    meanwhile = staticmethod(lambda: None)

    def clock(self):
        return self.now

    def _poll(self):
        self.now += 0.5
        self.meanwhile()


@pytest.fixture
def ends():
    """The service's end of a connection and the caller's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        theirs.connect(listener.getsockname())
        accepted, _ = listener.accept()
    with Patient.of(accepted) as ours, theirs:
        yield ours, theirs


def test_a_connection_that_inherits_its_mode_waits_for_bytes_all_the_same(monkeypatch):
    """On systems other than Linux, an accepted socket does not block if its listener does not."""
    monkeypatch.setattr(sys, "platform", "darwin")
    accepted, theirs = socket.socketpair()
    accepted.setblocking(False)

    with Peer.of(accepted) as ours, theirs:
        ours.setblocking(True)

        assert os.get_blocking(ours.fileno())


def read(end, size):
    """Read so many bytes, or as many as are there."""
    with suppress(BlockingIOError):
        while size > 0:
            size -= len(end.recv(min(size, 65536), socket.MSG_DONTWAIT))


def test_a_reader_that_reads_nothing_is_dropped(ends):
    ours, _ = ends
    with pytest.raises(TooSlow):
        ours.sendall(bytes(10_000_000))

    assert PATIENCE <= ours.now < PATIENCE + 1


def test_a_reader_of_a_file_is_given_less_time(ends):
    ours, _ = ends
    ours.begin_request()
    ours.patience = 10.0
    with pytest.raises(TooSlow):
        ours.sendall(bytes(10_000_000))
    assert 10 <= ours.now < 11

    ours.begin_request()
    with pytest.raises(TooSlow):
        ours.sendall(bytes(10_000_000))
    assert PATIENCE <= ours.now - 10 < PATIENCE + 2, "the next answer is judged by itself"


def test_a_reader_that_reads_too_slowly_is_dropped(ends):
    ours, theirs = ends
    ours.patience = 10.0
    ours.meanwhile = lambda: read(theirs, SLOWEST // 8)
    with pytest.raises(TooSlow):
        ours.sendall(bytes(10_000_000))


def test_a_reader_that_reads_fast_enough_gets_all(ends):
    ours, theirs = ends
    ours.patience = 10.0

    def take():
        before = ours.unacknowledged()
        read(theirs, SLOWEST * 8)
        until(lambda: ours.unacknowledged() < before)

    ours.meanwhile = take
    ours.sendall(bytes(10_000_000))

    assert ours.now > 10


class Sends:
    """Has the service's end receive so many bytes, each piece after some seconds."""

    def __init__(self, ours, theirs):
        self.ours, self.theirs = ours, theirs
        self.received = 0

    def piece(self, size, seconds):
        self.theirs.sendall(bytes(size))
        ours, before = self.ours, self.ours.now
        clock = iter([before, before + seconds])
        ours.now = before + seconds
        ours.clock = lambda: next(clock)
        received = ours.recv(size)
        self.received += len(received)

    def is_given_up_after(self, seconds, *, size):
        """With one piece a second, and not before."""
        for _ in range(seconds - 1):
            self.piece(size, 1)
        with pytest.raises(TooSlow):
            self.piece(size, 1)


def test_a_large_body_that_arrives_too_slowly_is_dropped(ends):
    sends = Sends(*ends)
    sends.piece(65_536, 0)
    sends.piece(1, 0)

    sends.is_given_up_after(10, size=1000)


def test_a_small_body_is_given_a_minute(ends):
    Sends(*ends).is_given_up_after(60, size=1)


def test_a_large_body_that_arrives_fast_enough_is_read(ends):
    sends = Sends(*ends)
    for _ in range(60):
        sends.piece(SLOWEST, 1)
    assert 60 * SLOWEST == sends.received
    assert BODY_SECONDS < 60
