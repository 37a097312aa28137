"""The stall: an upstream that answers nothing gets no further creation until it answers again.

An upstream that stands still takes connections, answers nothing, and may serve the requests it took much later. A
creation whose answer was lost is *in doubt* until a search finds out whether it arrived. Three states follow from
which requests were answered, each compared by the moment it was *sent*, since an answer proves nothing about requests
sent after its own:

- **Stalled**: nothing that was sent after a lost creation has been answered. No creation goes. The requests that
  search for the lost ones are the probes. If nothing is in doubt any more, a creation is the probe.
- **Cautious**: such a request has been answered, but no such creation. One creation is on its way at a time, so at
  most one more comes to be in doubt.
- **Open**: a creation that was sent after the lost ones has been answered. In ordinary weather, where others are
  on their way when one is lost, this follows within a round trip.
"""

import math
from typing import Final

from admission.fair_queue import Ticket

_EXPECTED: Final = (1.0, 60.0)
"""Seconds, at the least and at the most, that a stall is expected to last."""


class Stall:
    """Which creations are in doubt, and whether another may go. Moments are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.in_doubt: set[Ticket] = set()
        self._lost: float | None = None
        """When the latest lost creation was sent; None while the state is open."""
        self._answered = -math.inf
        self._created = -math.inf
        """When the latest request, and the latest creation, was sent of those that were answered."""
        self._on_the_way: set[Ticket] = set()
        """The creations whose answer may yet come."""
        self._began = -math.inf
        self._until = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether nothing has been answered that was sent after a lost creation."""
        return self._lost is not None and self._lost >= self._answered

    def admits(self, now: float) -> float:
        """How many more creations may go: 0, 1, or infinitely many."""
        if self._lost is None:
            return math.inf if now >= self._until else 0
        return 0 if self._on_the_way or (self.is_on and self.in_doubt) else 1

    def next_chance(self) -> float:
        """When time alone lets a creation go, if none may go now: never, except in a copy."""
        return self._until if self._lost is None else math.inf

    def expected_until(self, now: float) -> float:
        """When creations are expected to go again, -infinity if they go. A stall is taken to last as long again as it
        has lasted, within bounds."""
        least, most = _EXPECTED
        return now + min(max(now - self._began, least), most) if self.is_on else -math.inf

    def expect(self, until: float) -> None:
        """Let nothing go before this moment, as a copy that learns nothing of the upstream."""
        self._until = until

    def admitted(self, ticket: Ticket) -> None:
        self._on_the_way.add(ticket)

    def lost(self, ticket: Ticket, sent: float) -> None:
        """The answer of a creation is lost: it is in doubt until `gone`."""
        self.gone(ticket)
        self.in_doubt.add(ticket)
        if sent < self._created:
            return
        was_on = self.is_on
        self._lost = sent if self._lost is None else max(self._lost, sent)
        if self.is_on and not was_on:
            self._began = sent

    def answered(self, sent: float) -> bool:
        """A request that was sent at this moment is answered. Returns whether that ends the stall."""
        was_on = self.is_on
        self._answered = max(self._answered, sent)
        return was_on and not self.is_on

    def created(self, ticket: Ticket, sent: float) -> None:
        """A creation is answered."""
        self.gone(ticket)
        self.answered(sent)
        self._created = max(self._created, sent)
        if self._lost is not None and self._created > self._lost:
            self._lost = None

    def gone(self, ticket: Ticket) -> None:
        """This creation is not on its way any more, or it is known whether it arrived."""
        self.in_doubt.discard(ticket)
        self._on_the_way.discard(ticket)
