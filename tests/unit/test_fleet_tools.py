"""What the measurements of many processes rely on: the densest minute, and the faults of the proxy."""

import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from harness.fleet_audit import densest
from harness.tcp_proxy import tcp_proxies


@pytest.mark.parametrize(
    ("moments", "most"),
    [([], 0), ([0.0, 59.9], 2), ([0.0, 60.0], 1), ([0.0, 1.0, 60.5, 60.9, 61.0], 3), ([5.0, 5.0], 2)],
)
def test_the_densest_minute_leaves_out_its_end(moments, most):
    assert most == densest(reversed(moments))


@pytest.fixture
def proxied():
    """A client's connection, the server's side of it, and the proxy between them."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder) / "socket"
        server.bind(str(path))
        server.listen()
        with (
            tcp_proxies(1, path) as (proxy,),
            socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client,
            server.accept()[0] as far,
        ):
            far.settimeout(10)
            yield client, far, proxy


def is_silent(connection):
    """Whether nothing arrives, not even the end, in the time of a few passages through the proxy."""
    connection.settimeout(0.1)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)
    return False


def has_ended(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_blackhole_keeps_what_arrives_until_it_ends(proxied):
    client, far, proxy = proxied
    proxy.blackhole()
    client.sendall(b"a")
    kept = is_silent(far)
    proxy.restore()

    assert kept
    assert b"a" == far.recv(1)


def test_a_lost_server_leaves_the_clients_connection_open_and_silent(proxied):
    client, far, proxy = proxied
    client.sendall(b"a")
    assert b"a" == far.recv(1)
    proxy.lose_server()

    assert has_ended(far)
    assert is_silent(client)


def test_a_lost_client_leaves_the_servers_connection_open_and_silent(proxied):
    client, far, proxy = proxied
    client.sendall(b"a")
    assert b"a" == far.recv(1)
    proxy.lose_client()

    assert has_ended(client)
    assert is_silent(far)
