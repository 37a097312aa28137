"""Admission of metered calls: which ticket is admitted next, when, and why.

A metered call is its own answer, and costs by its length. Its upstream limits, for each *account* that pays, the
requests and the tokens of prompts in a minute and the requests in a day of each model, and the money in ten minutes.
This service limits the calls that an account has in flight. One admission takes all of these together or none, so
waiting uses up nothing.

**A lane** is one model in one account. Its windows are exact (`windows`). Tokens and money are upper bounds when a
ticket is admitted, and are corrected in place when the answer says what they were. A place and its tokens are free 60
seconds after the head or the first byte of the answer, as in `admission.policy`: the upstream counted the call before.
Money is free ten minutes after the call has ended, and the place in a day at the day's end.

**Fairness.** In each account, callers take turns, and in each caller its flows do (`turns`). A turn is as long as the
largest share of a window that its ticket takes, so equal callers get equal shares of what is scarce, not equal numbers.

**Large tickets.** A ticket of more than two per cent of a window that does not fit lets others pass, but together at
most one whole window (`windows.Meter`). A strict order would leave the window idle until it fits, and no order would
starve it. If tokens are short, its lane waits; if money is, its account.

**Bounds** (`bounds`) of a batch, a caller, a semaphore, and of all unproven callers together: a flow without room there
leaves the turns. Unproven callers hold at most as many slots as one account has, however many accounts they invent.

**Closings** (`closing`). A refusal for a limit closes the lane or the account, not the refused call. One probe reopens
it. It may also show that a limit is lower than was configured, which holds until the restart.

**Lost answers.** If the answer to a call is lost, the call cannot be looked up, and it may arrive still. Its slot is
free at once. Its place, tokens and money count until a request that was sent later is answered, and then as long as if
the call had ended with that answer. If nothing else is answered, ten minutes stand for that: otherwise lost calls that
fill a window would close it for ever.

The policy is pure, as that of `admission.policy`: `now` is an argument, and a ticket is any hashable value.
"""

import math
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import NamedTuple

from admission.boots import Ticket
from admission.durations import Durations
from admission.flows import UNPROVEN
from admission.metered.accounts import MONEY_WINDOW, Account, Admission
from admission.metered.bounds import AtOnce, Bound, Own, Parked, Permits
from admission.metered.demand import Demand, TooLarge
from admission.metered.limits import MeteredLimits
from admission.metered.snapshot import MeteredSnapshot
from admission.metered.turns import Flow
from admission.own_limits import UNLIMITED, OwnLimits
from admission.semaphores import Semaphore, Semaphores
from admission.sliding_window import WINDOW


class MeteredStep(NamedTuple):
    """The tickets admitted now, in order; those that a lower limit made too large for ever, with the reason; and the
    next moment at which time alone may admit more (infinity: never)."""

    admitted: list[Ticket]
    refused: list[tuple[Ticket, TooLarge]]
    next_chance: float


