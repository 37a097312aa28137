"""The state of unfinished work: its place in the queue, and the seconds it may still take.

Both are estimates. They assume that callers take equal turns, and that each model takes as long as its latest
generations did.
"""

from collections.abc import Sequence
from typing import Any

from admission.forecast import seconds_left
from auth import Caller
from catalog.texts.runnable import CallModel
from catalog.trainers import Trainer
from cluster import AnyCallGate, AnyGate
from contract.states import iso8601
from generations import views
from generations.archive import Stored
from generations.attempts import Attempt
from generations.batch import Batch, Work
from generations.costs import Estimate, Forecast
from generations.generation import Generation
from generations.learned import Learned
from generations.lines import Line, line_of, planned
from generations.supervisor import Supervisor
from generations.training_views import body_of
from ledger.records import PlanRecord
from loop_thread import Pool
from parsing.shapes import BatchRequest


class Status:
    """`gate` admits creations, `calls` the calls of text models, and `trainings` trainings."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        gate: AnyGate,
        threads: Pool,
        learned: Learned,
        calls: "AnyCallGate | None" = None,
        trainings: "AnyGate | None" = None,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._calls = calls
        self._trainings = trainings or gate
        self._threads = threads
        self._learned = learned

    def body(self, work: Work | Stored, address: str) -> dict[str, Any]:
        """The body of work in any state, for a batch without its results."""
        if isinstance(work, Batch):
            return self._batch(work)
        body = body_of(work.record(), address)
        if isinstance(work, Generation) and not work.has_ended:
            body |= self._estimate(work)
        return body

    async def results(self, batch: Batch, indexes: Sequence[int], address: str) -> list[dict[str, Any]]:
        """The results of these items, which have ended. They are made on another thread, since there may be
        many."""
        return await self._threads.run(lambda: [batch.item(index, address) for index in indexes])

    async def forecast(self, request: BatchRequest, caller: Caller) -> Forecast:
        """The forecast of a batch of this caller if it were submitted now."""
        costs = await self._learned.estimates(request.requests)
        found = await planned(
            request, caller, costs, creations=self._gate, calls=self._calls, threads=self._threads
        )
        record = PlanRecord(found.strategy, found.seconds, found.cost_usd, found.credits)
        return Forecast(record, Estimate.total(costs))

    def _estimate(self, generation: Generation) -> dict[str, Any]:
        """The estimate: seconds to its end, its place in the queue (1 is next) while it is queued, the
        percentage that its model printed, and whether its creation is in doubt."""
        line = self._line(generation)  # computed once for both uses, since the queue may be long
        body: dict[str, Any] = {"estimated_seconds": round(self._seconds(generation, line), 1)}
        if line is not None:
            body["place"] = line.place
        if generation.progress is not None:
            body["progress"] = generation.progress
        if generation.logs is not None:
            body["logs"] = generation.logs
        if generation.last is not None and generation.last.is_searched_for:
            body["creation_in_doubt"] = True
        return body

    def _seconds(self, generation: Generation, line: Line | None) -> float:
        model = generation.model
        gate = self._calls if self._calls is not None and isinstance(model, CallModel) else self._gate
        usual = gate.durations.usual(model.timed_as, model.usual_seconds)
        if isinstance(model, Trainer):  # which depends on the steps more than on how long others took
            usual = model.usual_run(generation.request.first.input)
        if line is not None:
            return usual + line.wait(usual)
        return seconds_left(usual, held=_running_for(generation.last) if generation.last else 0.0)

    def _line(self, generation: Generation) -> Line | None:
        """Its place in the queue; None if it is not queued."""
        if generation.state != "queued":
            return None
        ahead, at_once = self._supervisor.running.queue_position(generation), self._at_once(generation)
        creations = self._trainings if isinstance(generation.model, Trainer) else self._gate
        return line_of(generation, ahead, creations=creations, calls=self._calls, at_once=at_once)

    def _at_once(self, generation: Generation) -> int | None:
        """How many generations of its batch may run at once."""
        batch = self._supervisor.find(generation.batch_id or "")
        return batch.max_concurrent if isinstance(batch, Batch) else None

    def _batch(self, batch: Batch) -> dict[str, Any]:
        running = [each for each in batch.items if isinstance(each, Generation) and not each.has_ended]
        body = {
            **batch.summary(),
            **views.batch_status((each.state for each in batch.items), has_ended=batch.has_ended),
        }
        if not batch.has_ended:
            del body["success"], body["estimated_seconds"]
            body["cost_bound_usd"] = round(batch.expected_cost, 6)
        if running:
            queued = next((each for each in running if each.state == "queued"), None)
            body["estimated_seconds"] = round(
                max(self._seconds(each, self._line(each)) for each in (running[0], running[-1])), 1
            )
            if queued is not None and (line := self._line(queued)) is not None:
                body["place"] = line.place
        elif not batch.has_ended:
            since = [each.record().suspended_at for each in batch.items]
            if suspended := [each for each in since if each is not None]:
                body["waiting_for_owner_since"] = iso8601(min(suspended))
        return body


def _running_for(attempt: Attempt) -> float:
    """Seconds since it was submitted, or since its start if its model may have to boot."""
    if attempt.model.boots is None:
        return attempt.age
    return 0.0 if attempt.waited is None else max(0.0, attempt.age - attempt.waited)
