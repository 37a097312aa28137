"""The certificates that the service trusts, in real TLS handshakes."""

import asyncio
import hashlib
import os
import ssl

import pytest

from harness.certificates import certified
from network.tls import client_context
from settings import load
from tests.support.wiring import on_a_loop


def hashed_name(host: str) -> str:
    """The file name under which OpenSSL looks for the certificate of CN=host in a directory."""
    part = b"\x0c" + bytes([len(host)]) + host.encode()
    part = b"\x06\x03\x55\x04\x03" + part
    for tag in (b"\x30", b"\x31"):
        part = tag + bytes([len(part)]) + part
    return hashlib.sha1(part).digest()[3::-1].hex() + ".0"


async def is_trusted(server_context) -> bool:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        try:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context(), server_hostname="localhost"
            )
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SSL_CERT_FILE": "{0}/own/{1}"}, True),
        ({"SSL_CERT_FILE": "{0}/other.pem"}, False),
        ({"SSL_CERT_DIR": "{0}/own"}, True),
        ({"SSL_CERT_DIR": "{0}/empty"}, False),
        ({"SSL_CERT_DIR": "{0}/gone:{0}/empty:{0}/own"}, True),
        ({"SSL_CERT_FILE": "{0}/other.pem", "SSL_CERT_DIR": "{0}/empty:{0}/own"}, True),
        ({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}, False),
    ],
)
@on_a_loop
async def test_a_host_is_trusted_by_a_file_or_by_any_of_several_directories(
    variables, expected, tmp_path, monkeypatch
):
    for name in ("own", "empty"):
        (tmp_path / name).mkdir()
    certified(tmp_path / "other.pem", "other.test")
    context = certified(tmp_path / "own" / hashed_name("localhost"), "localhost")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, variables.get(name, "").format(tmp_path, hashed_name("localhost")))

    load()

    assert expected == await is_trusted(context)


def test_several_directories_replace_the_certificates_of_mozilla(tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}:{tmp_path}/gone")

    assert [] == client_context().get_ca_certs()


def test_the_file_at_the_default_path_of_openssl_is_used_if_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "certificate.pem"
    certified(path, "localhost")
    default = ssl.get_default_verify_paths()._replace(cafile=str(path), openssl_cafile=str(path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: default)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))

    assert 1 == client_context().cert_store_stats()["x509"]


def test_an_empty_variable_in_the_env_file_stays_unset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_CERT_DIR", "")  # and taken back after the test
    monkeypatch.delenv("SSL_CERT_DIR")
    (tmp_path / ".env").write_text("SSL_CERT_DIR=\n")

    load()

    assert "SSL_CERT_DIR" not in os.environ
