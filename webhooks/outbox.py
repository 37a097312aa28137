"""Webhooks: whoever gave one is told how their generation or batch ended, at least once, and for a day if need be.

A message is signed as Replicate signs its own: HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes after
`whsec_`. Its `webhook-id` stays, so that a receiver can tell a repetition; the timestamp is each attempt's. Only an
answer of 2xx is one that it was heard; 410 means never again; anything else is tried again, ever more rarely.

What is to be delivered is on record before it is tried, and so is what became of each try: a process that ends takes
nothing with it. The next one goes on when it would have been time, perhaps with what was heard but not yet recorded.

Receivers do not hold each other up: of the few attempts under way at once a host has a small part, and hosts take
turns. What waits, waits in a heap and costs no task. Where a URL may lead is in `network/public_http.py`.
"""

import asyncio
import base64
import random
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from heapq import heappop, heappush
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from standardwebhooks import Webhook
from yarl import URL

from ledger import Ledger
from ledger.records import Delivery
from network import public_http
from network.backoff import backoff
from network.host_rules import NO_HOSTS, HostRules

AT_ONCE: Final = 32
"""Attempts under way."""

_log = structlog.get_logger("webhooks")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to try, in seconds: pauses double from `first_pause` up to `longest_pause`, less up to half of each by
    chance; no further try is planned for later than `overall` after the result was there. One may take `one_try`.

    At most `at_once` attempts are under way, and at most `per_host` of them to one host."""

    first_pause: float = 5.0
    longest_pause: float = 3600.0
    overall: float = 86_400.0
    one_try: float = 10.0
    at_once: int = AT_ONCE
    per_host: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.first_pause <= self.longest_pause:
            raise ValueError(f"first_pause must be above 0 and at most longest_pause, got {self.first_pause}")


class DeliveryFailed(Exception):
    """No answer came. The text says why, in words for whoever gave the URL."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver says: its status, and its `Retry-After` as it came."""

    status: int
    retry_after: str | None = None


