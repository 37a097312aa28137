"""The result of a step, and the places that each admitted ticket has taken."""

from dataclasses import dataclass
from typing import NamedTuple

from admission.boots import Ticket
from admission.flows import Flow
from admission.sliding_window import SlidingWindow


@dataclass(slots=True, eq=False)
class Admission:
    """`sent` is when the creation was sent, or until then when it was admitted. `unanswered` are the windows in which
    its place has no answer yet, `pace` the seconds by which it delayed the next place of the reserve."""

    flow: Flow
    since: float
    sent: float
    unanswered: tuple[SlidingWindow, ...] = ()
    pace: float = 0.0

    def take(self, *windows: SlidingWindow) -> None:
        """Take a place of each of these windows, and of that of its caller, if it has one."""
        own = self.flow.owner.window
        self.unanswered = windows if own is None else (*windows, own)
        for window in self.unanswered:
            window.take()

    def give_back(self) -> None:
        """Free all its places at once, since its creation was not sent."""
        for window in self.unanswered:
            window.give_back()
        self.unanswered = ()

    def answered(self, at: float) -> None:
        """Free its places 60 seconds after this moment, unless it has an answer already."""
        for window in self.unanswered:
            window.answered(at)
        self.unanswered = ()


class Step(NamedTuple):
    """The tickets admitted now, in order, and the next moment at which time alone may admit more (infinity: never).
    `only_time`: until that moment, a slot that becomes free admits none of the waiting tickets."""

    admitted: list[Ticket]
    next_chance: float
    only_time: bool