class MeteredPolicy:
    """Slots, money, windows and turns of all accounts.

    Report each event by a method, then call `step`. `concurrent_limit` is how many slots each account has. `day_ends`
    returns when the day ends that contains a moment, by the clock of `now`. `semaphores` may be those of another policy
    as well: after a permit was freed, step both. `durations` records how long slots are held.
    """

    def __init__(
        self,
        *,
        concurrent_limit: int,
        limits: MeteredLimits,
        day_ends: Callable[[float], float],
        semaphores: Semaphores,
        durations: Durations,
    ) -> None:
        self.accounts: dict[str, Account] = {}
        self.limits = limits
        self.semaphores = semaphores
        self.durations = durations
        self._day_ends = day_ends
        self._flow_of: dict[Ticket, Flow] = {}
        self._in_flight: dict[Ticket, Admission] = {}
        self._own: dict[str, Own] = {}
        self._permits: dict[Semaphore, Permits] = {}
        self._unproven = AtOnce()
        self._parked = Parked()
        self._ready: dict[Account, None] = {}
        """The accounts in which something has changed, in the order in which they take turns."""
        self._wakes: list[tuple[float, int, Account]] = []
        self._serial = count()
        self._refused: list[tuple[Ticket, TooLarge]] = []
        self._tidy_at = 128
        self._set_slots(concurrent_limit)

    def check(self, demand: Demand) -> None:
        """Raises TooLarge if a ticket needs more than a whole window, so that it could never be admitted."""
        account = self.accounts.get(demand.account) or self._new_account(demand.account)
        account.check(demand)

    def enqueue(self, ticket: Ticket, demand: Demand) -> None:
        """Add a waiting ticket behind those of its flow. Raises TooLarge, as `check`."""
        account = self.account(demand.account)
        account.check(demand)
        flow = self._flow(account, demand)
        account.add(flow, ticket, demand)
        self._flow_of[ticket] = flow
        self._ready[account] = None

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a ticket that waits, or that was admitted and sent nothing. All that it took is free at once. An
        unknown ticket is ignored."""
        if (admission := self._in_flight.pop(ticket, None)) is not None:
            account = self._changed(admission)
            account.release(admission)
            admission.give_back()
        elif (flow := self._flow_of.pop(ticket, None)) is not None:
            account = self.accounts[flow.account]
            account.discard(flow, ticket)
            self._ready[account] = None

    def adopt(
        self,
        ticket: Ticket,
        demand: Demand,
        now: float,
        *,
        sent: float,
        is_counted: bool = False,
        is_in_day: bool = False,
    ) -> None:
        """Add a ticket that was admitted elsewhere and sent its call at this moment. It takes all that it needs, even
        if there is no room; but no place in the day if `count_day` has counted it, and only a slot and its bounds if
        all windows have."""
        account = self.account(demand.account)
        flow = self._flow(account, demand)
        for bound in flow.bounds:
            bound.waits(1)
            bound.take()
        admission = self._in_flight[ticket] = account.hold(ticket, flow, demand, now)
        admission.sent = sent
        if is_counted:
            admission.give_back()
        elif is_in_day:
            admission.day.give_back()

    def sent(self, ticket: Ticket, now: float) -> None:
        """The call of an admitted ticket is sent."""
        self._in_flight[ticket].sent = now

    def answered(self, ticket: Ticket, now: float) -> None:
        """The head or the first byte of an answer has come, be it an error. A second call has no effect."""
        admission = self._in_flight[ticket]
        if not admission.is_answered:
            admission.is_answered = True
            self._changed(admission).answered(admission, now)

    def measured(self, ticket: Ticket, tokens: int) -> None:
        """The prompt has this number of tokens."""
        admission = self._in_flight[ticket]
        admission.tokens.correct(tokens)
        self._changed(admission)

    def settled(self, ticket: Ticket, micro_usd: int, now: float) -> None:
        """The call has ended and costs this much, which counts for ten minutes."""
        admission = self._in_flight[ticket]
        admission.is_settled = True
        admission.money.correct(micro_usd)
        admission.ended(now)
        self._changed(admission)

    def lost(self, ticket: Ticket, now: float) -> None:
        """A call was sent, and it is not known whether it arrived. This frees its slot."""
        admission = self._in_flight.pop(ticket)
        account = self._changed(admission)
        account.release(admission)
        account.lost(admission, now)

    def release(self, ticket: Ticket, now: float) -> None:
        """An admitted ticket that sent its call has ended, and frees its slot. Without an answer, it counts as lost.
        What it reserved counts as its cost unless it is settled."""
        admission = self._in_flight[ticket]
        if not admission.is_answered:
            self.lost(ticket, now)
            return
        del self._in_flight[ticket]
        self._changed(admission).release(admission)
        if not admission.is_settled:
            admission.ended(now)
        self.durations.note_slot(now - admission.since)

    def upstream_answered(self, account: str, sent: float, now: float) -> None:
        """A request of an account that needs no admission, sent at this moment, was answered. So no call that was lost
        before will arrive."""
        if (found := self.accounts.get(account)) is not None:
            found.upstream_answered(sent, now)
            self._ready[found] = None

    def close(self, account: str, model: str | None, until: float, why: str) -> None:
        """The upstream refused a call for a limit of a model, or of the account if `model` is None. Nothing that it
        would refuse as well is admitted before this moment, and then one ticket until `proceed`."""
        found = self.account(account)
        (found if model is None else found.lane(model)).closing.close(until, why)
        self._ready[found] = None

    def proceed(self, ticket: Ticket) -> None:
        """The call of a ticket was accepted. If it was a probe, what was closed is open."""
        admission = self._in_flight[ticket]
        self._changed(admission).proceed(admission)

    def lower(self, account: str, model: str | None, limit: str, value: int) -> None:
        """A limit of a model in an account is lower than was configured: `rpm`, `tpm` or `rpd`. Or, if `model` is None,
        `usd_per_10_minutes`, in micro-dollars. It is never raised again. Raises ValueError."""
        found = self.account(account)
        found.lower(model, limit, value)
        self._refuse_too_large(found)

    def configure(self, *, concurrent_limit: int | None = None, limits: MeteredLimits | None = None) -> None:
        """Change the limits that are not None, or none if one is invalid (ValueError). Running calls continue."""
        self._set_slots(self.concurrent_limit if concurrent_limit is None else concurrent_limit)
        if limits is not None:
            self.limits = limits
            for account in self.accounts.values():
                account.set_limits(limits)
                self._refuse_too_large(account)
        self._ready.update(dict.fromkeys(self.accounts.values()))

    def limit_caller(
        self, caller: str, *, max_concurrent: int | None = None, per_minute: int | None = None
    ) -> None:
        """Change the own limits of a caller (None: it has none), or neither if one is invalid (ValueError)."""
        self._own_of(caller).set(OwnLimits(max_concurrent, per_minute))

    @property
    def own_limits(self) -> dict[str, OwnLimits]:
        """The own limits of the callers that have any."""
        return {caller: own.limits for caller, own in self._own.items() if own.limits != UNLIMITED}

    def pause(self, caller: str, until: float) -> None:
        """Admit nothing of this caller before a moment."""
        own = self._own_of(caller)
        own.paused_until = max(own.paused_until, until)

    def count(
        self,
        account: str,
        model: str,
        *,
        answered: float,
        ended: float,
        tokens: int,
        micro_usd: int,
        caller: str | None = None,
    ) -> None:
        """Count a call of an earlier process that was answered and ended at these moments, except in the day. It also
        counts in the own window of its `caller`."""
        found = self.account(account)
        lane = found.lane(model)
        lane.places.add(1, answered + WINDOW)
        lane.tokens.window.add(tokens, answered + WINDOW)
        found.money.window.add(micro_usd, ended + MONEY_WINDOW)
        if caller is not None and (own := self._own_of(caller)).limits.per_minute is not None:
            own.window.add(1, answered + WINDOW)

    def count_day(self, account: str, model: str, calls: int, now: float) -> None:
        """Count so many calls of earlier processes in the present day."""
        self.account(account).lane(model).day.add(calls, self._day_ends(now))

    def clear(self, caller: str | None = None, batch: str = "") -> list[Ticket]:
        """Remove all waiting tickets, or those of one batch of one caller. Returns them."""
        tickets = list(self._flow_of)
        if caller is not None:
            callers = [each.callers.get(caller) for each in self.accounts.values()]
            tickets = [ticket for each in callers if each is not None for ticket in each.tickets(batch)]
        for ticket in tickets:
            self.withdraw(ticket)
        return tickets

    def step(self, now: float) -> MeteredStep:
        """Admit every ticket that may go now."""
        admitted: list[Ticket] = []
        while self._wakes and self._wakes[0][0] <= now:
            account = heappop(self._wakes)[-1]
            account.wakes_at = math.inf
            self._ready[account] = None
        self._admit_ready(now, admitted)
        for name in self._parked.unpark(now):
            if (found := self.accounts.get(name)) is not None:
                self._ready[found] = None
                self._admit_ready(now, admitted)
        self._tidy(now)
        refused, self._refused = self._refused, []
        next_chance = min(self._wakes[0][0] if self._wakes else math.inf, self._parked.next_room(now))
        return MeteredStep(admitted, refused, next_chance)

    def snapshot(self, account: str, now: float) -> MeteredSnapshot:
        """The state of one account, from which a forecast starts."""
        found = self.accounts.get(account) or self._new_account(account)
        running = [each.demand for each in self._in_flight.values() if each.demand.account == account]
        waiting = found.waiting_flows()
        callers = {each.caller for each, _ in waiting} | {each.caller for each in running}
        return MeteredSnapshot(
            now=now,
            account=account,
            concurrent_limit=self.concurrent_limit,
            limits=found.limits,
            day_ends=self._day_ends(now),
            money=found.money.window.weights(now),
            lanes={model: lane.snapshot(now) for model, lane in found.lanes.items()},
            waiting=waiting,
            running=tuple(running),
            held=self.durations.slots(),
            closed=found.closing.closed,
            semaphores=tuple(each.snapshot() for each in self.semaphores),
            own_limits={each: own.limits for each, own in self._own.items() if each in callers},
        )

    def finds_permits(self, now: float) -> bool:
        """Whether a semaphore has a permit now for tickets that waited for one."""
        return self._parked.has_room(self._permits.values(), now)

    @property
    def in_flight(self) -> int:
        """How many slots are held in all accounts."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        return len(self._flow_of)

    def held_by(self, caller: str) -> int:
        """How many slots a caller holds in all accounts."""
        return self._own[caller].held if caller in self._own else 0

    def _admit_ready(self, now: float, admitted: list[Ticket]) -> None:
        """Admit what may go in the accounts that have changed. They take turns, since bounds may be common to them."""
        while self._ready:
            account = next(iter(self._ready))
            del self._ready[account]
            if account.in_flight >= self.concurrent_limit:
                continue
            if (admission := account.take(now, self._parked)) is not None:
                del self._flow_of[admission.ticket]
                self._in_flight[admission.ticket] = admission
                admitted.append(admission.ticket)
                self._ready[account] = None
            elif account.waiting and (wake := account.next_chance(now)) < account.wakes_at:
                account.wakes_at = wake
                heappush(self._wakes, (wake, next(self._serial), account))

    def _tidy(self, now: float) -> None:
        """Forget accounts and callers that are as new ones would be. Many callers have an account of their own."""
        if len(self.accounts) + len(self._own) < self._tidy_at:
            return
        self.accounts = {name: each for name, each in self.accounts.items() if not each.is_idle(now)}
        self._own = {name: each for name, each in self._own.items() if not each.is_idle(now)}
        self._permits = {each: self._permits[each] for each in self.semaphores if each in self._permits}
        self._tidy_at = 2 * (len(self.accounts) + len(self._own)) + 128

    def _set_slots(self, concurrent_limit: int) -> None:
        if concurrent_limit < 1:
            raise ValueError(f"concurrent_limit must be at least 1, got {concurrent_limit}")
        self.concurrent_limit = concurrent_limit
        self._unproven.limit = concurrent_limit

    def _changed(self, admission: Admission) -> Account:
        """The account of a ticket in flight, which is looked at in the next step."""
        account = self.accounts[admission.demand.account]
        self._ready[account] = None
        return account

    def _new_account(self, name: str) -> Account:
        return Account(name, self.limits, self._day_ends)

    def account(self, name: str) -> Account:
        """The account with this name, which is new if it is not known."""
        return self.accounts.get(name) or self.accounts.setdefault(name, self._new_account(name))

    def _flow(self, account: Account, demand: Demand) -> Flow:
        further: list[Bound] = [self._unproven] if demand.caller == UNPROVEN else []
        if (semaphore := self.semaphores.find(demand.semaphore)) is not None:
            further.append(self._permits.setdefault(semaphore, Permits(semaphore)))
        return account.flow(demand, self._own_of(demand.caller), tuple(further))

    def _own_of(self, caller: str) -> Own:
        return self._own.setdefault(caller, Own())

    def _refuse_too_large(self, account: Account) -> None:
        """Remove the waiting tickets of an account for which its lower limits have no room any more."""
        for ticket, flow in [each for each in self._flow_of.items() if each[1].account == account.name]:
            try:
                account.check(flow.waiting[ticket])
            except TooLarge as reason:
                self._refused.append((ticket, reason))
                self.withdraw(ticket)
        self._ready[account] = None
