"""The state of a simulator: accounts, predictions, uploads, webhooks, faults and counts.

It belongs to one event loop and is used only there, so it needs no lock.
"""

import asyncio
import base64
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from simulator import directives, outputs, representations, webhooks
from simulator.accounts import Accounts
from simulator.counts import Counters
from simulator.directives import Plan
from simulator.faults import Faults
from simulator.gemini.service import Gemini
from simulator.options import Options
from simulator.predictions import Creation, Prediction, PredictionStore
from simulator.registry import Registry
from simulator.uploads import Uploads
from simulator.windows import Clock


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an account's predictions, newest first, and the cursors of its neighbours."""

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
        self.models = Registry(options)
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
        self.gemini = Gemini(options.gemini, clock=clock, seed=options.seed)
        self._stalled_until = -math.inf

    def stall(self, seconds: float) -> None:
        """Accept requests but serve them only after `seconds`, even if their callers have disconnected by then.

        Raises:
            ValueError: If `seconds` is not a number from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be between 0 and 3600, got {seconds}")
        self._stalled_until = max(self._stalled_until, asyncio.get_running_loop().time() + seconds)

    async def wait_for_stall_end(self) -> None:
        """Wait for the end of the current stall, if there is one."""
        clock = asyncio.get_running_loop().time
        while (left := self._stalled_until - clock()) > 0:  # noqa: ASYNC110 - another call may prolong it
            await asyncio.sleep(left)

    def reset(self) -> None:
        """Return to the state of the start. A current stall goes on to its end."""
        self.webhooks.cancel_all()
        self.predictions.close()
        self.uploads.clear()
        self.faults.clear()
        self.models.reset()
        self.accounts = Accounts(self.options)
        self.counters.reset()
        self.gemini.reset()
        self.chance.seed(self.options.seed)

    async def close(self) -> None:
        """Cancel all timers and webhooks."""
        self.predictions.close()
        await self.webhooks.close()

    def create(self, creation: Creation) -> Prediction:
        """Create a prediction: plan it and start it."""
        plan = self._plan(creation)
        seed = creation.input.get("seed")
        seed = seed if isinstance(seed, int) else self.chance.randrange(2**31)
        return self.predictions.create(creation, plan, seed=seed)

    async def travel(self) -> None:
        """The time that a message is under way: the network delay, and the rest of a stall."""
        delay = self.network_delay()
        if delay:
            await asyncio.sleep(delay)
        await self.wait_for_stall_end()

    def network_delay(self) -> float:
        """The seconds of network delay for the next message."""
        return self._draw(self.options.answer_delay)

    def list_lag(self) -> float:
        """The seconds by which the next list is behind."""
        return self._draw(self.options.list_lag)

    def _draw(self, bounds: tuple[float, float]) -> float:
        least, most = bounds
        return self.chance.uniform(least, most) if most else 0.0

    def _plan(self, creation: Creation) -> Plan:
        text, model = outputs.said(creation.schema, creation.input), creation.model
        found = directives.parse(text, model=model.name)
        account = self.accounts.get(creation.token)
        interrupted = "transient" in found and account.prompts.is_first(text)
        plan = directives.plan(found, usual=self._duration(creation), interrupted=interrupted)
        now = asyncio.get_running_loop().time()
        boot = self.models.boot(model, creation.version, creation.deployment, now=now)
        if boot:
            plan = replace(plan, boot=plan.boot + boot, total=plan.total + boot)
        error = self.uploads.failed_download(creation)
        if error is None or math.isinf(plan.boot):  # a prediction that never starts downloads nothing
            return plan
        return replace(plan, total=plan.boot, final_status="failed", error=error, outputs="none")

    def _duration(self, creation: Creation) -> float:
        usual = self.options.prediction_seconds
        usual = creation.model.facts.seconds if usual is None else usual
        jitter = self.options.jitter
        return usual * self.chance.uniform(1 - jitter, 1 + jitter)

    def _publish(self, prediction: Prediction, event: str) -> None:
        made = prediction.creation
        if made.webhook and event in made.webhook_events:
            self.webhooks.send(made.webhook, made.token, representations.prediction(prediction))


def page(book: PredictionStore, token: str, cursor: str | None, *, size: int, keep: Any) -> Page:
    """The page of `token`'s predictions at `cursor`, or the newest page without one.

    Only predictions for which `keep(prediction)` is true are on it. A cursor is a prediction's number, so creations
    between two pages neither repeat nor hide an entry.

    Raises:
        ValueError: If the cursor is invalid.
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
