"""The events of a generation, as a stream: queued, running, progress, done; of a training also its logs.

A late subscriber first gets the earlier events. Each event is on the disk before it is sent. Progress is polled while a
generation has subscribers, for models that print it.
"""

import asyncio
import queue
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from contract.ids import is_training_id
from errors import LedgerDown
from generations.elsewhere import Elsewhere
from generations.generation import Generation
from generations.status import Status
from generations.supervisor import Supervisor
from ledger import Ledger
from ledger.records import GenerationRecord
from providers import Prediction
from providers.several import RunProviders

Name = Literal["queued", "running", "progress", "logs", "done", "shutting_down", "interrupted"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event. The last is `done`, `shutting_down` if the service stops first, or `interrupted` if the generation is
    suspended."""

    name: Name
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.name in {"done", "shutting_down", "interrupted"}


@dataclass(eq=False, slots=True)
class Subscription:
    """One subscriber, which reads `events` in another thread; None there means that the client has disconnected.

    `on_close` undoes the subscription. `progress` is the last percentage that was sent of the current prediction, and
    `logged` the count of the characters of its logs that were sent.
    """

    work: Generation | GenerationRecord
    address: str
    events: "queue.SimpleQueue[Event | None]" = field(default_factory=queue.SimpleQueue)
    on_close: ExitStack = field(default_factory=ExitStack)
    is_closed: bool = False
    progress: float | None = None
    logged: int = 0


class Events:
    def __init__(
        self,
        *,
        supervisor: Supervisor,
        elsewhere: Elsewhere,
        ledger: Ledger,
        providers: RunProviders,
        status: Status,
    ) -> None:
        self._supervisor = supervisor
        self._elsewhere = elsewhere
        self._ledger = ledger
        self._providers = providers
        self._status = status
        self.sending: set[asyncio.Task[None]] = set()

    def subscribe(self, work: Generation | GenerationRecord, address: str) -> Subscription:
        """Subscribe to a generation. The first events describe its state so far."""
        subscription = Subscription(work, address)
        body = self._status.body(work, address)
        self._send(subscription, Event("queued", {"id": work.id, "created_at": body["created_at"]}))
        if isinstance(work, GenerationRecord) and self._elsewhere.runs(work):
            reading = asyncio.create_task(self._follow_elsewhere(subscription, work))
            subscription.on_close.callback(reading.cancel)
            return subscription
        if not isinstance(work, Generation) or (task := self._supervisor.task(work)) is None:
            if work.prediction_id is not None:
                name = "training_id" if is_training_id(work.id) else "prediction_id"
                self._send(subscription, Event("running", {"id": work.id, name: work.prediction_id}))
            self._send_last(subscription)
            return subscription
        listener = partial(self._on_transition, subscription)
        work.listeners.append(listener)
        subscription.on_close.callback(work.listeners.remove, listener)
        if work.state == "running":
            listener(work)
        task.add_done_callback(lambda _: self._send_last(subscription))
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send no more events."""
        subscription.is_closed = True
        subscription.on_close.close()

    def _on_transition(self, subscription: Subscription, generation: Generation) -> None:
        state = generation.state
        if state != "queued" and state != "running":  # the end is sent when it is on the disk
            return
        self._send(subscription, Event(state, self._status.body(generation, subscription.address)))
        if state == "running" and generation.prediction_id is not None:
            # Follow in the next tick, when the provider watches the prediction.
            asyncio.get_running_loop().call_soon(
                self._follow, subscription, generation, generation.prediction_id
            )

    async def _follow_elsewhere(self, subscription: Subscription, work: GenerationRecord) -> None:
        """Send the events of a generation that another process runs, without its progress."""
        shown = "queued"
        async with aclosing(self._elsewhere.changes(work)) as records:
            async for record in records:
                subscription.work = record
                if record.state != shown and (record.state == "queued" or record.state == "running"):
                    shown = record.state
                    self._send(subscription, Event(shown, self._status.body(record, subscription.address)))
        self._send_last(subscription)

    def _follow(self, subscription: Subscription, generation: Generation, prediction_id: str) -> None:
        if not subscription.is_closed:
            subscription.progress, subscription.logged = None, 0
            provider = self._providers.of(generation.id)
            on_poll = partial(self._show, subscription, generation)
            subscription.on_close.callback(provider.follow(prediction_id, on_poll))

    def _show(self, subscription: Subscription, generation: Generation, shown: Prediction) -> None:
        """Send the new part of a prediction's logs, and its progress."""
        logs = None if generation.secrets_lost else shown.logs  # which may show a secret
        if logs is not None and logs.end > subscription.logged:
            piece = logs.text[-(logs.end - subscription.logged) :]
            subscription.logged = logs.end
            # By `end`, a new subscriber knows which characters it has.
            self._send(subscription, Event("logs", {"id": generation.id, "text": piece, "end": logs.end}))
        if shown.progress is None:
            return
        generation.show_progress(shown.progress)
        if subscription.progress != generation.progress:
            subscription.progress = generation.progress
            data = {"id": generation.id, "progress": generation.progress}
            self._send(subscription, Event("progress", data))

    def _send(self, subscription: Subscription, event: Event) -> None:
        async def send() -> None:
            with suppress(LedgerDown):
                await self._ledger.flush()
            subscription.events.put(event)

        task = asyncio.create_task(send())
        self.sending.add(task)
        task.add_done_callback(self.sending.discard)

    def _send_last(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription)
        work = subscription.work
        is_suspended = isinstance(work, GenerationRecord) and work.suspended_at is not None
        stopped: Name = "interrupted" if is_suspended else "shutting_down"
        name: Name = "done" if work.has_ended else stopped
        self._send(subscription, Event(name, self._status.body(work, subscription.address)))
