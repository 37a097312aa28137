"""Closings: the upstream refused a call for a limit, so no call that it would refuse as well is sent meanwhile.

Not the refused call waits, but all of its model or account. When the time is over, one ticket goes as a probe. If it is
accepted, everything is open again. If it is refused, its refusal closes again. If it ends otherwise, another is the
probe.
"""

import math
from dataclasses import dataclass

from admission.boots import Ticket


@dataclass(frozen=True, slots=True)
class Closed:
    """Until when, by the clock of the policy, and why. Afterwards it is closed but for the probe."""

    until: float
    why: str


class Closing:
    """Whether a model or an account is closed. `closed` says until when, None if it is open."""

    def __init__(self) -> None:
        self.closed: Closed | None = None
        self._probe: Ticket | None = None

    def close(self, until: float, why: str) -> None:
        """Close it, unless it is closed for longer."""
        if self.closed is None or self.closed.until < until:
            self.closed = Closed(until, why)
        self._probe = None

    def restore(self, closed: Closed | None, ahead: float) -> None:
        """Copy when another one is open again, by a clock that is so many seconds ahead of its own."""
        if closed is not None:
            self.close(closed.until + ahead, closed.why)

    def admits(self, now: float) -> bool:
        return self.closed is None or (now >= self.closed.until and self._probe is None)

    def admitted(self, ticket: Ticket) -> None:
        """A ticket goes. If this is closed, it is the probe."""
        if self.closed is not None:
            self._probe = ticket

    def proceed(self, ticket: Ticket) -> None:
        """The call of a ticket was accepted."""
        if self.closed is not None and self._probe == ticket:
            self.closed = self._probe = None

    def gone(self, ticket: Ticket) -> None:
        """A ticket has ended."""
        if self._probe == ticket:
            self._probe = None

    def next_chance(self, now: float) -> float:
        """If it admits none now: the moment from which time alone admits one; infinity: never."""
        return self.closed.until if self.closed is not None and now < self.closed.until else math.inf
