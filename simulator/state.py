"""Everything one simulated Replicate knows: who, what, when, and what has been ordered to go wrong.

All of it lives on one event loop and is only ever touched there, so nothing here needs a lock.
"""

import asyncio
import base64
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from simulator import directives, representations, webhooks
from simulator.accounts import Accounts, Clock
from simulator.counts import Counters
from simulator.directives import Plan
from simulator.faults import Faults
from simulator.options import Options
from simulator.predictions import Creation, Prediction, PredictionStore
from simulator.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of an account's predictions, newest first, and the cursors beside it."""

    predictions: list[Prediction]
    next: str | None
    previous: str | None


class SimulatorState:
    """The state of one simulator."""

    def __init__(self, options: Options, *, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.chance = random.Random(options.seed)  # noqa: S311 - durations, not secrets
        self.counters = Counters()
        self.accounts = Accounts(options)
        self.faults = Faults()
        self.uploads = Uploads(clock)
        self.webhooks = webhooks.Webhooks(retry_seconds=options.webhook_retry_seconds, counters=self.counters)
        self.predictions = PredictionStore(
            keep=options.keep,
            clock=clock,
            counters=self.counters,
            on_event=self._publish,
            skew=options.clock_skew,
        )

        self._stalled_until = -math.inf

    def stall(self, seconds: float) -> None:
        """Stand still: take requests in, and serve them after so many seconds, whether their senders wait or not.

        Raises:
            ValueError: If that is no number of seconds from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be between 0 and 3600, got {seconds}")
        self._stalled_until = max(self._stalled_until, asyncio.get_running_loop().time() + seconds)

    async def wait_for_stall_end(self) -> None:
        """Wait while it stands still."""
        clock = asyncio.get_running_loop().time
        while (left := self._stalled_until - clock()) > 0:  # noqa: ASYNC110 - it may be prolonged
            await asyncio.sleep(left)

    def reset(self) -> None:
        """Forget everything, as if just started. A stall that was begun ends at its time."""
        self.webhooks.abandon()
        self.predictions.close()
        self.uploads.clear()
        self.faults.clear()
        self.accounts = Accounts(self.options)
        self.counters.reset()
        self.chance.seed(self.options.seed)

    async def close(self) -> None:
        """Stop everything that runs by itself."""
        self.predictions.close()
        await self.webhooks.close()

    def create(self, creation: Creation) -> Prediction:
        """Accept a creation: plan its life and let it begin."""
        plan = self._plan(creation)
        seed = creation.input.get("seed")
        seed = seed if isinstance(seed, int) else self.chance.randrange(2**31)
        return self.predictions.create(creation, plan, seed=seed)

    def network_delay(self) -> float:
        """Seconds the next message spends on its way."""
        return self._drawn(self.options.answer_delay)

    def list_lag(self) -> float:
        """Seconds the next list is behind."""
        return self._drawn(self.options.list_lag)

    def _drawn(self, bounds: tuple[float, float]) -> float:
        least, most = bounds
        return self.chance.uniform(least, most) if most else 0.0

    def _plan(self, creation: Creation) -> Plan:
        prompt = creation.input.get("prompt")
        asked = directives.read(prompt, model=creation.model.name) if isinstance(prompt, str) else {}
        account = self.accounts.get(creation.token)
        interrupted = "transient" in asked and account.is_first_use(str(prompt))
        plan = directives.plan(asked, usual=self._duration(creation), interrupted=interrupted)
        error = self.uploads.failed_download(creation)
        if error is None or math.isinf(plan.boot):  # what never starts downloads nothing
            return plan
        return replace(plan, total=plan.boot, ending="failed", error=error, outputs="none")

    def _duration(self, creation: Creation) -> float:
        usual = self.options.prediction_seconds
        usual = creation.model.seconds if usual is None else usual
        jitter = self.options.jitter
        return usual * self.chance.uniform(1 - jitter, 1 + jitter)

    def _publish(self, prediction: Prediction, event: str) -> None:
        made = prediction.creation
        if made.webhook and event in made.webhook_events:
            self.webhooks.send(made.webhook, made.token, representations.prediction(prediction))


def page(book: PredictionStore, token: str, cursor: str | None, *, size: int, keep: Any) -> Page:
    """The page of `token`'s predictions that `cursor` points at, the newest without one.

    `keep(prediction)` says which predictions are of interest. Cursors name a place among all
    predictions, so creations in between neither repeat an entry nor hide one.

    Raises:
        ValueError: If the cursor is none of ours.
    """
    backwards, place = _placed(cursor)
    if backwards:
        near = (p for p in book.oldest_first(token) if p.number > place and keep(p))
    else:
        near = (p for p in book.newest_first(token) if p.number < place and keep(p))
    found = [p for p, _ in zip(near, range(size + 1), strict=False)]
    more, found = len(found) > size, found[:size]
    if backwards:
        found.reverse()
    older = bool(found) and (more or backwards)
    newer = bool(found) and (more if backwards else cursor is not None)
    return Page(
        found,
        next=_cursor(found[-1].number, backwards=False) if older else None,
        previous=_cursor(found[0].number, backwards=True) if newer else None,
    )


def _cursor(place: int, *, backwards: bool) -> str:
    return base64.urlsafe_b64encode(f"{'r' if backwards else 'p'}={place}".encode()).decode()


def _placed(cursor: str | None) -> tuple[bool, float]:
    if cursor is None:
        return False, float("inf")
    way, _, place = base64.urlsafe_b64decode(cursor).decode().partition("=")
    if way not in ("p", "r"):
        raise ValueError("not a cursor")
    return way == "r", int(place)
