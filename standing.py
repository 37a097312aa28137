"""How work stands: what is told of it before it has ended, with its place in line and how long it may still take.

Both are the gate's estimates: turns are equal from now on, and work takes as long as the latest of its model did.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from admission.forecast import seconds_left
from concurrency import Gate
from generation import Generations
from records import Batch, Generation
from telling import Recorded, State, View, dated


class Standing:
    """On the loop."""

    def __init__(self, *, generations: Generations, gate: Gate) -> None:
        self._generations = generations
        self._gate = gate

    def of(self, work: Generation | Batch | Recorded, view: View) -> dict[str, Any]:
        """What is told of it now; of a batch without its results, which may be many."""
        if isinstance(work, Batch):
            return self._of_batch(work)
        if isinstance(work, Generation) and not work.has_ended:
            return {**work.told(view), **self._outlook(work)}
        return work.result(view) if work.has_ended else work.told(view)

    def _outlook(self, generation: Generation) -> dict[str, Any]:
        told: dict[str, Any] = {"estimated_seconds": round(self._seconds(generation), 1)}
        if generation.state == "queued":
            told["place"] = self._place(generation)
        if generation.progress is not None:
            told["progress"] = generation.progress
        return told

    def _seconds(self, generation: Generation) -> float:
        model = generation.model
        usual = self._gate.durations.usual(model.name, model.usual_seconds)
        if generation.state == "queued":
            return usual + self._gate.wait(
                *self._line(generation), usual=usual, bound=self._bound(generation)
            )
        return seconds_left(usual, held=generation.last.age if generation.last else 0.0)

    def _place(self, generation: Generation) -> int:
        return self._gate.place(*self._line(generation))

    def _line(self, generation: Generation) -> tuple[str, str | None, int]:
        """Its caller, its batch, and how many of both are ahead of it."""
        return generation.caller.id, generation.batch, self._generations.behind(generation)

    def _bound(self, generation: Generation) -> int | None:
        """Of its batch: how many of that may be in flight at once."""
        batch = self._generations.find_batch(generation.batch) if generation.batch else None
        return batch.max_concurrent if batch else None

    def _of_batch(self, batch: Batch) -> dict[str, Any]:
        counts = Counter(each.state for each in batch.generations)
        alive = [each for each in batch.generations if isinstance(each, Generation) and not each.has_ended]
        told = {
            **batch.summary(),
            "status": _status(batch, counts),
            "counts": dict(counts),
        }
        if not batch.has_ended:
            del told["success"], told["estimated_seconds"]
        if alive:
            waiting = [each for each in alive if each.state == "queued"]
            told["estimated_seconds"] = round(max(self._seconds(each) for each in (alive[0], alive[-1])), 1)
            if waiting:
                told["place"] = self._place(waiting[0])
        elif not batch.has_ended and (since := _waits_since(batch)) is not None:
            told["waiting_for_owner_since"] = dated(since)
        return told


def ended_of(batch: Batch) -> list[int]:
    """Which of a batch have ended, in input order."""
    return [index for index, each in enumerate(batch.generations) if each.has_ended]


def _waits_since(batch: Batch) -> float | None:
    """Since when the first of it waits for its owner, if any does."""
    since = (each.waits_since for each in batch.generations if isinstance(each, Recorded))
    return min((each for each in since if each is not None), default=None)


def _status(batch: Batch, counts: Mapping[State, int]) -> str:
    if batch.has_ended:
        return "completed"
    return "queued" if counts.get("queued") == len(batch.generations) else "running"