class Outbox:
    """Delivers results to the webhooks of callers. Use it on one loop; `get` on any thread.

    Each change of a delivery is written to the `ledger`. `content` returns the body to send for an id, as JSON, or
    None if its result is not known any more. Without a `secret` (`whsec_` and base64) nothing is signed. `loopback`
    allows receivers on this machine, `own` those on the operator's hosts. `clock` returns Unix time, `spread` a number
    between two.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        content: Callable[[str], Awaitable[bytes | None]],
        secret: str | None,
        loopback: bool,
        own: HostRules = NO_HOSTS,
        patience: RetryPolicy | None = None,
        sender: "Sender | None" = None,
        clock: Callable[[], float] = time.time,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if secret is not None:
            _key(secret)
        self._ledger = ledger
        self._content = content
        self._secret = secret
        self._loopback = loopback
        self._own = own
        self._patience = patience or RetryPolicy()
        self._sender = sender or Sender(loopback=loopback, own=own)
        self._clock = clock
        self._spread = spread
        self._pending: dict[str, Delivery] = {}
        self._queue = _Turns(at_once=self._patience.at_once, per_host=self._patience.per_host)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def prepare(self, work_id: str, url: str) -> Delivery:
        """Record a new delivery, of a result that is about to be recorded as well. Start it with `take`."""
        delivery = Delivery(work_id, url, since=self._clock())
        self._ledger.upsert(delivery)
        return delivery

    def take(self, delivery: Delivery) -> None:
        """Begin with a new delivery, which is put on record, or go on with one that is. Twice is no error, and what is
        over stays over. After `aclose` it is only put on record."""
        if delivery.state != "pending" or delivery.id in self._pending:
            return
        now = self._clock()
        if delivery.next_at is None:
            delivery = replace(delivery, next_at=now)
            self._ledger.upsert(delivery)
        if not self._closed:
            # Never longer than a pause: the clock may have been set back since it was recorded.
            self._wait(delivery, min((delivery.next_at or now) - now, self._patience.longest_pause))
            self._go_on()

    def get(self, delivery_id: str) -> Delivery | None:
        """A delivery as it stands, if it is not over."""
        return self._pending.get(delivery_id)

    async def aclose(self) -> None:
        """Stop at once. What is pending stays on record; an attempt under way is as if it had not been."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.aclose()

    def _wait(self, delivery: Delivery, seconds: float) -> None:
        self._pending[delivery.id] = delivery
        self._queue.put(delivery.id, _host(delivery.url), asyncio.get_running_loop().time() + seconds)

    def _go_on(self, moment: float = 0.0) -> None:
        """Attempt what is due at the moment, or by now, and look again when more will be."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        now = max(loop.time(), moment)
        while turn := self._queue.next(now):
            delivery_id, host = turn
            task = loop.create_task(self._attempt(self._pending[delivery_id], host), name="webhook")
            self._tasks.add(task)
            task.add_done_callback(lambda task, host=host: self._done(task, host))  # type: ignore[misc]
        when = self._queue.due_at
        if self._timer is not None and self._timer.when() != when:
            self._timer.cancel()
            self._timer = None
        if when is not None and self._timer is None:
            self._timer = loop.call_at(when, self._ring, when)

    def _ring(self, when: float) -> None:
        self._timer = None
        self._go_on(when)  # which the loop's clock may be a hair before

    def _done(self, task: asyncio.Task[None], host: str) -> None:
        self._tasks.discard(task)
        self._queue.leave(host)
        if not task.cancelled() and (error := task.exception()):
            _log.error("webhook_outcome_not_persisted", host=host, exc_info=error)
        self._go_on()

    async def _attempt(self, delivery: Delivery, host: str) -> None:
        outcome = await self._outcome(delivery)
        now = self._clock()
        tried = replace(delivery, attempts=delivery.attempts + 1, next_at=None, trouble=outcome.trouble)
        pause = max(self._pause(tried.attempts), min(outcome.wait, self._patience.longest_pause))
        if outcome.trouble is None:
            tried = replace(tried, state="delivered", delivered_at=now)
        elif outcome.is_final or now + pause > delivery.since + self._patience.overall:
            tried = replace(tried, state="failed")
        else:
            tried = replace(tried, next_at=now + pause)
        if tried.state == "pending":
            self._wait(tried, pause)
        else:
            del self._pending[delivery.id]
        # Not the URL, the rest of which may hold secrets.
        said = {"host": host, "status": outcome.status, "attempt": tried.attempts, "trouble": tried.trouble}
        if tried.state == "failed":
            _log.warning("webhook_failed", id=tried.id, **said)
        else:
            _log.info(f"webhook_{tried.state}", id=tried.id, **said)
        self._ledger.upsert(tried)

    async def _outcome(self, delivery: Delivery) -> "_Outcome":
        try:
            url = public_http.target(delivery.url, loopback=self._loopback, own=self._own)
        except ValueError as wrong:
            return _Outcome(f"it {wrong}", is_final=True)
        try:
            content = await self._content(delivery.id)
            if content is None:
                return _Outcome("the result is not known any more", is_final=True)
            headers = signed(content, message=f"msg_{delivery.id}", secret=self._secret, now=self._clock())
            return _understood(await self._post(url, content, headers), now=self._clock())
        except DeliveryFailed as error:
            return _Outcome(str(error))
        except Exception:
            _log.exception("webhook_attempt_crashed", id=delivery.id)
            return _Outcome("something went wrong inside this service")

    async def _post(self, url: URL, content: bytes, headers: Mapping[str, str]) -> Answer:
        try:
            async with asyncio.timeout(self._patience.one_try):
                return await self._sender.post(url, content, headers)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._patience.one_try:g} s") from None

    def _pause(self, attempts: int) -> float:
        """Seconds before another attempt after so many."""
        first, longest = self._patience.first_pause, self._patience.longest_pause
        return backoff(attempts, first=first, longest=longest, uniform=self._spread)


def signed(content: bytes, *, message: str, secret: str | None, now: float) -> dict[str, str]:
    """The headers of an attempt at `now`, which prove that `content` comes from a holder of the secret. Raises
    ValueError if that is none."""
    stamp = int(now)
    headers = {"Content-Type": "application/json", "webhook-id": message, "webhook-timestamp": str(stamp)}
    if secret is not None:
        moment = datetime.fromtimestamp(stamp, UTC)
        headers["webhook-signature"] = Webhook(_key(secret)).sign(message, moment, content.decode())
    return headers


class Sender:
    """Posts messages on the open internet, and to the operator's `own` hosts. An answer counts once its head is there:
    a body that does not end is let go. No connection serves twice, since one that the receiver is about to close would
    cost an attempt."""

    def __init__(
        self, *, loopback: bool, own: HostRules = NO_HOSTS, resolver: AbstractResolver | None = None
    ) -> None:
        self._names = resolver or public_http.OwnThreads(threads=AT_ONCE)
        self._resolvers = {
            scheme: public_http.PublicOnlyResolver(
                self._names, loopback=loopback, own=own, tls=scheme == "https"
            )
            for scheme in ("http", "https")
        }
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def post(self, url: URL, content: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to one attempt, with any status. Raises Unheard. May be cancelled when it takes too long."""
        if url.scheme not in self._sessions:
            self._sessions[url.scheme] = public_http.session(
                self._resolvers[url.scheme], timeout=aiohttp.ClientTimeout(total=None), reused=False
            )
        sending = self._sessions[url.scheme].post(url, data=content, headers=headers, allow_redirects=False)
        try:
            async with sending as response:
                return Answer(response.status, response.headers.get("Retry-After"))
        except aiohttp.ClientError as error:
            raise DeliveryFailed(public_http.reason(error)) from error

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        await self._names.close()


