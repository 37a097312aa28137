"""Gemini's REST API (v1beta) as a provider of calls.

Each method sends one request, and none is sent again by itself. Answers are always streamed: a connection that is quiet
for minutes may be cut by something between, and the usage is known as far as the answer came. The official client
(`google-genai`) is not used: it may send a request twice without a word, continue an answer by further billed requests,
and open connections of its own.

A call may be sent once under its lease. The owner of the lease frees the slot and settles the cost. A lost answer
cannot be looked up: Google has no idempotency keys and no search.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import quote

from yarl import URL

from auth import Caller
from concurrency import Gate, Lease
from errors import UpstreamError
from errors.calls import ServerGeminiKeyRejected
from network.proxies import Proxy
from providers import TryAgain, UpstreamState
from providers.calls import Call, CallAnswer, CallLease, CallLost, CallProvider, LimitHit, attach_partial
from providers.connections import HeldBack, Lost, NotSent, always
from providers.gemini import key_of
from providers.gemini.chunks import AnswerReader
from providers.gemini.errors import ended_by, judged
from providers.gemini.estimates import tokens_bound
from providers.gemini.exchange import Progress, Timeouts, raise_if_refused, receive
from providers.gemini.refusals import Refusal
from providers.gemini.requests import count_body, generate_body
from providers.gemini.transport import Connections, HttpConnections, Request, read_all
from providers.health import UpstreamHealth

MAX_COUNT: Final = 64 * 1024
"""The most bytes of an answer to `countTokens`."""

SHORTEST_DEADLINE: Final = 10
"""The least seconds that Google is allowed. It answers shorter ones with an error."""

_CUT: Final = "The connection to Google ended before the answer did."

_KEY: Final = "x-goog-api-key"
"""The header with the key."""

_HEADERS: Final[Mapping[str, str]] = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",  # a compressed stream may be held back until there is more of it
    "Content-Type": "application/json",
    "User-Agent": "replicate-concurrent-generation",
}


class GeminiClient(CallProvider):
    """The endpoints, for every caller. Create and close it on the loop that uses it.

    Calls use the leases that are passed in; all other requests take theirs from the gate `others`. A call is only sent
    if `may_send` returns True when its first byte is written. When Google has answered another request, `on_answer` is
    called with the account and the time at which the request was sent (loop's clock): earlier requests of the
    account do not arrive any more. `clock` returns Unix time, and `server_key` the service's own key. If that is
    refused, `read_again` reads its source."""

    def __init__(
        self,
        *,
        base_url: str,
        others: Gate,
        timeouts: Timeouts | None = None,
        on_answer: Callable[[str, float], object] = lambda account, sent: None,
        may_send: Callable[[], bool] = always,
        proxy: Proxy | None = None,
        connections: Connections | None = None,
        clock: Callable[[], float] = time.time,
        server_key: Callable[[], str | None] = lambda: None,
        read_again: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._base_url = URL(base_url.rstrip("/")).with_user(None)  # which would become a second credential
        self._others = others
        self._on_answer = on_answer
        self._timeouts = timeouts or Timeouts()
        self._may_send = may_send
        self._connections = connections or HttpConnections(proxy)
        self._clock = clock
        self._server_key = server_key
        self._read_again = read_again
        self._health = UpstreamHealth(clock)

    @property
    def upstream(self) -> UpstreamState:
        """The state of the API, over all accounts."""
        return self._health.state

    def tokens_bound(self, call: Call) -> int:
        return tokens_bound(call)

    async def run(
        self,
        caller: Caller,
        call: Call,
        *,
        lease: CallLease,
        on_delta: Callable[[str], object],
        seconds: float | None = None,
    ) -> CallAnswer:
        limit = min(self._timeouts.call, math.inf if seconds is None else seconds)
        progress = Progress(lease)
        reader = AnswerReader(on_delta, lease.measured)
        request = Request(
            "POST",
            self._url(f"models/{quote(call.model, safe='')}:streamGenerateContent", alt="sse"),
            self._headers(caller, limit),
            generate_body(call),
            self._may_send,
            progress.sent,
        )
        try:
            answer = await receive(
                self._connections, request, progress, reader, timeouts=self._timeouts, seconds=limit
            )
        except asyncio.CancelledError as error:
            progress.given_up()
            attach_partial(error, reader.partial)
            raise
        except (NotSent, Lost, TimeoutError) as error:
            raise self._unanswered(error, progress, reader) from error
        except Refusal as refusal:
            final = self._refused(refusal, caller, call, reader)
            if isinstance(final, ServerGeminiKeyRejected) and await self._is_replaced(request):
                final = TryAgain(UpstreamError("The service's Gemini key was replaced."), wait=0.0)
            raise final from refusal
        self._health.answered()
        return answer

    async def count_tokens(self, caller: Caller, call: Call) -> int:
        request = Request(
            "POST",
            self._url(f"models/{quote(call.model, safe='')}:countTokens"),
            self._headers(caller, self._timeouts.other),
            count_body(call),
        )
        try:
            async with asyncio.timeout(self._timeouts.other):
                with await self._others.acquire(caller.turn) as lease:
                    answer = json.loads(await self._exchange(request, lease, caller.account))
        except (NotSent, Lost, TimeoutError, ValueError, RecursionError) as error:
            self._health.failed()
            raise _unreachable() from error
        except Refusal as refusal:
            self._health.answered_with_error(works=refusal.shows_health)
            raise self._free(refusal, caller, call) from refusal
        self._health.answered()
        tokens = answer.get("totalTokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, int) or tokens < 0:
            raise UpstreamError("Google sent no count of tokens.")
        return tokens

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()

    def _unanswered(self, error: Exception, progress: Progress, reader: AnswerReader) -> Exception:
        """The exception for a call that was not answered, or not to the end."""
        if isinstance(error, HeldBack):
            progress.not_sent()
            return TryAgain.as_held_back()
        self._health.failed()
        if isinstance(error, NotSent) or not progress.is_sent:
            progress.not_sent()
            return _unreachable()
        progress.given_up()
        why = "Google did not end its answer in time." if isinstance(error, TimeoutError) else _CUT
        return CallLost(why, partial=reader.partial)

    async def _is_replaced(self, refused: Request) -> bool:
        """Whether the service's key is another one now than in this request, which was refused."""
        sent = refused.headers[_KEY]
        if self._read_again is not None and self._server_key() == sent:
            await self._read_again()
        return self._server_key() not in {None, sent}

    def _refused(self, refusal: Refusal, caller: Caller, call: Call, reader: AnswerReader) -> Exception:
        error = judged(refusal, caller, call, now=self._clock())
        wait = error.wait if isinstance(error, LimitHit) and error.is_brief else None
        self._health.answered_with_error(works=refusal.shows_health, throttled_for=wait)
        if reader.has_text:
            error = ended_by(refusal, caller)
            attach_partial(error, reader.partial)
        return error

    async def _exchange(self, request: Request, lease: Lease, account: str) -> bytes:
        sent = asyncio.get_running_loop().time()
        lease.sent()
        try:
            async with self._connections.open(request) as incoming:
                if incoming.status < 500:  # otherwise it may be a gateway's
                    self._on_answer(account, sent)
                await raise_if_refused(incoming, self._timeouts.closing)
                return await read_all(incoming, MAX_COUNT)
        except NotSent:
            lease.not_sent()
            raise
        finally:
            lease.answered()

    def _free(self, refusal: Refusal, caller: Caller, call: Call) -> Exception:
        """The exception for a refused request that costs no money: it can always be sent again."""
        error = judged(refusal, caller, call, now=self._clock())
        if isinstance(error, CallLost):
            return TryAgain(UpstreamError(error.detail))
        if isinstance(error, LimitHit):
            return TryAgain(error.error, wait=error.wait) if error.is_brief else error.error
        return error

    def _url(self, path: str, **query: str) -> URL:
        return URL(f"{self._base_url}/v1beta/{path}", encoded=True).with_query(query)

    def _headers(self, caller: Caller, seconds: float) -> dict[str, str]:
        """The headers of a request. Google gets a shorter deadline than this service has, since a call that ends by an
        error of Google is not billed."""
        allowed = max(SHORTEST_DEADLINE, math.ceil(seconds - self._timeouts.closing))
        return {
            **_HEADERS,
            _KEY: key_of(caller, self._server_key),
            "X-Server-Timeout": str(allowed),
        }


def _unreachable() -> TryAgain:
    return TryAgain(UpstreamError("Google could not be reached."), unreachable=True)
