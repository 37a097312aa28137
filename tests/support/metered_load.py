"""A load of metered calls in virtual time, and an upstream that counts what reaches it by windows of its own."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from metering.gate import MeteredGate
from tests.support.metered import heaviest, need
from tests.support.virtual_time import run

Prompts = Callable[[random.Random], int]
"""Draws the tokens of a prompt."""

_SHORT = 50
"""A prompt of at most one part in so many of the window of tokens is short."""


def mostly_short(large: float) -> Prompts:
    """From 20 to 20,000 tokens, of which this part is above 400."""
    return lambda chance: chance.randint(400, 20_000) if chance.random() < large else chance.randint(20, 400)


@dataclass(frozen=True)
class Arrival:
    """A call as the upstream sees it. `passed_by` is how many calls of the batch were admitted while it waited."""

    at: float
    tokens: int
    caller: str
    passed_by: int


@dataclass
class MeteredLoad:
    """One batch of ann's, and single short calls from time to time, each of another caller, and what came of them."""

    calls: int
    slots: int
    rpm: int
    tpm: int
    prompts: Prompts
    singles_every: float = 0.0
    seed: int = 1
    arrivals: list[Arrival] = field(default_factory=list)
    short_until: float = 0.0
    """When the last short call of the batch was admitted."""
    took: float = 0.0
    drawn: list[int] = field(default_factory=list)
    """The tokens of the batch."""

    def run(self) -> Self:
        run(self._run())
        self.arrivals.sort(key=lambda each: each.at)
        return self

    async def _run(self) -> None:
        self._chance = random.Random(self.seed)
        self._admitted = 0
        limits = MeteredLimits({"*": ModelLimits(self.rpm, self.tpm)}, 10**15)
        self._gate = MeteredGate(concurrent_limit=self.slots, limits=limits)
        self.drawn = [self.prompts(self._chance) for _ in range(self.calls)]
        singles = asyncio.create_task(self._singles())
        await asyncio.gather(*[self._call("ann", tokens, batch="one") for tokens in self.drawn])
        self.took = asyncio.get_running_loop().time()
        singles.cancel()

    async def _singles(self) -> None:
        calls: set[asyncio.Task[None]] = set()
        while self.singles_every:
            await asyncio.sleep(self._chance.expovariate(1 / self.singles_every))
            work = self._call(f"caller {len(calls)}", self._chance.randint(20, 200), batch=None)
            calls.add(asyncio.create_task(work))

    async def _call(self, caller: str, tokens: int, batch: str | None) -> None:
        loop, before = asyncio.get_running_loop(), self._admitted
        with await self._gate.acquire(self._demand(caller, tokens, batch)) as lease:
            passed_by = self._admitted - before
            self._admitted += caller == "ann"
            if caller == "ann" and tokens * _SHORT <= self.tpm:
                self.short_until = loop.time()
            lasts, way = self._chance.uniform(1.0, 3.0), self._chance.uniform(0.0, 0.1)
            lease.sent()
            await asyncio.sleep(way)
            self.arrivals.append(Arrival(loop.time(), tokens, caller, passed_by))
            head = self._chance.uniform(0.1, 0.7)
            await asyncio.sleep(head)
            lease.answered()
            lease.measured(tokens)
            await asyncio.sleep(lasts - way - head)
            lease.settled(1)

    def _demand(self, caller: str, tokens: int, batch: str | None) -> Demand:
        """With an upper bound of four times the tokens, unless that is above two per cent of the window: then the
        upstream has counted them."""
        bound = 4 * tokens if 4 * tokens * _SHORT <= self.tpm else tokens
        return need(caller, tokens=bound, micro_usd=1, batch=batch)

    def most_in_a_minute(self) -> tuple[int, int]:
        """The most calls, and the most tokens, that reached the upstream in any 60 seconds."""
        return (
            heaviest((each.at, 1) for each in self.arrivals),
            heaviest((each.at, each.tokens) for each in self.arrivals),
        )

    def use(self) -> Sequence[tuple[float, float]]:
        """The parts of the limits of requests and of tokens that were used in each whole minute in which short calls
        waited."""
        used = [(0, 0)] * int(self.short_until // 60)
        for each in self.arrivals:
            if each.at < 60.0 * len(used):
                calls, tokens = used[int(each.at // 60)]
                used[int(each.at // 60)] = calls + 1, tokens + each.tokens
        return [(calls / self.rpm, tokens / self.tpm) for calls, tokens in used]

    def most_that_passed_a_single(self) -> int:
        """The most calls of the batch that were admitted while a single call waited."""
        return max(each.passed_by for each in self.arrivals if each.caller != "ann")
