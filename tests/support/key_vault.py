"""An Azure Key Vault over TLS, and the endpoint of a managed identity, on loopback.

Facts: the vault refuses a request without a token by a challenge that names the resource for which a token is needed
(learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses), and App Service's endpoint gives
one to a request with the header of `IDENTITY_HEADER` (learn.microsoft.com/azure/app-service/overview-managed-identity).
"""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from harness.certificates import Authority

HEADER = "the-identity-header"
_TOKEN = "the-token-of-the-identity"


class KeyVault:
    """`secrets` are those of the vault. `requests` are the names that were requested with a token, in order. With a
    `status`, it answers that. Without `knows_identity`, no token is issued."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.requests: list[str] = []
        self.resources: list[str] = []
        self.status: int | None = None
        self.knows_identity = True
        self.url = self.identity_url = ""

    @property
    def of_machine(self) -> dict[str, str]:
        """The same for a machine. Its endpoint has a fixed address unless this variable is set."""
        return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": self.identity_url}

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which Azure's clients find the identity in App Service."""
        return {"IDENTITY_ENDPOINT": f"{self.identity_url}/msi/token", "IDENTITY_HEADER": HEADER}

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of the vault's answer."""
        # The clients require that the host of the vault ends in that of the resource, here 127.0.0.1.
        resource = self.url.replace("127.0.0.1", "0.0.1")
        if authorization != f"Bearer {_TOKEN}":
            tenant = "https://login.microsoftonline.com/11111111-1111-1111-1111-111111111111"
            challenge = f'Bearer authorization="{tenant}", resource="{resource}"'
            return 401, {"WWW-Authenticate": challenge}, {"error": {"code": "Unauthorized"}}
        name = path.removeprefix("/secrets/").strip("/")
        self.requests.append(name)
        if self.status is not None:
            return self.status, {}, {"error": {"code": "Broken", "message": "not today"}}
        if name not in self.secrets:
            return 404, {}, {"error": {"code": "SecretNotFound", "message": "no such secret"}}
        return 200, {}, {"value": self.secrets[name], "id": f"{self.url}/secrets/{name}/{'0' * 32}"}

    def token(self, query: dict[str, list[str]], headers: Message) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of the answer of the identity's endpoint."""
        self.resources += query.get("resource", [])
        is_allowed = HEADER == headers.get("X-IDENTITY-HEADER") or "true" == headers.get("Metadata")
        if not is_allowed or not self.knows_identity:
            return 400, {}, {"statusCode": 400, "message": "no identity"}
        ends = {"expires_in": "3600", "expires_on": str(int(time.time()) + 3600)}
        return 200, {}, {"access_token": _TOKEN, **ends, "token_type": "Bearer", "resource": ""}


@contextmanager
def key_vault(authority: Authority) -> Iterator[KeyVault]:
    """A vault with a certificate of this authority, while the block runs."""
    vault = KeyVault()

    class OfVault(_Handler):
        def do_GET(self) -> None:
            self.send(*vault.answer(urlsplit(self.path).path, self.headers.get("Authorization")))

    class OfIdentity(_Handler):
        def do_GET(self) -> None:
            self.send(*vault.token(parse_qs(urlsplit(self.path).query), self.headers))

    with ExitStack() as stack:
        port = stack.enter_context(_serving(OfVault, authority.issued("127.0.0.1")))
        vault.url = f"https://127.0.0.1:{port}"
        vault.identity_url = f"http://127.0.0.1:{stack.enter_context(_serving(OfIdentity, None))}"
        yield vault


class _Handler(BaseHTTPRequestHandler):
    def send(self, status: int, headers: dict[str, str], body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log no requests."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that refuses the certificate breaks the connection off."""


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None) -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def trusted(authority: Authority, path: Path) -> str:
    """A file with the certificate of the authority, for SSL_CERT_FILE."""
    path.write_bytes(authority.certificate)
    return str(path)
