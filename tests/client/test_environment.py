"""Proxies and certificates of the environment, as httpx has them."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from replicate_concurrent import Client, ConfigError

from harness.certificates import certified


class Answer(BaseHTTPRequestHandler):
    """Answers each GET as `/status`, and notes what was asked."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Authorization"]))
        body = json.dumps({"version": "0.8.0", "concurrency": {"concurrent_limit": 3}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serving(context=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.asked = []
    server.handle_error = lambda *_: None  # a client that does not trust the certificate
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_requests_go_through_the_proxy_of_the_environment(monkeypatch):
    with serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        with Client("http://service.test", "rcg_key") as client:
            assert 3 == client.status().concurrent_limit

    assert [("http://service.test/status", "Bearer rcg_key")] == proxy.asked


def test_a_certificate_of_ssl_cert_file_is_trusted_and_no_other_one(monkeypatch, tmp_path):
    with serving(certified(tmp_path / "own.pem", "localhost")) as server:
        url = f"https://localhost:{server.server_port}"
        with Client(url, "rcg_key") as client, pytest.raises(ConfigError, match="SSL_CERT_FILE"):
            client.status()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
        with Client(url, "rcg_key") as client:
            assert 3 == client.status().concurrent_limit
