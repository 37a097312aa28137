"""Estimates of metered admission: statistics, the position of a ticket among others, and its wait.

They assume that all waiting tickets of a flow weigh the same and as much as they reserve, and that slots are held for
as long as recently.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from admission.durations import Durations
from admission.flows import UNPROVEN, UNPROVEN_TURN
from admission.metered.accounts import MONEY_WINDOW, Account, Lane, Lowered
from admission.metered.closing import Closing
from admission.metered.demand import Demand
from admission.metered.policy import MeteredPolicy
from admission.metered.snapshot import (
    AccountStats,
    ClosedStats,
    LaneStats,
    MeteredSnapshot,
    MeteredStats,
    WindowStats,
)
from admission.metered.turns import Flow
from admission.metered.windows import WeightedWindow
from admission.sliding_window import WINDOW

_USUAL: Final = 1.0
"""Seconds for which a slot is taken to be held before any was released."""


@dataclass(frozen=True, slots=True)
class _Before:
    """Waiting tickets of one model that go before another ticket, and their weights together."""

    model: str
    count: int
    tokens: int
    micro_usd: int


class MeteredEstimates:
    """The estimates and figures of a policy, at the moments of a `clock`."""

    def __init__(self, policy: MeteredPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock

    @property
    def durations(self) -> Durations:
        """How long slots are held."""
        return self._policy.durations

    def statistics(self) -> MeteredStats:
        """The sums over all accounts."""
        policy = self._policy
        return MeteredStats(policy.concurrent_limit, policy.in_flight, policy.waiting, len(policy.accounts))

    def account_statistics(self, account: str) -> AccountStats:
        """One account, and its models that were used since the start."""
        now, limit, found = self._clock(), self._policy.concurrent_limit, self._policy.accounts.get(account)
        if found is None:
            return AccountStats(account, limit, 0, 0, WindowStats(0, self._policy.limits.micro_usd))
        lanes = [self._lane_statistics(model, lane, now) for model, lane in sorted(found.lanes.items())]
        return AccountStats(
            account,
            limit,
            found.in_flight,
            found.waiting,
            _window(found.money.window, now),
            tuple(lanes),
            _closed(found.closing, now),
        )

    def busiest(self, most: int) -> list[str]:
        """At most so many accounts, those with the most calls first."""
        accounts = sorted(self._policy.accounts.values(), key=lambda each: -each.waiting - each.in_flight)
        return [each.name for each in accounts[:most]]

    @property
    def lowered(self) -> list[Lowered]:
        """The limits that the upstream showed to be lower than was configured."""
        return [each for account in self._policy.accounts.values() for each in account.lowered]

    def snapshot(self, account: str) -> MeteredSnapshot:
        """The state of an account from which `forecast.plan` starts."""
        return self._policy.snapshot(account, self._clock())

    def queue_position(self, demand: Demand, ahead: int) -> int:
        """The position among all tickets of its account, from 1, of one with `ahead` tickets of its batch, or of its
        caller's single calls, before it. The ticket itself need not be in the queue yet."""
        return 1 + sum(each.count for each in self._before(demand, ahead))

    def estimated_wait(self, demand: Demand, ahead: int, *, usual: float) -> float:
        """Estimate the seconds until a ticket is admitted that has `ahead` tickets of its batch before it. `usual` is
        how long such a call takes, in seconds; before any slot was released, also how long one is held."""
        account = self._policy.accounts.get(demand.account)
        if account is None:
            return 0.0
        now, before = self._clock(), self._before(demand, ahead)
        beyond = sum(each.count for each in before) + 1 - self._policy.concurrent_limit + account.in_flight
        waits = [_closed_for(account.closing, now), max(0, beyond) * self._turnover(usual)]
        if demand.max_concurrent is not None:
            waits.append(max(0, ahead + 1 - demand.max_concurrent) * usual / demand.max_concurrent)
        money = demand.micro_usd + sum(each.micro_usd for each in before)
        waits.append(account.money.window.wait(money, now, MONEY_WINDOW))
        if (lane := account.lanes.get(demand.model)) is not None:
            same = [each for each in before if each.model == demand.model]
            waits.append(_closed_for(lane.closing, now))
            waits.append(lane.places.wait(1 + sum(each.count for each in same), now, WINDOW))
            tokens = demand.tokens + sum(each.tokens for each in same)
            waits.append(lane.tokens.window.wait(tokens, now, WINDOW))
            if lane.day.free(now) <= 0:
                waits.append(lane.day.next_expiry() - now)
        return max(each for each in waits if each < math.inf)

    def seconds_to_admit(self, caller: str, count: int) -> float:
        """Estimate the seconds until so many of the waiting tickets of a caller are admitted."""
        callers = [each.callers.get(caller) for each in self._policy.accounts.values()]
        flows = [flow for each in callers if each is not None for flow in each.flows]
        waits = [
            self.estimated_wait(flow.first[1], min(count, len(flow.waiting)) - 1, usual=_USUAL)
            for flow in flows
        ]
        return max(waits, default=0.0) if count > 0 else 0.0

    def _before(self, demand: Demand, ahead: int) -> list[_Before]:
        """The waiting tickets that go before one with `ahead` tickets of its batch before it, in its account: as many
        of each other flow of its caller, and of each other caller, as have the same length of turns."""
        account = self._policy.accounts.get(demand.account)
        if account is None:
            return []
        own = account.callers.get(demand.caller)
        before = [_Before(demand.model, ahead, ahead * demand.tokens, ahead * demand.micro_usd)]
        turns = (ahead + 1) * demand.share(account.limits_of(demand.model), self._policy.limits.micro_usd)
        others = [flow for flow in own.flows if flow.batch != demand.batch] if own is not None else []
        before += [_part_of(flow, turns / self._turns(account, [flow])) for flow in others]
        turns += sum(min(turns, self._turns(account, [flow])) for flow in others)
        if demand.caller == UNPROVEN:
            turns *= UNPROVEN_TURN
        for caller in account.callers.values():
            if caller is not own and (flows := caller.flows):
                part = turns / (self._turns(account, flows) * caller.turn_length)
                before += [_part_of(flow, part) for flow in flows]
        return before

    def _turns(self, account: Account, flows: list[Flow]) -> int:
        """How long the turns of all waiting tickets of these flows are together, at least."""
        most = self._policy.limits.micro_usd
        return sum(flow.mean.share(account.limits_of(flow.model), most) * len(flow.waiting) for flow in flows)

    def _turnover(self, usual: float) -> float:
        """Seconds from one release of a slot of an account to the next while all are held."""
        return self.durations.mean_slot(usual) / self._policy.concurrent_limit

    def _lane_statistics(self, model: str, lane: Lane, now: float) -> LaneStats:
        configured = self._policy.limits.of(model)
        return LaneStats(
            model,
            lane.in_flight,
            lane.waiting,
            requests_per_minute=_window(lane.places, now),
            tokens_per_minute=_window(lane.tokens.window, now),
            requests_per_day=_window(lane.day, now),
            closed=_closed(lane.closing, now),
            lowered=configured.differing(lane.limits),
        )


def _part_of(flow: Flow, part: float) -> _Before:
    """Those of a flow that are the first such part of it."""
    count = int(len(flow.waiting) * min(1.0, part))
    mean = flow.mean
    return _Before(flow.model, count, count * mean.tokens, count * mean.micro_usd)


def _window(window: WeightedWindow, now: float) -> WindowStats:
    return WindowStats(window.used(now), None if window.limit == math.inf else int(window.limit))


def _closed(closing: Closing, now: float) -> ClosedStats | None:
    closed = closing.closed
    return None if closed is None else ClosedStats(max(0.0, closed.until - now), closed.why)


def _closed_for(closing: Closing, now: float) -> float:
    return 0.0 if closing.closed is None else max(0.0, closing.closed.until - now)