class _Turns:
    """Who may be tried: ids by when they are due, and then by host, which take turns."""

    def __init__(self, *, at_once: int, per_host: int) -> None:
        if not 1 <= per_host <= at_once:
            raise ValueError(f"per_host must be at least 1 and at most at_once, got {per_host} of {at_once}")
        self._at_once = at_once
        self._per_host = per_host
        self._later: list[tuple[float, str, str]] = []
        self._due: dict[str, deque[str]] = {}
        self._turns: deque[str] = deque()  # the hosts of which more is due and may be tried
        self._tried: Counter[str] = Counter()

    @property
    def due_at(self) -> float | None:
        """When something is that was not yet."""
        return self._later[0][0] if self._later else None

    def put(self, delivery_id: str, host: str, at: float) -> None:
        heappush(self._later, (at, delivery_id, host))

    def next(self, now: float) -> tuple[str, str] | None:
        """An id that is due, and its host, which it has a place at until `leave`; None if nothing may be tried."""
        while self._later and self._later[0][0] <= now:
            _, delivery_id, host = heappop(self._later)
            self._due.setdefault(host, deque()).append(delivery_id)
            if len(self._due[host]) == 1 and self._tried[host] < self._per_host:
                self._turns.append(host)
        if not self._turns or self._tried.total() >= self._at_once:
            return None
        host = self._turns.popleft()
        delivery_id = self._due[host].popleft()
        if not self._due[host]:
            del self._due[host]
        self._tried[host] += 1
        if host in self._due and self._tried[host] < self._per_host:
            self._turns.append(host)
        return delivery_id, host

    def leave(self, host: str) -> None:
        if self._tried[host] == self._per_host and host in self._due:
            self._turns.append(host)
        self._tried[host] -= 1
        if not self._tried[host]:
            del self._tried[host]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of an attempt: nothing to complain of, or trouble, perhaps for good; and how long to wait at least."""

    trouble: str | None
    status: int | None = None
    is_final: bool = False
    wait: float = 0.0


def _understood(answer: Answer, *, now: float) -> _Outcome:
    status = answer.status
    if 200 <= status < 300:
        return _Outcome(None, status)
    more = ", and redirects are not followed" if 300 <= status < 400 else ""
    wait = _seconds(answer.retry_after or "", now=now)
    return _Outcome(f"it answered {status}{more}", status, is_final=status == 410, wait=wait)


def _seconds(retry_after: str, *, now: float) -> float:
    """How long a header asks to wait, in seconds or as a date (RFC 9110); 0 if it cannot be read."""
    if re.fullmatch(r"[0-9]+", retry_after):
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _key(secret: str) -> bytes:
    kind, _, encoded = secret.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if kind != "whsec" or not key:
        raise ValueError("a webhook secret must be whsec_ and base64")
    return key


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""
