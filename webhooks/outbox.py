"""The queue of webhook deliveries: each result is posted at least once, with retries for up to a day.

A 2xx response ends a delivery, and so does 410 Gone. After any other response it is retried with growing backoff. All
attempts have the same `webhook-id`, so that a receiver can detect a repetition, and each has its own timestamp.

The ledger has each delivery before its first attempt, and the outcome of each attempt. After a restart, deliveries
continue at their recorded times. An attempt whose outcome was not yet recorded is repeated.

A slow receiver does not delay the others: each host has a share of the concurrent attempts, and hosts take turns.
Waiting deliveries are entries in a heap and need no tasks.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from urllib.parse import urlsplit

import structlog
from yarl import URL

from ledger import Ledger
from ledger.records import Delivery
from network import public_http
from network.backoff import backoff
from network.host_rules import NO_HOSTS, HostRules
from webhooks.sender import (
    MAX_IN_FLIGHT,
    DeliveryFailed,
    Response,
    Sender,
    retry_after_seconds,
)
from webhooks.signing import Message, SigningSecrets, signed_headers

_log = structlog.get_logger("webhooks")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often to retry; times in seconds.

    The backoff doubles from `first_backoff` up to `longest_backoff`; jitter takes off up to half of it. No attempt
    starts later than `total_timeout` after the result was ready. One attempt lasts at most `attempt_timeout`. At most
    `max_in_flight` attempts run at the same time, at most `max_per_host` of them to one host.
    """

    first_backoff: float = 5.0
    longest_backoff: float = 3600.0
    total_timeout: float = 86_400.0
    attempt_timeout: float = 10.0
    max_in_flight: int = MAX_IN_FLIGHT
    max_per_host: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.first_backoff <= self.longest_backoff:
            raise ValueError(
                f"first_backoff must be above 0 and at most longest_backoff, got {self.first_backoff}"
            )


