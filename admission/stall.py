"""The stall: an upstream that answers nothing gets no further creation until it answers again.

A stalled upstream accepts connections, answers nothing, and may execute the requests much later. A creation whose
answer was lost is *in doubt* until a search has found it or ruled it out. Requests are compared by the moment they were
*sent*, since an answer proves nothing about requests sent later. There are three states:

- **Stalled**: no request that was sent after a lost creation has been answered. No creation is admitted. The requests
  that search for lost creations are the probes. If nothing is in doubt any more, one creation is the probe.
- **Cautious**: such a request has been answered, but no such creation. One creation is pending at a time, so at most
  one more comes into doubt.
- **Open**: a creation that was sent after the lost ones has been answered. If only one of several pending creations is
  lost, this follows within a round trip.
"""

import math
from typing import Final

from admission.boots import Ticket

_EXPECTED: Final = (1.0, 60.0)
"""The shortest and longest expected duration of a stall, in seconds."""


class Stall:
    """Which creations are in doubt, and whether another may be admitted. Moments are seconds of one monotonic clock.

    `_lost` is when the latest lost creation was sent; None in the open state. `_answered` and `_created` are when the
    latest answered request and the latest answered creation were sent. `_pending` are creations without an answer."""

    def __init__(self) -> None:
        self.in_doubt: set[Ticket] = set()
        self._lost: float | None = None
        self._answered = -math.inf
        self._created = -math.inf
        self._pending: set[Ticket] = set()
        self._began = -math.inf
        self._until = -math.inf

    @property
    def is_on(self) -> bool:
        """Whether no request sent after a lost creation has been answered."""
        return self._lost is not None and self._lost >= self._answered

    def admits(self, now: float) -> float:
        """How many more creations may be admitted: 0, 1, or infinity."""
        if self._lost is None:
            return math.inf if now >= self._until else 0
        return 0 if self._pending or (self.is_on and self.in_doubt) else 1

    def next_chance(self) -> float:
        """If no creation may be admitted now: the moment from which time alone admits one. Infinity (never), except
        after `expect`."""
        return self._until if self._lost is None else math.inf

    def expected_until(self, now: float) -> float:
        """When the stall is expected to end; -infinity without one. It is expected to last as long again as it has
        lasted, within bounds."""
        least, most = _EXPECTED
        return now + min(max(now - self._began, least), most) if self.is_on else -math.inf

    def expect(self, until: float) -> None:
        """Admit nothing before this moment. For a simulation, which gets no answers."""
        self._until = until

    def admitted(self, ticket: Ticket) -> None:
        self._pending.add(ticket)

    def lost(self, ticket: Ticket, sent: float) -> None:
        """The answer to a creation is lost: it is in doubt until `gone`."""
        self.gone(ticket)
        self.in_doubt.add(ticket)
        if sent < self._created:
            return
        was_on = self.is_on
        self._lost = sent if self._lost is None else max(self._lost, sent)
        if self.is_on and not was_on:
            self._began = sent

    def answered(self, sent: float) -> bool:
        """A request that was sent at this moment was answered. Returns whether that ends the stall."""
        was_on = self.is_on
        self._answered = max(self._answered, sent)
        return was_on and not self.is_on

    def has_answered(self, sent: float) -> bool:
        """Whether a request that was sent after this moment has been answered."""
        return self._answered > sent

    def created(self, ticket: Ticket, sent: float) -> None:
        """A creation was answered."""
        self.gone(ticket)
        self.answered(sent)
        self._created = max(self._created, sent)
        if self._lost is not None and self._created > self._lost:
            self._lost = None

    def gone(self, ticket: Ticket) -> None:
        """This creation is no longer pending or in doubt."""
        self.in_doubt.discard(ticket)
        self._pending.discard(ticket)
