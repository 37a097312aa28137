"""An upstream without a network, on the virtual clock: predictions that end at their time, and a watcher.

- `get` and `get_page` answer after a round trip, with the state halfway through it. Both are recorded.
- `trouble` may make any poll fail or hang; `shows` returns the prediction that a page shows, true or not.
- `run` runs a scenario, and fails if the loop spins without letting time pass.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from admission.durations import Durations
from admission.sliding_window import WINDOW
from auth import Caller, credentials
from catalog.outputs import Url
from concurrency import Gate, Lease
from errors import UpstreamError
from providers import OnLook, Prediction
from providers.replicate.answers import Page
from providers.replicate.polling import PollFailed, WatcherStats
from providers.replicate.watcher import Watcher
from tests.support.virtual_time import VirtualLoop, now

MODEL = "someone/something"
OUTPUT = [Url("https://replicate.delivery/picture.png")]
HANGS: Final = "hangs"
LOOK_TIMEOUT = 10.0
"""Seconds after which a poll times out, as in `providers.replicate.provider`."""

_START = datetime(2026, 1, 1, tzinfo=UTC)
_PAGE = 100
_SPINS = 20_000
"""Turns of the loop at one instant. A thousand predictions that end together take a few thousand."""


def caller(name: str) -> Caller:
    return Caller("user", name, credentials(replicate=f"r8_{name}"))


@dataclass(frozen=True, slots=True)
class Poll:
    """One request. `id` is the prediction's id, or None for a page."""

    at: float
    caller: str
    id: str | None


@dataclass(slots=True)
class Made:
    """A prediction at the upstream. `starts_at` is None if it starts at once."""

    id: str
    created_at: datetime
    ends_at: float
    end: Prediction
    starts_at: float | None = None

    def shown_at(self, at: float) -> Prediction:
        if at >= self.ends_at:
            return self.end
        if self.starts_at is not None and at < self.starts_at:
            return Prediction(self.id, "starting", created_at=self.created_at)
        return Prediction(
            self.id, "processing", created_at=self.created_at, started_at=self.end.started_at, started=True
        )


Trouble = Callable[[Poll], Exception | Literal["hangs"] | None]
"""The result of a poll that is not answered: the exception to raise, or HANGS."""