class Outbox:
    """Delivers results to the webhooks of callers. Use it on one loop; `get` is safe on any thread.

    Each change of a delivery is written to `ledger`. `message` returns the JSON body for a delivery's id, or None if
    the result no longer exists. It is signed with all `secrets` of its caller, if there are any. `loopback` allows
    receivers on this machine, and `allowed_hosts` lists the operator's hosts. `clock` returns Unix time.
    `uniform(low, high)` returns a random number.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        message: Callable[[str], Awaitable[Message | None]],
        secrets: SigningSecrets,
        loopback: bool,
        allowed_hosts: HostRules = NO_HOSTS,
        retry_policy: RetryPolicy | None = None,
        sender: Sender | None = None,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._ledger = ledger
        self._message = message
        self.secrets = secrets
        self._loopback = loopback
        self._allowed_hosts = allowed_hosts
        self._policy = retry_policy or RetryPolicy()
        self._sender = sender or Sender(loopback=loopback, allowed_hosts=allowed_hosts)
        self._clock = clock
        self._uniform = uniform
        self._pending: dict[str, Delivery] = {}
        self._queue = _HostQueue(
            max_in_flight=self._policy.max_in_flight, max_per_host=self._policy.max_per_host
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def prepare(self, work_id: str, url: str) -> Delivery:
        """Write a new delivery to the ledger, together with the result. Pass it to `take` to start it."""
        delivery = Delivery(work_id, url, since=self._clock())
        self._ledger.upsert(delivery)
        return delivery

    def take(self, delivery: Delivery) -> None:
        """Start a new delivery, or continue one from the ledger. It does nothing for a delivery that has ended or was
        taken before. After `aclose` a delivery is only written to the ledger."""
        if delivery.state != "pending" or delivery.id in self._pending:
            return
        now = self._clock()
        if delivery.next_at is None:
            delivery = replace(delivery, next_at=now)
            self._ledger.upsert(delivery)
        if not self._closed:
            # The clock may have been set back since `next_at` was recorded, so the wait has a limit.
            self._schedule(delivery, min((delivery.next_at or now) - now, self._policy.longest_backoff))
            self._start_due()

    def announce(self, work_id: str, url: str, message: Message) -> None:
        """Post the state of work that goes on, without a record and without a retry: its end replaces it."""
        if not self._closed:
            task = asyncio.get_running_loop().create_task(
                self._announce(work_id, url, message), name="webhook"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @property
    def has_pending(self) -> bool:
        """Whether a delivery will be tried, or tried again. In any thread."""
        return bool(self._pending or self._tasks)

    def get(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id while it is pending, else None."""
        return self._pending.get(delivery_id)

    async def aclose(self) -> None:
        """Cancel all attempts. Pending deliveries stay in the ledger as they were before the cancelled attempt."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.aclose()

    def _schedule(self, delivery: Delivery, seconds: float) -> None:
        self._pending[delivery.id] = delivery
        self._queue.put(delivery.id, _host(delivery.url), asyncio.get_running_loop().time() + seconds)

    def _start_due(self, fired_at: float = 0.0) -> None:
        """Start the attempts that are due, and set a timer for the next ones. `fired_at` is the time that the timer was
        set for, since it may fire slightly before that."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        now = max(loop.time(), fired_at)
        while found := self._queue.next(now):
            delivery_id, host = found
            task = loop.create_task(self._attempt(self._pending[delivery_id], host), name="webhook")
            self._tasks.add(task)
            task.add_done_callback(lambda task, host=host: self._done(task, host))  # type: ignore[misc]
        due_at = self._queue.due_at
        if self._timer is not None and self._timer.when() != due_at:
            self._timer.cancel()
            self._timer = None
        if due_at is not None and self._timer is None:
            self._timer = loop.call_at(due_at, self._on_timer, due_at)

    def _on_timer(self, due_at: float) -> None:
        self._timer = None
        self._start_due(due_at)

    def _done(self, task: asyncio.Task[None], host: str) -> None:
        self._tasks.discard(task)
        self._queue.release(host)
        if not task.cancelled() and (error := task.exception()):
            _log.error("webhook_outcome_not_persisted", host=host, exc_info=error)
        self._start_due()

    async def _attempt(self, delivery: Delivery, host: str) -> None:
        outcome = await self._outcome(delivery)
        now = self._clock()
        tried = replace(delivery, attempts=delivery.attempts + 1, next_at=None, trouble=outcome.trouble)
        wait = max(self._backoff(tried.attempts), min(outcome.wait, self._policy.longest_backoff))
        if outcome.trouble is None:
            tried = replace(tried, state="delivered", delivered_at=now)
        elif outcome.is_final or now + wait > delivery.since + self._policy.total_timeout:
            tried = replace(tried, state="failed")
        else:
            tried = replace(tried, next_at=now + wait)
        if tried.state == "pending":
            self._schedule(tried, wait)
        else:
            del self._pending[delivery.id]
        # The host alone: the rest of the URL may hold secrets.
        fields = {"host": host, "status": outcome.status, "attempt": tried.attempts, "trouble": tried.trouble}
        if tried.state == "failed":
            _log.warning("webhook_failed", id=tried.id, **fields)
        else:
            _log.info(f"webhook_{tried.state}", id=tried.id, **fields)
        self._ledger.upsert(tried)

    async def _announce(self, work_id: str, url: str, message: Message) -> None:
        try:
            status = (await self._post(self._parsed(url), message, f"msg_{work_id}_start")).status
            _log.info("webhook_announced", id=work_id, host=_host(url), status=status)
        except (ValueError, DeliveryFailed) as reason:
            _log.info("webhook_announced", id=work_id, host=_host(url), status=None, trouble=str(reason))

    async def _outcome(self, delivery: Delivery) -> "_Outcome":
        try:
            url = self._parsed(delivery.url)
        except ValueError as wrong:
            return _Outcome(f"it {wrong}", is_final=True)
        try:
            message = await self._message(delivery.id)
            if message is None:
                return _Outcome("the result is not known any more", is_final=True)
            return _outcome_of(await self._post(url, message, f"msg_{delivery.id}"), now=self._clock())
        except DeliveryFailed as error:
            return _Outcome(str(error))
        except Exception:
            _log.exception("webhook_attempt_crashed", id=delivery.id)
            return _Outcome("something went wrong inside this service")

    def _parsed(self, url: str) -> URL:
        """Raises ValueError for a URL to which this service may not post."""
        return public_http.parse_url(url, loopback=self._loopback, allowed_hosts=self._allowed_hosts)

    async def _post(self, url: URL, message: Message, message_id: str) -> Response:
        secrets = self.secrets.signing(message.caller_id)
        headers = signed_headers(message.content, message_id=message_id, secrets=secrets, now=self._clock())
        try:
            async with asyncio.timeout(self._policy.attempt_timeout):
                return await self._sender.post(url, message.content, headers)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._policy.attempt_timeout:g} s") from None

    def _backoff(self, attempts: int) -> float:
        first, longest = self._policy.first_backoff, self._policy.longest_backoff
        return backoff(attempts, first=first, longest=longest, uniform=self._uniform)


