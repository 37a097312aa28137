"""Turns of callers, and of the flows of each caller, in one account: start-time fair queueing, as `admission.flows`.

Two things differ. A turn is as long as the share of a window that its ticket takes, so a caller of long prompts goes
less often. And the flows of an account wait in several lines, one for each model and size, since a line that is blocked
must not obstruct the others. A caller takes turns in all lines together: its tag changes whenever one of its tickets
goes. Its entries in the other lines are then too early, and are moved when they come first.
"""

from collections import OrderedDict
from dataclasses import replace
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, Protocol, TypeAlias, TypeVar

from admission.boots import Ticket
from admission.flows import UNPROVEN, UNPROVEN_TURN
from admission.metered.bounds import AtOnce, Bound, Own
from admission.metered.demand import Demand

Tag: TypeAlias = tuple[int, int]
"""When a turn starts, in millionths of a window, and the order among those that start together."""


class Turns:
    """The turns of a group. `now` is when the latest one started, and `end` when the last of all ends. Both count
    millionths of a window, not time. `order` numbers those that start together."""

    def __init__(self) -> None:
        self.now = 0
        self.end = 0
        self.order = count()

    def restart(self) -> None:
        """Nothing waits: the next turns start equal."""
        self.now = self.end


class Turn:
    """The next turn of one party among others. It starts at the end of its last turn, or now if that is later. So a
    party that was absent or blocked accumulates no turns."""

    def __init__(self, among: Turns) -> None:
        self._among = among
        self._end = 0
        self.tag: Tag = (0, 0)

    def begin(self) -> None:
        """Its first ticket begins to wait."""
        self.tag = (max(self._among.now, self._end), next(self._among.order))

    def use(self, length: int) -> None:
        """A ticket goes, whose turn is so long."""
        among = self._among
        among.now = max(among.now, self.tag[0])
        self._end = among.now + length
        among.end = max(among.end, self._end)
        self.begin()

    @property
    def is_over(self) -> bool:
        """Whether its last turn ended before the present one started, so it starts equal to a new one."""
        return self._end <= self._among.now


class Party(Protocol):
    """A caller or a flow in a `Line`. Its tag only grows while it is listed."""

    is_listed: bool

    @property
    def tag(self) -> Tag: ...

    @property
    def is_ready(self) -> bool:
        """Whether it has a ticket that may go, as far as it knows."""


P = TypeVar("P", bound=Party)


class Line(Generic[P]):
    """Parties by their tags. One that is not ready is dropped when it comes first, and added again when it is."""

    def __init__(self) -> None:
        self._heap: list[tuple[Tag, P]] = []

    def add(self, party: P) -> None:
        if not party.is_listed:
            party.is_listed = True
            heappush(self._heap, (party.tag, party))

    def first(self) -> P | None:
        """The ready party of the smallest tag."""
        while self._heap:
            tag, party = self._heap[0]
            if not party.is_ready:
                heappop(self._heap)
                party.is_listed = False
            elif tag != party.tag:
                heapreplace(self._heap, (party.tag, party))
            else:
                return party
        return None


