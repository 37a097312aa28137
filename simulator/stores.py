"""Keeps the latest predictions, or trainings, and moves each from its creation to its end.

Timers of the event loop start a prediction, end it, and cut it off at its deadline. The first timer to end it cancels
the others. A prediction that takes no time has no timers: the response to its creation already shows its end, as
Replicate's may.

A `Store` bounds the number of its predictions and the bytes of the requests that created them, so that a benchmark of a
week does not fill the memory.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from typing import Any, Generic, TypeVar

from simulator.counts import Tally
from simulator.directives import Plan
from simulator.predictions import TERMINAL, Creation, Prediction, WallClock
from simulator.windows import Clock

P = TypeVar("P", bound=Prediction)

_KEEP_BYTES = 256 * 2**20


class Store(Generic[P]):
    """The latest predictions of all accounts, oldest first.

    Args:
        make: The class of the predictions.
        keep: The number to keep. The oldest is dropped first.
        clock: Monotonic nanoseconds.
        tally: Counts them.
        on_event: Called at each event: start, output, logs and completed.
        skew: The seconds by which the clock of their dates is ahead.
    """

    def __init__(
        self,
        make: type[P],
        *,
        keep: int,
        clock: Clock,
        tally: Tally,
        on_event: Callable[[P, str], None],
        skew: float = 0.0,
    ) -> None:
        self._make = make
        self._keep = keep
        self._clock = clock
        self._wall_clock = WallClock(skew)
        self._tally = tally
        self._publish = on_event
        self._numbers = count(1)
        self._by_id: dict[str, P] = {}
        self._by_token: dict[str, dict[str, P]] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[P]:
        return iter(self._by_id.values())

    def __reversed__(self) -> Iterator[P]:
        return reversed(self._by_id.values())

    def create(self, creation: Creation, plan: Plan, *, seed: int) -> P:
        """Create a prediction and schedule it on the running loop."""
        prediction = self._make(next(self._numbers), creation, plan, seed=seed, wall_clock=self._wall_clock)
        self._by_id[prediction.id] = prediction
        self._by_token.setdefault(creation.token, {})[prediction.id] = prediction
        self._bytes += creation.size
        self._tally.count_creation()
        self._schedule(prediction)
        while len(self._by_id) > self._keep or self._bytes > _KEEP_BYTES:
            self._drop(next(iter(self._by_id.values())))
        return prediction

    def find(self, prediction_id: str, *, token: str | None = None) -> P | None:
        """The prediction with this id, or None. With a `token`, only a prediction of that account."""
        prediction = self._by_id.get(prediction_id)
        if prediction and token is not None and prediction.creation.token != token:
            return None
        return prediction

    def now(self) -> datetime:
        """The date on the clock that dates predictions."""
        return self._wall_clock.now()

    def loop_time(self, date: datetime) -> float:
        """The date of a prediction on the loop's clock."""
        return self._wall_clock.loop_time(date)

    def newest_first(self, token: str) -> Iterator[P]:
        """The predictions of one account, newest first."""
        return reversed(self._by_token.get(token, {}).values())

    def oldest_first(self, token: str) -> Iterator[P]:
        """The predictions of one account, oldest first."""
        return iter(self._by_token.get(token, {}).values())

    def cancel(self, prediction: P) -> None:
        """Cancel it, unless it has ended."""
        self._end(prediction, "canceled")

    def finish(self) -> None:
        """End all running predictions now, by their directives."""
        for prediction in list(self._by_id.values()):
            if not prediction.settled.is_set():
                self._finish(prediction)

    def close(self) -> None:
        """Drop all predictions and cancel their timers."""
        for prediction in list(self._by_id.values()):
            self._drop(prediction)

    def _schedule(self, prediction: P) -> None:
        later = asyncio.get_running_loop().call_later
        plan = prediction.plan
        if plan.total <= 0:  # the response to the creation shows its end
            self._finish(prediction)
            return
        longest = prediction.longest_seconds
        if plan.boot < plan.total:
            prediction.timers.append(later(plan.boot, self._start, prediction))
            self._schedule_stages(prediction)
        if math.isfinite(plan.total) and plan.total <= longest:
            prediction.timers.append(later(plan.total, self._finish, prediction))
        elif math.isfinite(longest):
            prediction.timers.append(later(longest, self._time_out, prediction))

    def _schedule_stages(self, prediction: P) -> None:
        plan = prediction.plan
        if not math.isfinite(plan.total):
            return
        later, stages = asyncio.get_running_loop().call_later, list(prediction.stages())
        for place, (event, output) in enumerate(stages, 1):
            moment = plan.boot + (plan.total - plan.boot) * place / (len(stages) + 1)
            prediction.timers.append(later(moment, self._advance, prediction, event, output))

    def _advance(self, prediction: P, event: str, output: Any) -> None:
        prediction.output = output
        self._publish(prediction, event)

    def _start(self, prediction: P) -> None:
        prediction.status = "processing"
        prediction.started_at = self._wall_clock.now()
        self._publish(prediction, "start")

    def _finish(self, prediction: P) -> None:
        plan = prediction.plan
        if prediction.started_at is None and plan.final_status != "aborted":
            self._start(prediction)
        prediction.error = plan.error
        prediction.output = prediction.make_output()
        if prediction.started_at is not None:
            self._publish(prediction, "logs")
        if prediction.output is not None:
            self._publish(prediction, "output")
        self._end(prediction, plan.final_status)

    def _time_out(self, prediction: P) -> None:
        self._end(prediction, "aborted" if prediction.started_at is None else "canceled")

    def _end(self, prediction: P, status: str) -> None:
        if prediction.settled.is_set():
            return
        self._settle(prediction, status)
        if status in TERMINAL:
            self._publish(prediction, "completed")

    def _settle(self, prediction: P, status: str) -> None:
        prediction.settle(status, self._clock())
        self._tally.count_end(status, billed_usd=prediction.billed_usd)

    def _drop(self, prediction: P) -> None:
        creation = prediction.creation
        if not prediction.settled.is_set():
            self._settle(prediction, "canceled")
        del self._by_id[prediction.id]
        siblings = self._by_token[creation.token]
        del siblings[prediction.id]
        if not siblings:
            del self._by_token[creation.token]
        self._bytes -= creation.size
