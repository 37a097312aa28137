"""Shared code of the webhook tests: a fake sender in virtual time, a ledger that survives a restart of the outbox, and
a fake resolver.
"""

import asyncio
import hmac
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from replicate.webhook import Webhooks, WebhookSigningSecret

from ledger.records import Delivery
from webhooks.outbox import Outbox
from webhooks.sender import DeliveryFailed, Response
from webhooks.signing import Message, SigningSecrets

T = TypeVar("T")

EPOCH = 1_800_000_000
"""The Unix time at which virtual time starts: 2027-01-15T08:00:00Z."""

DAY = 86_400
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
URL = "https://hooks.example.com/replicate?key=s3cret"

HANGS = "hangs"
LOST = "lost"


def now() -> float:
    return EPOCH + asyncio.get_running_loop().time()


def upper(low: float, high: float) -> float:
    """A uniform distribution without randomness: always the upper bound, so each backoff is as long as it can be."""
    return high


def secrets(common: str | None, ledger: bytes = b"ledger") -> SigningSecrets:
    """The secrets of a ledger with this secret of its own."""
    return SigningSecrets(lambda text: hmac.new(ledger, text.encode(), "sha256").hexdigest(), common)


def new(delivery_id: str = "gen_1", url: str = URL, **fields: Any) -> Delivery:
    return Delivery(delivery_id, url, fields.pop("since", EPOCH), **fields)


@dataclass(frozen=True)
class Attempt:
    """A request that the receiver got, `at` seconds after the start."""

    at: float
    url: str
    content: bytes
    headers: dict[str, str]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"].removeprefix("msg_")


class Fake:
    """A fake sender in virtual time. `says(attempt)`, or the constant `says`, is the outcome of an attempt: a
    `Response`, a status, LOST or HANGS. An attempt takes `takes` seconds."""

    def __init__(self, says: Any, *, takes: float = 0.0) -> None:
        self._says: Callable[[Attempt], Response | int | str] = (
            says if callable(says) else lambda attempt: says
        )
        self._takes = takes
        self.attempts: list[Attempt] = []
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """The most attempts in flight at once, by host; "all" counts those to every host."""
        self.closed = False

    async def post(self, url: yarl.URL, content: bytes, headers: Mapping[str, str]) -> Response:
        attempt = Attempt(now() - EPOCH, str(url), content, dict(headers))
        self.attempts.append(attempt)
        with self._counted(str(url.host)), self._counted("all"):
            if self._takes:
                await asyncio.sleep(self._takes)
            says = self._says(attempt)
            if says == HANGS:
                await asyncio.get_running_loop().create_future()
            if says == LOST:
                raise DeliveryFailed("the connection was lost")
            if isinstance(says, int):
                return Response(says)
            assert isinstance(says, Response), says
            return says

    async def aclose(self) -> None:
        self.closed = True

    @property
    def times(self) -> list[float]:
        return [attempt.at for attempt in self.attempts]

    @contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        self.under_way[name] += 1
        self.most[name] = max(self.most[name], self.under_way[name])
        try:
            yield
        finally:
            self.under_way[name] -= 1


def in_turn(*said: T) -> Callable[[Attempt], T]:
    """Return the outcomes one after another, one for each attempt. The last one repeats."""
    left = list(said)
    return lambda attempt: left.pop(0) if len(left) > 1 else left[0]


@dataclass
class Story:
    """A ledger of deliveries that survives restarts of the `Outbox` that writes it."""

    sender: Fake
    options: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Delivery] = field(default_factory=dict)
    written: list[Delivery] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    """The Unix time of each write."""
    caller_id: str = "user_1"

    def begun(self) -> Outbox:
        return Outbox(
            **{
                "ledger": self,
                "message": self.message,
                "secrets": secrets(SECRET),
                "loopback": False,
                "sender": self.sender,
                "clock": now,
                "uniform": upper,
                **self.options,
            }
        )

    def upsert(self, delivery: Delivery) -> None:
        self.written.append(delivery)
        self.moments.append(now())
        self.rows[delivery.id] = delivery

    async def message(self, delivery_id: str) -> Message:
        return Message(self.caller_id, json.dumps({"id": delivery_id}).encode())

    def delivery(self, delivery_id: str = "gen_1") -> Delivery:
        """Return the delivery as the ledger has it."""
        return self.rows[delivery_id]

    async def of(self, *deliveries: Delivery, seconds: float = 3 * DAY) -> "Story":
        """Send the deliveries for so many seconds of virtual time, then close the outbox."""
        outbox = self.begun()
        for delivery in deliveries:
            outbox.take(delivery)
        await asyncio.sleep(seconds)
        await outbox.aclose()
        return self


async def story(
    says: Any,
    *deliveries: Delivery,
    seconds: float = 3 * DAY,
    takes: float = 0.0,
    caller_id: str = "user_1",
    **options: Any,
) -> Story:
    made = Story(Fake(says, takes=takes), options, caller_id=caller_id)
    return await made.of(*(deliveries or (new(),)), seconds=seconds)


def is_valid(headers: Mapping[str, str], content: bytes, secret: str = SECRET) -> None:
    """Raise WebhookValidationError if Replicate's own client rejects the signature."""
    Webhooks.validate(headers=dict(headers), body=content.decode(), secret=WebhookSigningSecret(key=secret))


class Names(AbstractResolver):
    """A fake resolver with the same addresses for every name. Without addresses no name resolves."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if not self.addresses:
            raise OSError(socket.EAI_NONAME, "unknown")
        return [
            {"hostname": host, "host": each, "port": port, "family": family, "proto": 0, "flags": 0}
            for each in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True