class Upstream:
    """`round_trip` is in seconds; `per_minute` is the limit of the window of polls."""

    def __init__(self, *, round_trip: float = 0.0, per_minute: int = 3000) -> None:
        self.gate = Gate(concurrent_limit=200, requests_per_minute=per_minute)
        self.watcher = Watcher(
            places=self.gate, get=self._get, get_page=self._get_page, durations=Durations()
        )
        self.round_trip = round_trip
        self.made: dict[str, list[Made]] = {}
        """By account, in order of creation."""
        self.polls: list[Poll] = []
        self.trouble: Trouble = lambda poll: None
        self.shows: Callable[[Made], Prediction | None] = lambda made: made.shown_at(now())
        self._arrivals: list[float] = []
        self._made = timedelta()

    def make(
        self,
        seconds: float,
        prediction_id: str = "p",
        *,
        account: str = "ann",
        status: str = "succeeded",
        outputs: Any = OUTPUT,
        says_seconds: bool = True,
        boot: float = 0.0,
        says_start: bool = True,
    ) -> Made:
        """Make a prediction that is created now, and runs so many seconds after its boot."""
        # No two have the same millisecond, even if they are made at one instant.
        self._made += timedelta(milliseconds=1)
        created_at = _START + timedelta(seconds=now()) + self._made
        end = Prediction(
            prediction_id,
            status,
            outputs,
            created_at=created_at,
            seconds=boot + seconds if says_seconds else None,
            started_at=created_at + timedelta(seconds=boot) if boot and says_start else None,
        )
        starts_at = now() + boot if boot else None
        made = Made(prediction_id, created_at, now() + boot + seconds, end, starts_at)
        self.made.setdefault(account, []).append(made)
        return made

    async def watch(
        self,
        made: Made,
        *,
        account: str = "ann",
        model: str = MODEL,
        dated: bool = True,
        announced: bool = False,
        **looks: Any,
    ) -> float:
        """Wait for it. Returns the seconds from its end to the return of the wait."""
        created_at = made.created_at if dated else None
        prediction = Prediction(made.id, "starting", created_at=created_at, is_announced=announced)
        outcome = await self.watcher.wait(caller(account), prediction, model=model, **looks)
        assert made.end == outcome
        return now() - made.ends_at

    async def predict(
        self,
        seconds: float,
        prediction_id: str = "p",
        *,
        account: str = "ann",
        model: str = MODEL,
        dated: bool = True,
        start_by: float | None = None,
        on_look: OnLook | None = None,
        **end: Any,
    ) -> float:
        """Make a prediction and wait for it. Returns the seconds from its end to the return of the wait."""
        made = self.make(seconds, prediction_id, account=account, **end)
        looks: dict[str, Any] = {"start_by": start_by, "on_look": on_look}
        return await self.watch(made, account=account, model=model, dated=dated, **looks)

    async def predict_many(self, lengths: list[float], **which: Any) -> list[float]:
        """Make the predictions p0, p1, … at once and wait for them. Returns the seconds from each end to the
        return of its wait."""
        return await asyncio.gather(*(self.predict(each, f"p{n}", **which) for n, each in enumerate(lengths)))

    async def learn(self, *durations: float, model: str = MODEL) -> None:
        for n, seconds in enumerate(durations):
            await self.predict(seconds, f"lesson {n}", account=f"teacher at {now()}", model=model)
        self.polls.clear()

    def times(self, prediction_id: str | None) -> list[float]:
        """The times at which this prediction was polled by itself; for None, the times at which pages
        were."""
        return [poll.at for poll in self.polls if poll.id == prediction_id]

    @property
    def pages(self) -> int:
        return len(self.times(None))

    @property
    def gets(self) -> int:
        return len(self.polls) - self.pages

    def most_in_a_minute(self) -> int:
        """The most requests in any 60 seconds, by the times of arrival."""
        first = most = 0
        for last, at in enumerate(self._arrivals):
            while self._arrivals[first] <= at - WINDOW:
                first += 1
            most = max(most, last + 1 - first)
        return most

    def is_idle(self) -> bool:
        """Whether no wait and no poll is under way, and nothing is left of earlier waits."""
        at_rest = WatcherStats(accounts=0, polls=0, is_polling=False) == self.watcher.statistics()
        return at_rest and 0 == self.gate.statistics().current_concurrent == self.gate.statistics().waiting

    async def _get(self, who: Caller, prediction_id: str, lease: Lease) -> Prediction:
        await self._arrive(Poll(now(), who.id, prediction_id), lease)
        prediction = next(made for made in self.made[who.id] if made.id == prediction_id).shown_at(now())
        await asyncio.sleep(self.round_trip / 2)
        return prediction

    async def _get_page(self, who: Caller, before: datetime, lease: Lease) -> Page:
        await self._arrive(Poll(now(), who.id, None), lease)
        listed = sorted(
            (made for made in self.made[who.id] if made.created_at < before), key=lambda made: made.created_at
        )
        shown = listed[-_PAGE:]
        predictions = {made.id: prediction for made in shown if (prediction := self.shows(made)) is not None}
        await asyncio.sleep(self.round_trip / 2)
        return Page(predictions, shown[0].created_at if len(listed) > _PAGE else None)

    async def _arrive(self, poll: Poll, lease: Lease) -> None:
        lease.sent()
        self.polls.append(poll)
        await asyncio.sleep(self.round_trip / 2)
        self._arrivals.append(now())
        trouble = self.trouble(poll)
        if trouble == HANGS:
            await asyncio.sleep(LOOK_TIMEOUT - self.round_trip / 2)
            raise PollFailed(UpstreamError())
        if trouble is not None:
            await asyncio.sleep(self.round_trip / 2)
            raise trouble


class _Watched(VirtualLoop):
    """A loop that counts its turns at one instant, and raises if it spins."""

    _instant, _turns = -1.0, 0

    def _run_once(self) -> None:
        self._turns = self._turns + 1 if self.time() == self._instant else 0
        self._instant = self.time()
        if self._turns > _SPINS:
            raise AssertionError(f"the loop spins at {self._instant} s")
        super()._run_once()  # type: ignore[misc]


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario in virtual time. Exceptions outside of it fail it, too."""
    wrong: list[dict[str, Any]] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        return await scenario

    with asyncio.Runner(loop_factory=_Watched) as runner:
        result = runner.run(watched())
    assert [] == wrong
    return result
