"""A prediction: what created it, its plan, its state, its output and its bill.

It is planned when it is created (`directives.plan`), and only its `stores.Store` moves it on. Trainings are predictions
too (`trainings`): of another output, another bill and without a limit of time.

A prediction whose output is there while its status is still `processing` counts as ended: nothing more will happen to
it, and Replicate documents it as done.
"""

import asyncio
import base64
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from simulator import billing, outputs
from simulator.directives import Plan
from simulator.model import Deployment, Model, Version
from simulator.schemas import Schema

TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
LONGEST_SECONDS = 30 * 60

_SETTLED = asyncio.Event()
_SETTLED.set()


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
    """A prediction. Only its `Store` changes its status."""

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
        self.billed_usd = self.charge()
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()
        self.settled.set()
        # A hundred thousand events would take 50 MB, so all ended predictions share one.
        self.settled = _SETTLED

    @property
    def longest_seconds(self) -> float:
        """The most seconds from creation to the end. Only a run is bounded, so a boot comes on top of it."""
        bound = LONGEST_SECONDS + (self.plan.boot if math.isfinite(self.plan.boot) else 0.0)
        return min(self.creation.cancel_after or math.inf, bound)

    def stages(self) -> Iterator[tuple[str, Any]]:
        """The evenly spread events of its run, each with the output until then, which grows if its model streams."""
        whole = self.make_output() if self.creation.schema.streams else None
        pieces: list[Any] = whole if isinstance(whole, list) else []
        for made in range(1, len(pieces)):
            yield "output", pieces[:made]

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

    def charge(self) -> float:
        """The USD that it costs if it ends now with its status."""
        made, end = self.creation, self._wall_clock.now()
        started = self.started_at
        run = billing.Run(
            model=made.model,
            version=made.release,
            deployment=made.deployment,
            inputs=made.input,
            status=self.status,
            output=self.output,
            pictures=self.pictures,
            boot=((started or end) - self.created_at).total_seconds(),
            ran=(end - started).total_seconds() if started else None,
        )
        return billing.charge(run)

    @property
    def ran(self) -> float | None:
        """The seconds from its start to its end, or until now. None if it has not started."""
        end = self.completed_at or self._wall_clock.now()
        return None if self.started_at is None else (end - self.started_at).total_seconds()

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


def timestamp(moment: datetime) -> str:
    """A date in Replicate's form: ISO 8601 with microseconds and a Z."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
