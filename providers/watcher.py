"""The watcher: one schedule for every prediction in flight, so that looking costs little and tells soon.

It learns how long each model takes. A model it knows is first looked at when a fifth of its predictions were
done, then every 4 % of its usual time; a model it does not know yet, or a prediction of twice the usual age,
is looked at again after another quarter of its age. So seconds and minutes both get few looks. The client's
own `wait` is never used: it has no deadline and takes any status but `starting` for finished.
"""

import asyncio
import heapq
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from auth import Caller
from errors import ServiceError
from providers import Prediction

REMEMBERED = 64
"""Durations kept a model: enough for a quantile, few enough to follow a model that changes."""

ENOUGH = 3
"""Durations from which a model counts as known."""

SHORTEST = 0.05
"""Seconds between two looks, at the least. An age a rounding short of the usual one is not looked at twice."""


class LookFailed(Exception):
    """This look told nothing; another may. `wait` is how long the upstream asked for, in seconds. So many
    failures in a row as `patience` says end the watch with `error`."""

    def __init__(self, error: ServiceError, *, wait: float = 0.0, patience: float = math.inf) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.patience = patience


class Durations:
    """How long a model's predictions take: the latest few, in order of age and of length."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self._by_length: list[float] = []

    def learn(self, seconds: float) -> None:
        if len(self._by_age) == REMEMBERED:
            oldest = self._by_age.popleft()
            del self._by_length[bisect_left(self._by_length, oldest)]
        self._by_age.append(seconds)
        insort(self._by_length, seconds)

    def next_look(self, age: float) -> float:
        """At what age, in seconds, to look again at a prediction of this age that is not over."""
        step = min(max(0.25 * age, 0.25), 5.0)
        if len(self._by_length) < ENOUGH:
            return age + step
        soon = self._by_length[len(self._by_length) // 5]
        if age + SHORTEST < soon:
            return soon
        usual = self._by_length[len(self._by_length) // 2]
        return age + (max(0.04 * usual, SHORTEST) if age < 2 * usual else step)


@dataclass(slots=True, eq=False)
class _Watch:
    caller: Caller
    id: str
    model: str
    since: float
    over: asyncio.Future[Prediction]
    failures: int = 0


class Watcher:
    """`finished` waits for one prediction; one timer and one heap serve all that wait.

    `look(caller, prediction_id)` asks the upstream once. It raises LookFailed for what may pass, and anything
    else ends the watch with that error.
    """

    def __init__(self, look: Callable[[Caller, str], Awaitable[Prediction]]) -> None:
        self._look = look
        self._durations: dict[str, Durations] = {}
        self._due: list[tuple[float, int, _Watch]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._looks: set[asyncio.Task[None]] = set()

    async def finished(self, caller: Caller, prediction: Prediction, *, model: str) -> Prediction:
        """Wait until the prediction is over and give back how it ended."""
        if prediction.is_over:
            return prediction
        loop = asyncio.get_running_loop()
        watch = _Watch(caller, prediction.id, model, loop.time(), loop.create_future())
        self._schedule(watch, watch.since + self._known(model).next_look(0.0))
        return await watch.over

    def _known(self, model: str) -> Durations:
        return self._durations.setdefault(model, Durations())

    def _schedule(self, watch: _Watch, when: float) -> None:
        heapq.heappush(self._due, (when, next(self._order), watch))
        self._arm()

    def _arm(self) -> None:
        if not self._due:
            return
        first = self._due[0][0]
        if self._timer is not None:
            if self._timer.when() <= first:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(first, self._begin_looks)

    def _begin_looks(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            watch = heapq.heappop(self._due)[2]
            if not watch.over.done():
                task = asyncio.create_task(self._look_once(watch))
                self._looks.add(task)
                task.add_done_callback(self._looks.discard)
        self._arm()

    async def _look_once(self, watch: _Watch) -> None:
        wait = 0.0
        try:
            prediction = await self._look(watch.caller, watch.id)
        except LookFailed as failed:
            watch.failures += 1
            wait = failed.wait
            if watch.failures >= failed.patience:
                self._end(watch, failed.error)
        except Exception as error:  # whatever it is, whoever waits must hear of it
            self._end(watch, error)
        else:
            watch.failures = 0
            if prediction.is_over:
                self._learn(watch, prediction)
                self._end(watch, prediction)
        if not watch.over.done():
            age = asyncio.get_running_loop().time() - watch.since
            next_age = self._known(watch.model).next_look(age)
            self._schedule(watch, watch.since + max(next_age, age + wait))

    def _end(self, watch: _Watch, end: Prediction | Exception) -> None:
        if watch.over.done():
            return
        if isinstance(end, Exception):
            watch.over.set_exception(end)
        else:
            watch.over.set_result(end)

    def _learn(self, watch: _Watch, prediction: Prediction) -> None:
        if prediction.status == "succeeded":
            age = asyncio.get_running_loop().time() - watch.since
            self._known(watch.model).learn(age if prediction.seconds is None else prediction.seconds)
