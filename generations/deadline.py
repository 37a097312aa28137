"""The deadline of a prediction: it must start within one time, and then end within another.

A version that may have to boot waits for minutes in `starting`. Nothing runs meanwhile, and nothing is billed. So the
timeout of a request counts from the start. The wait for the start has a bound of its own, which also counts the time
in which a prediction of an official model waits at the provider.

The provider has one deadline for both, from the creation on (`Bounds.cancel_after`). It applies if this service cannot
cancel.
"""

import math
from dataclasses import dataclass
from typing import Final

from errors import GenerationTimeout
from providers import Prediction

_MARGIN: Final = 10.0
"""Seconds from our deadline to the deadline at the provider."""

_LAST_LOOK: Final = 10.0
"""Seconds to watch a prediction that was found after its deadline."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds until a prediction must have `start`ed, and that it may `run` then."""

    start: float
    run: float

    @property
    def cancel_after(self) -> float:
        """Seconds after its creation at which the provider cancels it."""
        return self.start + self.run + _MARGIN

    def are_over(self, ended: Prediction, age: float) -> bool:
        """Whether a prediction that was cancelled at most at this age (seconds) may have run out of time."""
        if ended.started:
            return age - (ended.waited or 0.0) >= self.run
        return age >= min(self.start, self.run)


class Deadline:
    """When to cancel one prediction, by what its looks show. Moments are of one clock, in seconds.

    It was created at `created`, and may have to boot if it `boots`. One that does not is only looked at for its end,
    so that it counts as running from its creation, or from the last look that saw it waiting. If its watch begins
    late, at `found`, it is watched for some seconds in any case: it may be over."""

    def __init__(self, bounds: Bounds, *, created: float, boots: bool, found: float = -math.inf) -> None:
        self._bounds = bounds
        self.created = created
        self._idle_until = created + (bounds.start if boots else 0.0)
        self._no_sooner = found + _LAST_LOOK
        self._late_at: float | None = None
        """When it was seen waiting although it must have started."""
        self.started: float | None = None
        """When it began to run."""

    @property
    def at(self) -> float:
        """The moment at which it is cancelled, unless a look says more."""
        if self._late_at is not None:
            return self._late_at
        began = self._idle_until if self.started is None else self.started
        return max(began + self._bounds.run, self._no_sooner)

    def look(self, ran: float | None, now: float) -> None:
        """It is unfinished, and has run for so many seconds, or has not started if `ran` is None."""
        if self.started is not None:
            return
        if ran is not None:
            self.started, self._late_at = now - ran, None
            return
        self._idle_until = max(self._idle_until, now)
        if self._late_at is None and now >= self.created + self._bounds.start:
            self._late_at = now

    def error(self) -> GenerationTimeout:
        """The reason for its cancellation."""
        if self._late_at is not None:
            return GenerationTimeout(
                f"The model did not start within {self._bounds.start:g} s, so the prediction was cancelled."
            )
        return GenerationTimeout(f"The prediction was cancelled after {self._bounds.run:g} s.")
