"""Accounts and their lanes: what the upstream limits for each account, and for each model in it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from operator import attrgetter
from typing import Final, TypeAlias

from admission.boots import Ticket
from admission.metered.bounds import Bound, Own, Parked
from admission.metered.closing import Closing
from admission.metered.demand import Demand
from admission.metered.limits import MONEY_LIMIT, MeteredLimits, ModelLimits
from admission.metered.snapshot import LaneSnapshot, MeteredSnapshot
from admission.metered.turns import Caller, Flow, Line, Seat, Turns
from admission.metered.windows import Entry, Meter, WeightedWindow
from admission.sliding_window import WINDOW

MONEY_WINDOW: Final = 600.0
"""Seconds for which money counts."""

Lowered: TypeAlias = tuple[str, str | None, str, int]
"""A lowered limit: the account, the model or None for the whole account, the name of the limit, and its value."""

LONGEST_LOST: Final = 600.0
"""Seconds after which a lost call has arrived or never will, even if the upstream answered nothing since."""


@dataclass(slots=True, eq=False)
class Admission:
    """An admitted ticket and its entries in the windows. `places` are free 60 seconds after the answer. `sent` is when
    the call was sent, or until then when it was admitted."""

    ticket: Ticket
    flow: Flow
    demand: Demand
    since: float
    places: tuple[Entry, ...]
    tokens: Entry
    day: Entry
    money: Entry
    sent: float
    is_answered: bool = False
    is_settled: bool = False

    def give_back(self) -> None:
        """Free everything at once, since nothing was sent."""
        for entry in (*self.places, self.tokens, self.day, self.money):
            entry.give_back()

    def answered(self, at: float, day_ends: float) -> None:
        """Its places and tokens are free 60 seconds after this moment, and its place in the day at the day's end."""
        for entry in (*self.places, self.tokens):
            entry.expire_at(at + WINDOW)
        self.day.expire_at(day_ends)

    def ended(self, at: float) -> None:
        """Its money is free ten minutes after this moment."""
        self.money.expire_at(at + MONEY_WINDOW)


