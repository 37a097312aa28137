"""What happens to a generation, told to whoever listens: queued, running, progress, done.

Whoever comes late is told what was before. Everything is on the disk before it is told. Per cent are asked for as long
as somebody listens, for models that print them.
"""

import asyncio
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from attempts import Ledger
from errors import LedgerDown
from generation import Generations
from providers import Prediction, ProgressSource
from records import Batch, Generation
from standing import Standing
from telling import Recorded, View

Name = Literal["queued", "running", "progress", "done", "shutting_down", "interrupted"]


@dataclass(frozen=True, slots=True)
class Event:
    """The last is `done`; `shutting_down` if the service stops before; `interrupted` if it waits for its owner."""

    name: Name
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.name in {"done", "shutting_down", "interrupted"}


@dataclass(eq=False, slots=True)
class Listener:
    """One who listens, in another thread."""

    work: Generation | Recorded
    view: View
    news: "queue.SimpleQueue[Event | None]" = field(default_factory=queue.SimpleQueue)
    """None once nobody listens any more."""
    unfollow: Callable[[], None] = lambda: None
    has_left: bool = False
    progress: float | None = None
    """The per cent that were told last, of the prediction that is followed."""
    hear: Callable[[Generation], object] | None = None


class Events:
    """On the loop."""

    def __init__(
        self, *, generations: Generations, ledger: Ledger, provider: ProgressSource, standing: Standing
    ) -> None:
        self._generations = generations
        self._ledger = ledger
        self._provider = provider
        self._standing = standing
        self._telling: set[asyncio.Task[None]] = set()

    def listen(self, work: Generation | Batch | Recorded, view: View) -> Listener:
        """Begin with how it stands."""
        assert not isinstance(work, Batch)  # noqa: S101 - only generations have events
        listener = Listener(work, view)
        told = self._standing.of(work, view)
        self._tell(listener, Event("queued", {"id": work.id, "created_at": told["created_at"]}))
        task = self._generations.task(work) if isinstance(work, Generation) else None
        if task is None or not isinstance(work, Generation):
            if told["prediction_id"] is not None:
                self._tell(
                    listener, Event("running", {"id": work.id, "prediction_id": told["prediction_id"]})
                )
            self._last(listener)
            return listener
        listener.hear = partial(self._hear, listener)
        work.listeners.append(listener.hear)
        if work.state == "running":
            self._hear(listener, work)
        task.add_done_callback(lambda _: self._last(listener))
        return listener

    def leave(self, listener: Listener) -> None:
        """Nobody listens any more."""
        listener.has_left = True
        listener.unfollow()
        if listener.hear is not None and isinstance(listener.work, Generation):
            with suppress(ValueError):
                listener.work.listeners.remove(listener.hear)

    def _hear(self, listener: Listener, generation: Generation) -> None:
        # Its end is told when its life is over, and so on the disk.
        state = generation.state
        if state != "queued" and state != "running":
            return
        self._tell(listener, Event(state, self._standing.of(generation, listener.view)))
        if state == "running" and generation.prediction_id is not None:
            listener.unfollow()
            # Not yet: it is watched in a moment.
            asyncio.get_running_loop().call_soon(self._follow, listener, generation, generation.prediction_id)

    def _follow(self, listener: Listener, generation: Generation, prediction_id: str) -> None:
        def seen(prediction: Prediction) -> None:
            if prediction.progress is None:
                return
            generation.progress = prediction.progress
            if listener.progress != prediction.progress:
                listener.progress = prediction.progress
                self._tell(
                    listener, Event("progress", {"id": generation.id, "progress": prediction.progress})
                )

        if not listener.has_left:
            listener.progress = None
            listener.unfollow = self._provider.follow(prediction_id, seen)

    def _tell(self, listener: Listener, event: Event) -> None:
        async def tell() -> None:
            with suppress(LedgerDown):
                await self._ledger.synced()
            listener.news.put(event)

        task = asyncio.create_task(tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _last(self, listener: Listener) -> None:
        self.leave(listener)
        work = listener.work
        waits = isinstance(work, Recorded) and work.waits_since is not None
        stopped: Name = "interrupted" if waits else "shutting_down"
        name: Name = "done" if work.has_ended else stopped
        self._tell(listener, Event(name, self._standing.of(work, listener.view)))
