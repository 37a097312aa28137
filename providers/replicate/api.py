"""Sends the requests of all callers to Replicate's HTTP API, each with a lease and a token.

A creation uses the lease of its admission, which the calling code marks as answered or lost. Any other
request uses the lease that is passed to it, or else takes one from the window `others`. `call` and `get` raise Refusal,
NotSent, Lost or TooLarge.
"""

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from yarl import URL

from auth import Caller
from concurrency import Gate, Lease
from providers.connections import HeldBack, Lost, NotSent, TooLarge
from providers.health import UpstreamHealth
from providers.replicate.clock import UpstreamClock
from providers.replicate.errors import RATE_LIMIT_WAIT, seconds_to_wait
from providers.replicate.secret_inputs import SecretInputs
from providers.replicate.transport import (
    MAX_ANSWER,
    Answer,
    Connections,
    HttpConnections,
    Refusal,
    Request,
    send,
)
from providers.server_tokens import ServerTokens

CREATE_TIMEOUT: Final = 30.0
"""Timeout of the answer to a creation, in seconds. The official client has none."""

_LEAST_SECONDS: Final = 5.0
"""The least seconds for a creation that is sent again by another token."""

MAX_POLL: Final = 4 * 1024 * 1024
"""The most bytes of any other answer. A page with whole pictures in its inputs is larger; then each
prediction is polled by itself."""

_HEADERS: Final[Mapping[str, str]] = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
    "User-Agent": "replicate-python/1.0.7",
}
"""The headers of the official client."""

_NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for the answer to each kind of request."""

    create: float = CREATE_TIMEOUT
    poll: float = 10.0
    cancel: float = 4.0
    """Shorter than a poll's, since a prediction is billed until it is cancelled."""
    upload: float = 300.0
    """Enough to send an image of up to 100 MB."""
    account: float = 5.0
    """Includes the wait for a place in the window, since a caller waits for the answer."""


class Health(UpstreamHealth):
    """The outcomes of all requests to the API."""

    def refused(self, refusal: Refusal) -> None:
        """A request was refused. A refusal in Replicate's own words shows that Replicate works."""
        wait = None
        if refusal.status == 429:
            named = seconds_to_wait(refusal)
            wait = RATE_LIMIT_WAIT if named is None else named
        works = refusal.is_replicates and refusal.status < 500
        self.answered_with_error(works=works, throttled_for=wait)


class Api:
    """Requests of all callers. Create and close it on the loop that uses it.

    When Replicate has answered a request other than a creation, `on_answer` is called with the time at which
    the request was sent (loop's clock). A creation is only sent if `may_send` returns True at that moment."""

    def __init__(
        self,
        *,
        base_url: str,
        timeouts: Timeouts,
        others: Gate,
        on_answer: Callable[[float], object] = lambda sent: None,
        may_send: Callable[[], bool] | None = None,
        connections: Connections | None = None,
        tokens: ServerTokens | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.tokens = tokens or ServerTokens(None)
        self.timeouts = timeouts
        self.others = others
        self._on_answer = on_answer
        self._may_send = may_send
        self.health = Health()
        self.clock = UpstreamClock()
        self.secrets = SecretInputs(self.tokens.others_of)
        self.redaction = self.secrets.redaction
        self._connections = HttpConnections() if connections is None else connections

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()

    async def get(self, caller: Caller, path: str, lease: Lease | None = None, *, max_answer: int) -> Any:
        answer = await self.call(
            caller, "GET", path, lease, seconds=self.timeouts.poll, max_answer=max_answer
        )
        return answer.json()

    async def call(
        self,
        caller: Caller,
        method: str,
        path: str,
        lease: Lease | None = None,
        *,
        seconds: float,
        max_answer: int = MAX_ANSWER,
        creates: bool = False,
        body: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Answer:
        """Send a request by the token that pays for the caller. If the service's own token is refused, and was replaced
        by another one of the same account, the request is sent again by that: a refused request has created no
        prediction, and taken no place in a window."""
        clock, token = asyncio.get_running_loop().time, self.tokens.token_of(caller)
        bounds: dict[str, Any] = {"creates": creates, "max_answer": max_answer}
        give_up = clock() + seconds
        authorized = {**_HEADERS, "Authorization": f"Bearer {token}", **headers}
        may_send = self._may_send if creates else None
        request = Request(method, URL(self.base_url + path, encoded=True), authorized, body, may_send)
        try:
            return await self._send(caller, request, lease, seconds=seconds, **bounds)
        except Refusal as refusal:
            newer = await self.tokens.after_refusal(caller, token) if refusal.status == 401 else None
            if newer is None:
                raise
        request = replace(request, headers={**authorized, "Authorization": f"Bearer {newer}"})
        if not creates or lease is None:
            return await self._send(caller, request, None, seconds=seconds, **bounds)
        lease.not_sent()
        # Others wait for the answer to a creation no longer than it may take.
        left = max(_LEAST_SECONDS, give_up - clock())
        return await self._send(caller, request, lease, seconds=left, **bounds)

    async def _send(
        self,
        caller: Caller,
        request: Request,
        lease: Lease | None,
        *,
        seconds: float,
        creates: bool,
        max_answer: int,
    ) -> Answer:
        with nullcontext(lease) if lease else await self.others.acquire(caller.turn) as used:
            now = asyncio.get_running_loop().time
            sent = now()
            try:
                answer = await send(
                    self._connections, request, used, seconds=seconds, creates=creates, max_answer=max_answer
                )
            except HeldBack:
                raise
            except (NotSent, Lost) as error:
                (self.health.answered if isinstance(error, TooLarge) else self.health.failed)()
                raise
            except Refusal as refusal:
                self.health.refused(refusal)
                self.clock.record_date(refusal.headers.get("date"), sent=sent, answered=now())
                if not creates and refusal.status < 500:  # otherwise it may be a gateway's
                    self._on_answer(sent)
                raise
            self.health.answered()
            self.clock.record_date(answer.headers.get("date"), sent=sent, answered=now())
            if not creates:
                self._on_answer(sent)
            return answer
