"""The requests to a service that judges prompts, its verdicts, and how often it is called.

Each distinct content is judged once: callers that wait for the same content share one call, and its verdict is kept for
some minutes. At most `AT_ONCE` calls are under way. Callers take turns, and so do the batches of one, so that a large
batch delays no one else. A service that does not answer in time, or not as it should, has failed: then the setting
decides, and the verdict is not kept.
"""

import asyncio
import hashlib
import json
from collections import Counter, OrderedDict, deque
from dataclasses import asdict, dataclass
from typing import Final, Protocol

import structlog

from settings.rotating import RotatingSecret

AT_ONCE: Final = 32
"""Calls of the service at the same time."""

KEPT_FOR: Final = 600.0
"""Seconds for which a verdict is used again in this process."""

_KEPT: Final = 10_000
"""Verdicts that are kept, each of some hundred bytes."""

_LARGE: Final = 500_000
"""Characters of texts and images."""

UNCHECKED: Final = "unchecked"
"""The category of a refusal because the service failed."""

log = structlog.get_logger("safety")


@dataclass(frozen=True, slots=True)
class Content:
    """The content to judge: the texts of a request, its model, the id of its caller, and its reference images as
    addresses or `data:` URIs."""

    prompt: str
    negative_prompt: str | None = None
    model: str = ""
    key: str | None = None
    images: tuple[str, ...] = ()

    def as_json(self) -> bytes:
        body = asdict(self)
        if not self.images:
            del body["images"]
        return json.dumps(body).encode()

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.as_json()).digest()

    @property
    def is_large(self) -> bool:
        """Whether `as_json` and `digest` would block a loop for more than some milliseconds."""
        return len(self.prompt) + len(self.negative_prompt or "") + sum(map(len, self.images)) > _LARGE


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a content may be sent, the categories that it falls into, and a reason for the caller. If the service
    `failed`, the setting has decided."""

    allow: bool
    categories: tuple[str, ...] = ()
    reason: str | None = None
    failed: bool = False

    @property
    def outcome(self) -> str:
        """The outcome that metrics count: `allowed` or `refused`, also with `_unchecked` if the service failed."""
        return ("allowed" if self.allow else "refused") + ("_unchecked" if self.failed else "")

    @property
    def category(self) -> str:
        return next(iter(self.categories), UNCHECKED if self.failed else "other")

    def as_text(self) -> str:
        """As JSON, which `read` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> "Verdict":
        found = json.loads(text)
        return cls(**found | {"categories": tuple(found["categories"])})


class CheckFailed(Exception):
    """The service has not judged. The message has the reason, without the content."""


class Service(Protocol):
    """A service that judges. It has no timeout of its own."""

    takes_images: bool = True
    """Whether it judges images, too. Otherwise its contents have none."""

    async def judge(self, content: Content) -> Verdict:
        """Raises CheckFailed."""

    async def aclose(self) -> None:
        """Close every connection."""


class Judge:
    """The verdicts of a service. Belongs to one loop. `timeout` is in seconds, from the begin of a call. With
    `allows_failed`, content that could not be judged is allowed. The service is called with `key`."""

    def __init__(
        self,
        service: Service,
        *,
        timeout: float,
        allows_failed: bool,
        key: RotatingSecret | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._service = service
        self.takes_images = service.takes_images
        self.key = key
        self._timeout = timeout
        self._allows_failed = allows_failed
        self._turns = Turns(at_once)
        self._calls: dict[bytes, _Call] = {}
        self._kept: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._is_failing = False
        self.outcomes: Counter[str] = Counter()

    async def verdict(self, content: Content, *, turn: str) -> Verdict:
        """The verdict on a content. Work with the same `turn` waits in its own order. If all that wait for a call are
        cancelled, so is the call."""
        key = await asyncio.to_thread(lambda: content.digest) if content.is_large else content.digest
        kept, until = self._kept.get(key, (None, 0.0))
        if kept is not None and asyncio.get_running_loop().time() < until:
            return kept
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(asyncio.create_task(self._judged(key, content, turn)))
            call.task.add_done_callback(lambda _, call=call: self._ended(key, call))  # type: ignore[misc]
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.waiting -= 1
            if not call.waiting and not call.task.done():
                call.task.cancel()
                self._ended(key, call)

    def failed(self, reason: str) -> Verdict:
        """The verdict on content that could not be judged."""
        if not self._is_failing:
            self._is_failing = True
            log.warning("safety_service_failing", reason=reason, allowed=self._allows_failed)
        verdict = Verdict(self._allows_failed, (), f"The check of prompts failed: {reason}.", failed=True)
        self.outcomes[verdict.outcome] += 1
        return verdict

    async def aclose(self) -> None:
        """End all calls, and close every connection."""
        tasks = [each.task for each in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._service.aclose()

    async def _judged(self, key: bytes, content: Content, turn: str) -> Verdict:
        await self._turns.acquire(turn)
        try:
            verdict = await self._tried(content)
        finally:
            self._turns.release()
        if not verdict.failed:
            self.outcomes[verdict.outcome] += 1
            self._kept[key] = verdict, asyncio.get_running_loop().time() + KEPT_FOR
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return verdict

    async def _tried(self, content: Content) -> Verdict:
        try:
            async with asyncio.timeout(self._timeout):
                verdict = await self._service.judge(content)
        except CheckFailed as failed:
            return self.failed(str(failed))
        except TimeoutError:
            return self.failed(f"it did not answer within {self._timeout:g} s")
        except Exception:
            log.exception("safety_check_crashed")
            return self.failed("it failed")
        if self._is_failing:
            self._is_failing = False
            log.info("safety_service_recovered")
        return verdict

    def _ended(self, key: bytes, call: "_Call") -> None:
        if self._calls.get(key) is call:
            del self._calls[key]
        if call.task.done() and not call.task.cancelled():
            call.task.exception()  # if no caller is left to have it


@dataclass(eq=False, slots=True)
class _Call:
    task: "asyncio.Task[Verdict]"
    waiting: int = 0


class Turns:
    """At most `most` holders at once. Waiters with different turns are admitted one of each after another."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, turn: str) -> None:
        if self._free:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(turn, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise

    def release(self) -> None:
        while self._queues:
            turn, queue = self._queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._queues[turn] = queue
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
