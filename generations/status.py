"""How work stands before it has ended: its place in line, and how long it may still take.

Both are estimates: turns are equal from now on, and each model takes as long as its latest generations did.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from admission.forecast import Item, plan, seconds_left
from auth import Caller
from concurrency import Gate
from contract.states import iso8601
from generations import views
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.generation import Generation
from generations.supervisor import Supervisor
from ledger.records import GenerationRecord, PlanRecord
from loop_thread import Pool
from parsing.shapes import BatchRequest

Line = tuple[str, str | None, int]
"""A place in the queue: the caller's turn, the batch, and how many of both are ahead."""


class Status:
    def __init__(self, *, supervisor: Supervisor, gate: Gate, threads: Pool) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._threads = threads

    def of(self, work: Work | Stored, address: str) -> dict[str, Any]:
        """The body for work in any state; a batch comes without its results, which may be many."""
        if isinstance(work, Batch):
            return self._of_batch(work)
        body = views.generation(work.record(), address)
        if isinstance(work, Generation) and not work.has_ended:
            body |= self._estimate(work)
        return body

    async def results(self, batch: Batch, indexes: Sequence[int], address: str) -> list[dict[str, Any]]:
        """The results of these items, which have ended; made on another thread, since they may be many."""
        return await self._threads.run(lambda: [batch.item(index, address) for index in indexes])

    async def forecast(self, request: BatchRequest, caller: Caller) -> PlanRecord:
        """How a batch of this caller would go if it was submitted now."""
        items = [
            Item(
                each.model.name,
                each.model.usual_seconds,
                each.model.cost(each.first.input),
                each.model.credits,
            )
            for each in request.requests
        ]
        snapshot, durations = self._gate.snapshot(), self._gate.durations
        found = await self._threads.run(
            partial(
                plan, items, snapshot, durations, caller=caller.turn, max_concurrent=request.max_concurrent
            )
        )
        return PlanRecord(found.strategy, found.seconds, found.cost_usd, found.credits)

    def _estimate(self, generation: Generation) -> dict[str, Any]:
        """Seconds until its end; its place in line (1 is the next) while it is queued; the progress that its model
        printed, in per cent; whether its creation is in doubt."""
        line = self._line(generation)  # once for both: the queue may be long
        body: dict[str, Any] = {"estimated_seconds": round(self._seconds(generation, line), 1)}
        if line is not None:
            body["place"] = self._gate.place(*line)
        if generation.progress is not None:
            body["progress"] = generation.progress
        if generation.last is not None and generation.last.is_searched_for:
            body["creation_in_doubt"] = True
        return body

    def _seconds(self, generation: Generation, line: Line | None) -> float:
        model = generation.model
        usual = self._gate.durations.usual(model.name, model.usual_seconds)
        if line is not None:
            batch = self._supervisor.find_batch(generation)
            bound = batch.max_concurrent if batch else None
            return usual + self._gate.wait(*line, usual=usual, bound=bound)
        return seconds_left(usual, held=generation.last.age if generation.last else 0.0)

    def _line(self, generation: Generation) -> Line | None:
        """Its caller, its batch, and how many of both queue ahead of it. None if it is not queued."""
        if generation.state != "queued":
            return None
        return generation.caller.turn, generation.batch_id, self._supervisor.queue_position(generation)

    def _of_batch(self, batch: Batch) -> dict[str, Any]:
        running = [each for each in batch.items if isinstance(each, Generation) and not each.has_ended]
        body = {
            **batch.summary(),
            **views.batch_status((each.state for each in batch.items), has_ended=batch.has_ended),
        }
        if not batch.has_ended:
            del body["success"], body["estimated_seconds"]
        if running:
            queued = next((each for each in running if each.state == "queued"), None)
            body["estimated_seconds"] = round(
                max(self._seconds(each, self._line(each)) for each in (running[0], running[-1])), 1
            )
            if queued is not None and (line := self._line(queued)) is not None:
                body["place"] = self._gate.place(*line)
        elif not batch.has_ended and (since := _suspended_at(batch)) is not None:
            body["waiting_for_owner_since"] = iso8601(since)
        return body


def _suspended_at(batch: Batch) -> float | None:
    """Since when the first of its items is suspended, if one is."""
    since = (each.suspended_at for each in batch.items if isinstance(each, GenerationRecord))
    return min((each for each in since if each is not None), default=None)