class Lane:
    """One model in one account: its windows, and the lines of its small and its large tickets."""

    def __init__(self, limits: ModelLimits) -> None:
        self.places = WeightedWindow(0)
        self.tokens = Meter(WeightedWindow(0))
        self.day = WeightedWindow(0)
        self.closing = Closing()
        self.small: Line[Seat] = Line()
        self.large: Line[Seat] = Line()
        self.waiting = 0
        self.in_flight = 0
        self.set_limits(limits)

    def set_limits(self, limits: ModelLimits) -> None:
        self.limits = limits
        self.places.limit = limits.rpm
        self.tokens.window.limit = limits.tpm
        self.day.limit = math.inf if limits.rpd is None else limits.rpd

    def snapshot(self, now: float) -> LaneSnapshot:
        return LaneSnapshot(
            places=self.places.weights(now),
            tokens=self.tokens.window.weights(now),
            day=self.day.weights(now),
            closed=self.closing.closed,
        )

    def is_open(self, now: float) -> bool:
        """Whether a ticket may go that needs no tokens."""
        return not self.is_shut(now) and self.places.free(now) > 0

    def is_shut(self, now: float) -> bool:
        """Whether no ticket may go for long: it is closed, or the day is used up."""
        return not self.closing.admits(now) or self.day.free(now) <= 0

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts in it."""
        is_of_day = self.day.limit < math.inf and self.day.used(now) > 0
        return not (self.closing.closed or is_of_day or self.places.used(now))

    def next_chance(self, now: float) -> float:
        """When time alone may admit more; infinity: never."""
        if not self.closing.admits(now):
            return self.closing.next_chance(now)
        if self.day.free(now) <= 0:
            return self.day.next_expiry()
        if self.places.free(now) <= 0:
            return self.places.next_expiry()
        return self.tokens.next_chance()


class Account:
    """Who pays: its slots, its money and its lanes. `limits` are those of every account. `day_ends` returns the end of
    the day that contains a moment."""

    def __init__(self, name: str, limits: MeteredLimits, day_ends: Callable[[float], float]) -> None:
        self.name = name
        self.money = Meter(WeightedWindow(limits.micro_usd))
        self.closing = Closing()
        self.lanes: dict[str, Lane] = {}
        self.callers: dict[str, Caller] = {}
        self.waiting = 0
        self.in_flight = 0
        self.wakes_at = math.inf
        """When the policy looks at it again though nothing happens."""
        self._limits = limits
        self._lowered: dict[str, dict[str, int]] = {}
        self._lowered_money = math.inf
        self._tidy_at = 64
        self._day_ends = day_ends
        self._turns = Turns()
        self._lost: list[tuple[float, int, Admission]] = []
        self._serial = count()

    def set_limits(self, limits: MeteredLimits) -> None:
        """Change the limits, except those that were lowered."""
        self._limits = limits
        self.money.window.limit = min(limits.micro_usd, self._lowered_money)
        for model, lane in self.lanes.items():
            lane.set_limits(self.limits_of(model))

    def limits_of(self, model: str) -> ModelLimits:
        limits = self._limits.of(model)
        for name, value in self._lowered.get(model, {}).items():
            limits = limits.lowered(name, value)
        return limits

    def lower(self, model: str | None, name: str, value: int) -> None:
        """Lower a limit of a model, or the money of the account, in micro-dollars. A higher value changes nothing.
        Raises ValueError."""
        if model is None:
            if name != MONEY_LIMIT or value < 1:
                raise ValueError(f"{name} of an account cannot be lowered to {value}")
            self._lowered_money = min(self._lowered_money, value)
        else:
            self.limits_of(model).lowered(name, value)
            lowered = self._lowered.setdefault(model, {})
            lowered[name] = min(lowered.get(name, value), value)
        self.set_limits(self._limits)

    @property
    def lowered(self) -> list[Lowered]:
        """The limits that were lowered."""
        found: list[Lowered] = [
            (self.name, model, name, value)
            for model, limits in self._lowered.items()
            for name, value in limits.items()
        ]
        if self._lowered_money < math.inf:
            found.append((self.name, None, MONEY_LIMIT, int(self._lowered_money)))
        return found

    @property
    def limits(self) -> MeteredLimits:
        """Those in force, with the lowered ones."""
        models = {**self._limits.models, **{model: self.limits_of(model) for model in self._lowered}}
        return MeteredLimits(models, int(self.money.window.limit))

    def restore(self, seen: MeteredSnapshot, *, ahead: float = 0.0, answered: float = math.inf) -> None:
        """Copy the windows and the closings of a snapshot. The clock is so many seconds `ahead` of that of the
        snapshot. Calls without an answer are answered at the moment `answered`; infinity: they stay open."""
        _copy(seen.money, self.money.window, ahead, answered + MONEY_WINDOW)
        self.closing.restore(seen.closed, ahead)
        for model, copied in seen.lanes.items():
            lane = self.lane(model)
            _copy(copied.places, lane.places, ahead, answered + WINDOW)
            _copy(copied.tokens, lane.tokens.window, ahead, answered + WINDOW)
            _copy(copied.day, lane.day, ahead, answered + seen.day_ends - seen.now)
            lane.closing.restore(copied.closed, ahead)

    def waiting_flows(self) -> tuple[tuple[Demand, int], ...]:
        """The mean need of the tickets of each flow, in the order of their turns, and their number."""
        flows = sorted(
            (flow for each in self.callers.values() for flow in each.flows), key=attrgetter("order")
        )
        return tuple((flow.mean, len(flow.waiting)) for flow in flows)

    def check(self, demand: Demand) -> None:
        """Raises TooLarge if no whole window has room for such a ticket."""
        lane = self.lanes.get(demand.model)
        limits = self.limits_of(demand.model) if lane is None else lane.limits
        demand.check(limits, int(self.money.window.limit))

    def lane(self, model: str) -> Lane:
        found = self.lanes.get(model)
        if found is None:
            found = self.lanes[model] = Lane(self.limits_of(model))
        return found

    def flow(self, demand: Demand, own: Own, further: tuple[Bound, ...]) -> Flow:
        """The flow of such tickets, which need room of `further` bounds."""
        lane = self.lane(demand.model)
        line = lane.large if demand.is_large(lane.limits, int(self.money.window.limit)) else lane.small
        caller = self.callers.get(demand.caller)
        if caller is None or caller.own is not own:  # the policy has forgotten an idle one
            self._forget_callers()
            caller = self.callers[demand.caller] = Caller(demand.caller, self.name, self._turns, own)
        return caller.flow(demand, line, further)

    def add(self, flow: Flow, ticket: Ticket, demand: Demand) -> None:
        flow.add(ticket, demand)
        self._wait(flow, 1)

    def discard(self, flow: Flow, ticket: Ticket) -> None:
        """Remove a waiting ticket."""
        if flow.first[0] == ticket:
            self._forget_next(flow)
        flow.discard(ticket)
        self._wait(flow, -1)

    def take(self, now: float, parked: Parked) -> Admission | None:
        """Admit the next ticket, for which there must be a slot. None if none may go."""
        if not self.waiting or not self.closing.admits(now):
            return None
        for flow in self._candidates(now, parked):
            lane = self.lanes[flow.model]
            _, demand = flow.first
            if not lane.tokens.admits(flow, demand.tokens, now):
                continue
            if self.money.admits(flow, demand.micro_usd, now):
                return self._admit(flow, lane, now)
            lane.tokens.forget(flow)  # it waits for money, so its lane does not wait for it
        return None

    def hold(self, ticket: Ticket, flow: Flow, demand: Demand, now: float) -> Admission:
        """Take what a ticket needs, even if there is no room."""
        lane = self.lanes[flow.model]
        self.in_flight += 1
        lane.in_flight += 1
        flow.seat.caller.in_flight += 1
        return Admission(
            ticket,
            flow,
            demand,
            since=now,
            places=(lane.places.take(1), *flow.seat.caller.own.place()),
            tokens=lane.tokens.take(flow, demand.tokens),
            day=lane.day.take(1),
            money=self.money.take(flow, demand.micro_usd),
            sent=now,
        )

    def release(self, admission: Admission) -> None:
        """The ticket has ended: free its slot and its room of all bounds."""
        flow, lane = admission.flow, self.lanes[admission.flow.model]
        self.in_flight -= 1
        lane.in_flight -= 1
        flow.seat.caller.in_flight -= 1
        for bound in flow.bounds:
            bound.release()
        self.closing.gone(admission.ticket)
        lane.closing.gone(admission.ticket)

    def proceed(self, admission: Admission) -> None:
        """The call of a ticket was accepted. If it is the probe, what was closed is open."""
        self.closing.proceed(admission.ticket)
        self.lanes[admission.flow.model].closing.proceed(admission.ticket)

    def answered(self, admission: Admission, now: float) -> None:
        admission.answered(now, self._day_ends(now))
        self.upstream_answered(admission.sent, now)

    def lost(self, admission: Admission, now: float) -> None:
        """It is not known whether a call arrived, or may arrive still. It counts until a call that was sent later is
        answered, and then as if it had ended with that answer."""
        self._end_lost(admission, now + LONGEST_LOST)
        heappush(self._lost, (admission.sent, next(self._serial), admission))

    def upstream_answered(self, sent: float, now: float) -> None:
        """A request of this account that was sent at this moment was answered."""
        while self._lost and self._lost[0][0] < sent:
            self._end_lost(heappop(self._lost)[-1], now)

    def next_chance(self, now: float) -> float:
        """When time alone may admit more, if there is a slot; infinity: never."""
        if not self.closing.admits(now):
            return self.closing.next_chance(now)
        lanes = [each.next_chance(now) for each in self.lanes.values() if each.waiting]
        return min([self.money.next_chance(), *lanes])

    def is_idle(self, now: float) -> bool:
        """Whether it may be forgotten."""
        is_lowered = self._lowered or self._lowered_money < math.inf
        is_used = self.waiting or self.in_flight or is_lowered or self.closing.closed
        return not (is_used or self.money.window.used(now)) and all(
            each.is_idle(now) for each in self.lanes.values()
        )

    def _candidates(self, now: float, parked: Parked) -> list[Flow]:
        """The flows whose first tickets may be next: those for which a window waits, and then the first of each line,
        in the order of their turns."""
        preferred: dict[Flow, None] = {}
        flows: dict[Flow, None] = {}
        if (richest := self.money.next) is not None:
            lane = self.lanes[richest.model]
            if lane.is_shut(now) or self._is_parked(richest, now, parked):
                self.money.forget(richest)
            elif lane.is_open(now):
                preferred[richest] = None
        for lane in self.lanes.values():
            if not lane.waiting or not lane.is_open(now):
                continue
            if (heaviest := lane.tokens.next) is not None and not self._is_parked(heaviest, now, parked):
                preferred[heaviest] = None
            for line in (lane.small, lane.large):
                if (first := self._first(line, now, parked)) is not None:
                    flows[first] = None
        return list(dict.fromkeys([*preferred, *sorted(flows, key=attrgetter("order"))]))

    def _first(self, line: Line[Seat], now: float, parked: Parked) -> Flow | None:
        while (seat := line.first()) is not None:
            flow = seat.flows.first()
            if flow is not None and not self._is_parked(flow, now, parked):
                return flow
        return None

    def _is_parked(self, flow: Flow, now: float, parked: Parked) -> bool:
        """Park a flow if a bound has no room for it."""
        if not flow.is_parked and (bound := flow.closed(now)) is not None:
            parked.park(flow, bound)
            self._forget_next(flow)
        return flow.is_parked

    def _admit(self, flow: Flow, lane: Lane, now: float) -> Admission:
        ticket, demand = flow.take(flow.first[1].share(lane.limits, int(self.money.window.limit)))
        self._wait(flow, -1)
        self.closing.admitted(ticket)
        lane.closing.admitted(ticket)
        return self.hold(ticket, flow, demand, now)

    def _wait(self, flow: Flow, more: int) -> None:
        self.waiting += more
        self.lanes[flow.model].waiting += more
        if not self.waiting:
            self._turns.restart()

    def _forget_next(self, flow: Flow) -> None:
        self.money.forget(flow)
        self.lanes[flow.model].tokens.forget(flow)

    def _end_lost(self, admission: Admission, at: float) -> None:
        admission.answered(at, self._day_ends(at))
        admission.ended(at)

    def _forget_callers(self) -> None:
        if len(self.callers) >= self._tidy_at:
            self.callers = {name: each for name, each in self.callers.items() if not each.is_idle}
            self._tidy_at = 2 * len(self.callers) + 64


def _copy(weights: Mapping[float, int], window: WeightedWindow, ahead: float, open_until: float) -> None:
    """Add these weights to a window, by a clock that is so many seconds ahead. Open ones expire at `open_until`."""
    for moment, weight in weights.items():
        window.add(weight, moment + ahead if moment < math.inf else open_until)
