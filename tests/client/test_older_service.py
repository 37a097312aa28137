"""`rcg` at a service of version 0.8.0: a sentence names the cause, and nothing is spent or written.

The answers are those of 0.8.0 itself, whose libraries are not at hand here.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from replicate_concurrent.cli import main

NO_ROUTE = {
    "title": "Not found",
    "status": 404,
    "code": "not_found",
    "detail": "No route has this URL; /docs lists them.",
}
NO_BEARER = {
    "title": "A valid key is required", "status": 401, "code": "unauthenticated",
    "detail": "Send X-Admin-API-Key, or X-Replicate-API-Key or `Authorization: Bearer` with a Replicate token.",
}  # fmt: skip
ROUTES_WITH_KEYS = ("/generate", "/generations", "/usage", "/configure")


class Older(BaseHTTPRequestHandler):
    """0.8.0, called with its admin key as `Authorization: Bearer`, which it does not take."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = self.path.partition("?")[0].startswith(ROUTES_WITH_KEYS)
        answer = NO_BEARER if known else NO_ROUTE
        body = json.dumps(answer).encode()
        self.send_response(answer["status"])
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815 - the names that the server looks for

    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def older():
    """The address of the service."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Older) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "command",
    [
        "generate A -m flux-dev", "batch rows.txt -m flux-dev -o out", "models flux-dev", "keys list", "keys self",
        "list", "usage", "configure --concurrent-limit 3", "get gen_1", "watch gen_1",
    ],
)  # fmt: skip
def test_an_older_service_is_named_as_the_cause(older, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("URL", older),
        ("API_KEY", "the-admin-key"),
        ("CONFIG", str(tmp_path / "none.toml")),
    ):
        monkeypatch.setenv(f"RCG_{name}", value)
    (tmp_path / "rows.txt").write_text("A fox\n")

    with pytest.raises(SystemExit) as end:
        main(command.split())

    output, errors = capsys.readouterr()
    assert (1, "") == (end.value.code, output)
    assert "The service may be older than this rcg (0." in errors
    assert 1 == errors.count("\n")
    assert ["rows.txt"] == [path.name for path in tmp_path.iterdir()]