class _HostQueue:
    """Delivery ids by due time. Among those that are due, hosts take turns."""

    def __init__(self, *, max_in_flight: int, max_per_host: int) -> None:
        if not 1 <= max_per_host <= max_in_flight:
            raise ValueError(
                f"max_per_host must be at least 1 and at most max_in_flight, got {max_per_host} of {max_in_flight}"
            )
        self._max_in_flight = max_in_flight
        self._max_per_host = max_per_host
        self._later: list[tuple[float, str, str]] = []
        self._due: dict[str, deque[str]] = {}
        self._turns: deque[str] = deque()  # hosts with due deliveries that are below their limit
        self._in_flight: Counter[str] = Counter()

    @property
    def due_at(self) -> float | None:
        """The earliest due time that has not been reached, on the loop's clock."""
        return self._later[0][0] if self._later else None

    def put(self, delivery_id: str, host: str, at: float) -> None:
        heappush(self._later, (at, delivery_id, host))

    def next(self, now: float) -> tuple[str, str] | None:
        """A due id and its host, which counts as in flight until `release`. Returns None if nothing is due or the
        limits are reached."""
        while self._later and self._later[0][0] <= now:
            _, delivery_id, host = heappop(self._later)
            self._due.setdefault(host, deque()).append(delivery_id)
            if len(self._due[host]) == 1 and self._in_flight[host] < self._max_per_host:
                self._turns.append(host)
        if not self._turns or self._in_flight.total() >= self._max_in_flight:
            return None
        host = self._turns.popleft()
        delivery_id = self._due[host].popleft()
        if not self._due[host]:
            del self._due[host]
        self._in_flight[host] += 1
        if host in self._due and self._in_flight[host] < self._max_per_host:
            self._turns.append(host)
        return delivery_id, host

    def release(self, host: str) -> None:
        if self._in_flight[host] == self._max_per_host and host in self._due:
            self._turns.append(host)
        self._in_flight[host] -= 1
        if not self._in_flight[host]:
            del self._in_flight[host]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of an attempt. `trouble` is the reason of a failure, or None for a success. `is_final` forbids
    retries. `wait` is the least number of seconds before a retry."""

    trouble: str | None
    status: int | None = None
    is_final: bool = False
    wait: float = 0.0


def _outcome_of(response: Response, *, now: float) -> _Outcome:
    status = response.status
    if 200 <= status < 300:
        return _Outcome(None, status)
    more = ", and redirects are not followed" if 300 <= status < 400 else ""
    wait = retry_after_seconds(response.retry_after or "", now=now)
    return _Outcome(f"it answered {status}{more}", status, is_final=status == 410, wait=wait)


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""
