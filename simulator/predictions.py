"""Predictions from creation to their end, which never changes again.

A prediction is planned when it is created (`directives.plan`). Timers of the event loop start it, end it, and cut it
off at its deadline. The first timer to end a prediction cancels the others. A prediction that takes no time has no
timers: the response to its creation already shows its end, as Replicate's may.

`PredictionStore` keeps the latest predictions. It bounds their number and the bytes of the requests that created them,
so that a benchmark of a week does not fill the memory.

A prediction whose output is there while its status is still `processing` counts as ended: nothing more will happen to
it, and Replicate documents it as done.
"""

import asyncio
import base64
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from simulator import billing, outputs
from simulator.counts import Counters
from simulator.directives import Plan
from simulator.model import Deployment, Model, Version
from simulator.schemas import Schema
from simulator.windows import Clock

TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
LONGEST_SECONDS = 30 * 60
_KEEP_BYTES = 256 * 2**20

_SETTLED = asyncio.Event()
_SETTLED.set()

EventListener = Callable[["Prediction", str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """The parsed request that created a prediction.

    `version` is the id of a version of `model`, or `hidden` for an official model. `size` is in bytes.
    """

    model: Model
    version: str
    token: str = field(repr=False)
    input: Mapping[str, Any]
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(repr=False)
    base_url: str
    cancel_after: float | None
    webhook: str | None
    webhook_events: frozenset[str]
    size: int
    deployment: Deployment | None = None

    @property
    def release(self) -> Version:
        """The version that runs."""
        found = self.model.find(self.version)
        if found is None:
            raise LookupError(f"{self.model.name} has no version {self.version}")
        return found

    @property
    def schema(self) -> Schema:
        """The schema of the version that runs."""
        return self.release.schema


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """A snapshot of a prediction, for tests.

    `cancel_after` is in seconds. `billed_usd` is its cost in USD, 0 until it has ended.
    """

    id: str
    model: str
    version: str
    deployment: str | None
    token: str = field(repr=False)
    input: Mapping[str, Any]
    status: str
    output: Any
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    webhook: str | None
    cancel_after: float | None
    headers: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any]
    billed_usd: float


class WallClock:
    """Dates derived from the event loop's clock, so that they agree with its timers, and `skew` seconds ahead."""

    def __init__(self, skew: float = 0.0) -> None:
        self._skew = timedelta(seconds=skew)
        self._epoch: datetime | None = None

    def now(self) -> datetime:
        elapsed = timedelta(seconds=asyncio.get_running_loop().time())
        if self._epoch is None:
            self._epoch = datetime.now(UTC) - elapsed + self._skew
        return self._epoch + elapsed

    def loop_time(self, date: datetime) -> float:
        """`date` on the loop's clock."""
        return asyncio.get_running_loop().time() + (date - self.now()).total_seconds()


class Prediction:
    """A prediction. Only its `PredictionStore` changes its status."""

    def __init__(
        self, number: int, creation: Creation, plan: Plan, *, seed: int, wall_clock: WallClock
    ) -> None:
        self.id = base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()
        self.number = number
        self.creation = creation
        self.plan = plan
        self.seed = seed
        self.status = "starting"
        self.output: Any = None
        self.error: str | None = None
        self.created_at = wall_clock.now()
        self.started_at: datetime | None = None
        self.completed_at: datetime | None = None
        self.settled = asyncio.Event()
        self.timers: list[asyncio.TimerHandle] = []
        self.settled_at: int | None = None
        self.billed_usd = 0.0
        self._wall_clock = wall_clock

    @property
    def age(self) -> float:
        """Seconds since its creation."""
        return (self._wall_clock.now() - self.created_at).total_seconds()

    @property
    def deadline(self) -> datetime | None:
        """The date by `Cancel-After` at which it is ended, if its creation had one."""
        after = self.creation.cancel_after
        return None if after is None else self.created_at + timedelta(seconds=after)

    @property
    def files(self) -> str:
        """The start of the addresses of its files. A number and an extension follow."""
        return f"{self.creation.base_url}/delivery/{self.id}/"

    @property
    def pictures(self) -> int:
        """The number of files in its output, unless they have no picture."""
        return 0 if self.plan.content else sum(1 for _ in outputs.links(self.output, self.files))

    def settle(self, status: str, now: int) -> None:
        """End it at `now`, in nanoseconds of the simulator's clock."""
        self.status = status
        self.settled_at = now
        if status in TERMINAL:
            self.completed_at = self._wall_clock.now()
        self.billed_usd = billing.charge(self._run(status))
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        self.settled.set()
        # A hundred thousand events would take 50 MB, so all ended predictions share one.
        self.settled = _SETTLED

    def make_output(self) -> Any:
        """The whole output that it puts out at its end, as planned."""
        made = self.creation
        return outputs.make(
            made.schema,
            made.input,
            self.plan,
            model=made.model.name,
            kind=made.model.kind,
            base=self.files,
        )

    def _run(self, status: str) -> billing.Run:
        made, end = self.creation, self._wall_clock.now()
        started = self.started_at
        return billing.Run(
            model=made.model,
            version=made.release,
            deployment=made.deployment,
            inputs=made.input,
            status=status,
            output=self.output,
            pictures=self.pictures,
            boot=((started or end) - self.created_at).total_seconds(),
            ran=(end - started).total_seconds() if started else None,
        )

    def record(self) -> PredictionRecord:
        """A snapshot of it."""
        made = self.creation
        return PredictionRecord(
            id=self.id,
            model=made.model.name,
            version=made.version,
            deployment=made.deployment.name if made.deployment else None,
            token=made.token,
            input=made.input,
            status=self.status,
            output=self.output,
            error=self.error,
            created_at=self.created_at,
            started_at=self.started_at,
            completed_at=self.completed_at,
            webhook=made.webhook,
            cancel_after=made.cancel_after,
            headers=made.headers,
            body=made.body,
            billed_usd=self.billed_usd,
        )


class PredictionStore:
    """The latest predictions of all accounts, oldest first."""

    def __init__(
        self, *, keep: int, clock: Clock, counters: Counters, on_event: EventListener, skew: float = 0.0
    ) -> None:
        self._keep = keep
        self._clock = clock
        self._wall_clock = WallClock(skew)
        self._counters = counters
        self._publish = on_event
        self._numbers = count(1)
        self._by_id: dict[str, Prediction] = {}
        self._by_token: dict[str, dict[str, Prediction]] = {}
        self._bytes = 0

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._by_id.values())

    def __reversed__(self) -> Iterator[Prediction]:
        return reversed(self._by_id.values())

    def create(self, creation: Creation, plan: Plan, *, seed: int) -> Prediction:
        """Create a prediction and schedule it on the running loop."""
        prediction = Prediction(next(self._numbers), creation, plan, seed=seed, wall_clock=self._wall_clock)
        self._by_id[prediction.id] = prediction
        self._by_token.setdefault(creation.token, {})[prediction.id] = prediction
        self._bytes += creation.size
        self._counters.count_creation()
        self._schedule(prediction)
        while len(self._by_id) > self._keep or self._bytes > _KEEP_BYTES:
            self._drop(next(iter(self._by_id.values())))
        return prediction

    def find(self, prediction_id: str, *, token: str | None = None) -> Prediction | None:
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

    def newest_first(self, token: str) -> Iterator[Prediction]:
        """The predictions of one account, newest first."""
        return reversed(self._by_token.get(token, {}).values())

    def oldest_first(self, token: str) -> Iterator[Prediction]:
        """The predictions of one account, oldest first."""
        return iter(self._by_token.get(token, {}).values())

    def cancel(self, prediction: Prediction) -> None:
        """Cancel it, unless it has ended."""
        self._end(prediction, "canceled")

    def finish(self) -> None:
        """End all running predictions now, as their directives say."""
        for prediction in list(self._by_id.values()):
            if not prediction.settled.is_set():
                self._finish(prediction)

    def close(self) -> None:
        """Drop all predictions and cancel their timers."""
        for prediction in list(self._by_id.values()):
            self._drop(prediction)

    def _schedule(self, prediction: Prediction) -> None:
        later = asyncio.get_running_loop().call_later
        plan = prediction.plan
        if plan.total <= 0:  # the response to the creation shows its end
            self._finish(prediction)
            return
        longest = min(prediction.creation.cancel_after or math.inf, _longest(plan))
        if plan.boot < plan.total:
            prediction.timers.append(later(plan.boot, self._start, prediction))
            self._schedule_pieces(prediction)
        if plan.total <= longest:
            prediction.timers.append(later(plan.total, self._finish, prediction))
        else:
            prediction.timers.append(later(longest, self._time_out, prediction))

    def _schedule_pieces(self, prediction: Prediction) -> None:
        """Let the output grow while it runs, if its model streams."""
        plan = prediction.plan
        if not prediction.creation.schema.streams or not math.isfinite(plan.total):
            return
        whole = prediction.make_output()
        later = asyncio.get_running_loop().call_later
        for made in range(1, len(whole) if isinstance(whole, list) else 0):
            moment = plan.boot + (plan.total - plan.boot) * made / len(whole)
            prediction.timers.append(later(moment, self._grow, prediction, whole[:made]))

    def _grow(self, prediction: Prediction, output: list[Any]) -> None:
        prediction.output = output
        self._publish(prediction, "output")

    def _start(self, prediction: Prediction) -> None:
        prediction.status = "processing"
        prediction.started_at = self._wall_clock.now()
        self._publish(prediction, "start")

    def _finish(self, prediction: Prediction) -> None:
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

    def _time_out(self, prediction: Prediction) -> None:
        self._end(prediction, "aborted" if prediction.started_at is None else "canceled")

    def _end(self, prediction: Prediction, status: str) -> None:
        if prediction.settled.is_set():
            return
        self._settle(prediction, status)
        if status in TERMINAL:
            self._publish(prediction, "completed")

    def _settle(self, prediction: Prediction, status: str) -> None:
        prediction.settle(status, self._clock())
        self._counters.count_end(status, billed_usd=prediction.billed_usd)

    def _drop(self, prediction: Prediction) -> None:
        creation = prediction.creation
        if not prediction.settled.is_set():
            self._settle(prediction, "canceled")
        del self._by_id[prediction.id]
        siblings = self._by_token[creation.token]
        del siblings[prediction.id]
        if not siblings:
            del self._by_token[creation.token]
        self._bytes -= creation.size


def timestamp(moment: datetime) -> str:
    """A date in Replicate's form: ISO 8601 with microseconds and a Z."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _longest(plan: Plan) -> float:
    """The most seconds from creation to the end. Only a run is bounded, so a boot comes on top of it."""
    return LONGEST_SECONDS + (plan.boot if math.isfinite(plan.boot) else 0.0)
