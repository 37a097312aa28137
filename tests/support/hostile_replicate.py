"""A Replicate that may answer with any status, headers and bytes, and cut an answer anywhere. `Hostile` keeps
a true record of the predictions it made, and answers honestly unless a test sets another answer. It uses no
network, and runs on the virtual clock.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from hypothesis import strategies as st

from tests.support.connections import FakeConnections

MAKES = 3.0
"""Seconds that a prediction takes."""

FIELDS = (
    "id", "status", "output", "error", "logs", "created_at", "started_at", "completed_at", "data_removed", "input",
    "results", "next", "urls", "key", "username", "detail", "title", "retry_after", "invalid_fields", "model",
    "version", "deployment", "metrics",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CannedAnswer:
    """One answer. `cut` is the byte after which the connection is lost, -1 before the first; None if it is whole."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    cut: int | None = None
    made: bool = True
    """Whether the creation was carried out, if the status allows that."""


@dataclass(slots=True)
class Made:
    id: str
    model: str
    sent: Any
    cancel_after: str
    began: float
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    canceled: bool = False

    def status(self) -> str:
        if self.canceled:
            return "canceled"
        return "succeeded" if asyncio.get_running_loop().time() >= self.began + MAKES else "processing"

    def as_json(self) -> dict[str, Any]:
        status = self.status()
        output = ["https://replicate.delivery/a.png"] if status == "succeeded" else None
        shown = {"id": self.id, "model": self.model, "input": self.sent, "created_at": self.created_at}
        return shown | {"status": status, "output": output, "error": None, "logs": ""}


class Hostile(FakeConnections):
    """`says[kind]` are the answers that replace the honest ones, in order. `names` returns the id of the n-th
    prediction."""

    def __init__(
        self, says: dict[str, list[CannedAnswer]], *, names: Callable[[int], str] = "p{}".format
    ) -> None:
        self._says = {kind: list(answers) for kind, answers in says.items()}
        self._names = names
        self.made: list[Made] = []
        self.seen: list[tuple[str, str]] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        await asyncio.sleep(0.05)
        kind = kind_of(request)
        self.seen.append((kind, request.url.raw_path.decode()))
        said = self._says[kind].pop(0) if self._says.get(kind) else None
        if kind == "create" and (said is None or (said.made and may_be_made(said.status))):
            self._make(request, json.loads(content))
        if kind == "cancel" and (said is None or said.made):
            for made in self.made:
                made.canceled = made.canceled or (
                    made.id == _named(request) and made.status() == "processing"
                )
        if said is None:
            status, body = self._honest(kind, request)
            said = CannedAnswer(status, (), json.dumps(body).encode())
        if said.cut is not None and said.cut < 0:
            raise httpx.ReadError("reset by r8_marked_token")
        return httpx.Response(said.status, headers=list(said.headers), stream=Stream(said.body, said.cut))

    def running(self) -> list[Made]:
        return [made for made in self.made if made.status() == "processing"]

    def _make(self, request: httpx.Request, body: dict[str, Any]) -> None:
        deadline = request.headers["cancel-after"]
        now = asyncio.get_running_loop().time()
        self.made.append(Made(self._names(len(self.made)), body["version"], body["input"], deadline, now))

    def _honest(self, kind: str, request: httpx.Request) -> tuple[int, Any]:
        match kind:
            case "create":
                return 201, self.made[-1].as_json()
            case "get" | "cancel":
                found = [made.as_json() for made in self.made if made.id == _named(request)]
                return (200, found[0]) if found else (404, {"detail": "not found", "status": 404})
            case "list":
                return 200, {"results": [made.as_json() for made in reversed(self.made)], "next": None}
            case "file":
                return 201, {"urls": {"get": "https://api.replicate.com/v1/files/f"}}
        return 200, {"type": "user", "username": "ann"}


class Stream(httpx.AsyncByteStream):
    def __init__(self, body: bytes, cut: int | None) -> None:
        self._body = body
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._cut is None:
            yield self._body
        else:
            yield self._body[: self._cut]
            raise httpx.ReadError("reset by r8_marked_token")


def kind_of(request: httpx.Request) -> str:
    path = request.url.path
    if path.endswith("/cancel"):
        return "cancel"
    if request.method == "POST" and path == "/v1/predictions":
        return "create"
    if path in ("/v1/predictions", "/v1/files", "/v1/account"):
        return {"/v1/predictions": "list", "/v1/files": "file", "/v1/account": "account"}[path]
    return "get"


def may_be_made(status: int) -> bool:
    """Whether a prediction may have been made despite this status."""
    return status not in {301, 307, 308, 503} and not 400 <= status < 500


def _named(request: httpx.Request) -> str:
    return request.url.path.removeprefix("/v1/predictions/").removesuffix("/cancel")


# Answers: any JSON, mostly JSON that resembles an answer.

TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "p0", "succeeded", "failed", "canceled", "processing", "a\r\nb", "../x", ".", "a/b", "%2e%2e", "\ud800", "a\0b",
        "x" * 1_000_000, "https://replicate.delivery/a", "https://\r\n", "data:,", "NSFW", "?cursor=\r\n", "?cursor=1",
        "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "resets in ~9s", "nan",
        "r8_marked_token", "https://replicate.delivery/%72%38_marked_token",
    ]
)  # fmt: skip
NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), float("inf"), float("nan"), 0, -1])
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=8) | VALUES
LIKELY = st.fixed_dictionaries(
    {"id": TEXTS, "status": TEXTS}, optional={name: VALUES for name in FIELDS if name not in ("id", "status")}
)
PAGES = st.fixed_dictionaries({"results": st.lists(LIKELY | VALUES, max_size=3), "next": VALUES})


def _encoded(document: Any, how: str) -> bytes:
    text = json.dumps(document)
    match how:
        case "bare":
            return json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
        case "twice":
            return f'{{"id": "p9", "id": {text}, "status": "starting", "status": "succeeded"}}'.encode()
        case "deep":
            return (
                b'{"id": "p0", "status": "failed", "error": ' + b"[" * 900 + text.encode() + b"]" * 900 + b"}"
            )
        case "latin-1":
            return text.encode() + "é".encode("latin-1")
        case "gzip":
            return gzip.compress(text.encode())
    return text.encode(how)


BODIES = st.one_of(
    st.binary(max_size=50),
    st.sampled_from(
        [b"[" * 100_000, b"9" * 5_000, b"<html>Blocked r8_marked_token</html>", b'"', b"\xef\xbb\xbf{}"]
    ),
    st.builds(
        _encoded,
        LIKELY | DOCUMENTS | PAGES,
        st.sampled_from(
            ["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-32", "bare", "twice", "deep", "latin-1", "gzip"]
        ),
    ),
)
STATUSES = st.sampled_from([200, 201, 400, 401, 402, 403, 404, 422, 429, 500, 502, 503]) | st.integers(
    100, 999
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"Retry-After",
                b"ratelimit-remaining",
                b"ratelimit-reset",
                b"Content-Encoding",
                b"Content-Type",
                b"Date",
            ]
        ),
        st.binary(max_size=30)
        | st.sampled_from(
            [
                b"0",
                b"9" * 400,
                b"-1",
                b"nan",
                b"gzip",
                b"br",
                b"deflate",
                b"Mon, 99999999999 Jan 2026 00:00:00 GMT",
            ]
        ),
    ),
    max_size=3,
).map(tuple)
CANNED = st.builds(CannedAnswer, STATUSES, HEADERS, BODIES, st.none() | st.integers(-1, 40), st.booleans())