class Flow:
    """Tickets that differ in nothing but their weights: of one batch, or single calls, to one model, all of them large
    or all small. First in, first out. It needs room of each of its `bounds`. `tokens` and `micro_usd` are sums over the
    waiting tickets."""

    def __init__(self, seat: "Seat", account: str, demand: Demand, bounds: tuple[Bound, ...]) -> None:
        self.account = account
        self.model = demand.model
        self.batch = demand.batch
        self.bounds = bounds
        self.waiting: OrderedDict[Ticket, Demand] = OrderedDict()
        self.tokens = self.micro_usd = 0
        self.is_parked = False
        self.is_listed = False
        self.seat = seat
        self._turn = Turn(seat.caller.turns)

    @property
    def tag(self) -> Tag:
        return self._turn.tag

    @property
    def is_ready(self) -> bool:
        return bool(self.waiting) and not self.is_parked

    @property
    def first(self) -> tuple[Ticket, Demand]:
        return next(iter(self.waiting.items()))

    @property
    def mean(self) -> Demand:
        """A ticket of the mean weight of those that wait."""
        waiting = len(self.waiting)
        return replace(self.first[1], tokens=self.tokens // waiting, micro_usd=self.micro_usd // waiting)

    @property
    def order(self) -> tuple[Tag, Tag]:
        """Its place among all flows of the account: that of its caller, and its own among those of the caller."""
        return self.seat.tag, self.tag

    def add(self, ticket: Ticket, demand: Demand) -> None:
        caller = self.seat.caller
        if not caller.waiting:
            caller.turn.begin()
        if not self.waiting:
            self._turn.begin()
        self.waiting[ticket] = demand
        self._weigh(demand, 1)
        caller.waiting += 1
        for bound in self.bounds:
            bound.waits(1)
        self.list()

    def list(self) -> None:
        """Take turns, unless it is parked."""
        if not self.is_parked:
            self.seat.flows.add(self)
            self.seat.line.add(self.seat)

    def unpark(self) -> None:
        self.is_parked = False
        self.list()

    def closed(self, now: float) -> Bound | None:
        """The bound that has no room for its first ticket; None if all have."""
        return next((each for each in self.bounds if each.room(now) <= 0), None)

    def discard(self, ticket: Ticket) -> None:
        """Remove a waiting ticket."""
        self._weigh(self.waiting.pop(ticket), -1)
        self.seat.caller.left()
        for bound in self.bounds:
            bound.waits(-1)

    def take(self, length: int) -> tuple[Ticket, Demand]:
        """Remove the first ticket. It uses a turn of this length, and room of the bounds."""
        taken = self.waiting.popitem(last=False)
        self._weigh(taken[1], -1)
        caller = self.seat.caller
        caller.turn.use(length * caller.turn_length)
        self._turn.use(length)
        caller.left()
        for bound in self.bounds:
            bound.take()
        return taken

    def _weigh(self, demand: Demand, times: int) -> None:
        self.tokens += times * demand.tokens
        self.micro_usd += times * demand.micro_usd


class Seat:
    """One caller in one line: those of its flows that are in it."""

    def __init__(self, caller: "Caller", line: "Line[Seat]") -> None:
        self.caller = caller
        self.line = line
        self.flows: Line[Flow] = Line()
        self.is_listed = False

    @property
    def tag(self) -> Tag:
        return self.caller.turn.tag

    @property
    def is_ready(self) -> bool:
        return self.flows.first() is not None


FlowKey: TypeAlias = tuple[str | None, Line[Seat], tuple[Bound, ...]]
"""The batch (None for single calls), the line, and the bounds that not all tickets of the caller have."""


class Caller:
    """A caller in one account. `turns` are those of its flows, and `own` are its limits over all accounts."""

    def __init__(self, name: str, account: str, among: Turns, own: Own) -> None:
        self.name = name
        self.turn = Turn(among)
        self.turn_length = UNPROVEN_TURN if name == UNPROVEN else 1
        self.turns = Turns()
        self.own = own
        self.waiting = 0
        self.in_flight = 0
        self._account = account
        self._seats: dict[Line[Seat], Seat] = {}
        self._flows: dict[FlowKey, Flow] = {}
        self._batches: dict[str, AtOnce] = {}

    def flow(self, demand: Demand, line: Line[Seat], further: tuple[Bound, ...]) -> Flow:
        """The flow of such tickets. It needs room of `further` bounds, too."""
        batch = self._bound_of_batch(demand)
        key = (demand.batch, line, further)
        found = self._flows.get(key)
        if found is None:
            self._flows = {each: flow for each, flow in self._flows.items() if flow.waiting}
            bounds = (self.own, *batch, *further)
            found = self._flows[key] = Flow(self._seat(line), self._account, demand, bounds)
        return found

    @property
    def is_idle(self) -> bool:
        """Whether it may be forgotten: it would be the same if it came anew."""
        return not self.waiting and not self.in_flight and self.turn.is_over

    def left(self) -> None:
        """One of its tickets waits no more."""
        self.waiting -= 1
        if not self.waiting:
            self.turns.restart()

    @property
    def flows(self) -> list[Flow]:
        """Those with waiting tickets."""
        return [flow for flow in self._flows.values() if flow.waiting]

    def tickets(self, batch: str) -> list[Ticket]:
        """The waiting tickets of a batch."""
        return [
            ticket for (name, _, _), flow in self._flows.items() if name == batch for ticket in flow.waiting
        ]

    def _seat(self, line: Line[Seat]) -> Seat:
        found = self._seats.get(line)
        if found is None:
            found = self._seats[line] = Seat(self, line)
        return found

    def _bound_of_batch(self, demand: Demand) -> tuple[Bound, ...]:
        """The bound of the batch, over all its flows."""
        if demand.batch is None:
            return ()
        found = self._batches.get(demand.batch)
        if found is None:
            # A batch never returns, so a new one is the moment to forget the finished ones.
            waiting = {batch for (batch, _, _), flow in self._flows.items() if flow.waiting}
            self._batches = {
                name: each for name, each in self._batches.items() if each.held or name in waiting
            }
            found = self._batches[demand.batch] = AtOnce()
        if demand.max_concurrent is not None:
            found.limit = demand.max_concurrent
        return (found,)
