"""The events of a generation, as a stream: queued, running, progress, done.

A late subscriber gets the earlier events first. Each event is on the disk before it is sent. Progress is looked up as
long as someone listens, for models that print it.
"""

import asyncio
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from errors import LedgerDown
from generations.generation import Generation
from generations.status import Status
from generations.supervisor import Supervisor
from ledger import Ledger
from ledger.records import GenerationRecord
from providers import Prediction, ProgressSource

Name = Literal["queued", "running", "progress", "done", "shutting_down", "interrupted"]


@dataclass(frozen=True, slots=True)
class Event:
    """The last event is `done`, or `shutting_down` if the service stops before that, or `interrupted` if the generation
    is suspended."""

    name: Name
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.name in {"done", "shutting_down", "interrupted"}


@dataclass(eq=False, slots=True)
class Subscription:
    """One subscriber, which reads `news` in another thread."""

    work: Generation | GenerationRecord
    address: str
    news: "queue.SimpleQueue[Event | None]" = field(default_factory=queue.SimpleQueue)
    """None after the subscriber has left."""
    unfollow: Callable[[], None] = lambda: None
    has_left: bool = False
    progress: float | None = None
    """The per cent that were sent last, of the prediction that is followed."""
    on_transition: Callable[[Generation], object] | None = None


class Events:
    def __init__(
        self, *, supervisor: Supervisor, ledger: Ledger, provider: ProgressSource, status: Status
    ) -> None:
        self._supervisor = supervisor
        self._ledger = ledger
        self._provider = provider
        self._status = status
        self._sending: set[asyncio.Task[None]] = set()

    def subscribe(self, work: Generation | GenerationRecord, address: str) -> Subscription:
        """Begin with the state that it is in."""
        subscription = Subscription(work, address)
        body = self._status.of(work, address)
        self._send(subscription, Event("queued", {"id": work.id, "created_at": body["created_at"]}))
        task = self._supervisor.task(work) if isinstance(work, Generation) else None
        if task is None or not isinstance(work, Generation):
            if body["prediction_id"] is not None:
                running = {"id": work.id, "prediction_id": body["prediction_id"]}
                self._send(subscription, Event("running", running))
            self._send_last(subscription)
            return subscription
        subscription.on_transition = partial(self._on_transition, subscription)
        work.listeners.append(subscription.on_transition)
        if work.state == "running":
            self._on_transition(subscription, work)
        task.add_done_callback(lambda _: self._send_last(subscription))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscription.has_left = True
        subscription.unfollow()
        if subscription.on_transition is not None and isinstance(subscription.work, Generation):
            with suppress(ValueError):
                subscription.work.listeners.remove(subscription.on_transition)

    def _on_transition(self, subscription: Subscription, generation: Generation) -> None:
        # The end is sent when the run is over, and so on the disk.
        state = generation.state
        if state != "queued" and state != "running":
            return
        self._send(subscription, Event(state, self._status.of(generation, subscription.address)))
        if state == "running" and generation.prediction_id is not None:
            subscription.unfollow()
            # Not yet: its watch begins in the next tick.
            asyncio.get_running_loop().call_soon(
                self._follow, subscription, generation, generation.prediction_id
            )

    def _follow(self, subscription: Subscription, generation: Generation, prediction_id: str) -> None:
        def seen(prediction: Prediction) -> None:
            if prediction.progress is None:
                return
            generation.progress = prediction.progress
            if subscription.progress != prediction.progress:
                subscription.progress = prediction.progress
                data = {"id": generation.id, "progress": prediction.progress}
                self._send(subscription, Event("progress", data))

        if not subscription.has_left:
            subscription.progress = None
            subscription.unfollow = self._provider.follow(prediction_id, seen)

    def _send(self, subscription: Subscription, event: Event) -> None:
        async def send() -> None:
            with suppress(LedgerDown):
                await self._ledger.flush()
            subscription.news.put(event)

        task = asyncio.create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _send_last(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription)
        work = subscription.work
        is_suspended = isinstance(work, GenerationRecord) and work.suspended_at is not None
        stopped: Name = "interrupted" if is_suspended else "shutting_down"
        name: Name = "done" if work.has_ended else stopped
        self._send(subscription, Event(name, self._status.of(work, subscription.address)))
