"""How often one model is tried, and how long a generation waits before the next attempt."""

from dataclasses import dataclass
from typing import Final

from network.backoff import backoff
from providers import TryAgain

MAX_ATTEMPTS: Final = 4
MAX_COSTLY_ATTEMPTS: Final = 2
"""Predictions of one model that one generation gets if each costs more than `COSTLY`."""

COSTLY: Final = 1.0
"""USD."""

MAX_THROTTLED: Final = 20
"""Refusals for the account's rate after which one generation is retried; each retry waits as long as Replicate says."""

MAX_REFUSED: Final = 2
"""Attempts of one model that Replicate may refuse although it accepts the token."""

FIRST_BACKOFF: Final = 0.5
"""Longest backoff before the second attempt, in seconds, if Replicate states none. It doubles up to 32-fold."""


@dataclass(slots=True)
class Retries:
    """Counts the failed attempts of a model, and computes the backoff before the next one."""

    first_backoff: float
    failures: int = 0
    throttled: int = 0
    refused: int = 0

    def allow(self, again: TryAgain) -> bool:
        """Count this failed attempt. Returns whether the model may be tried again."""
        if again.held_back:  # this process is fenced, or will have the ledger again
            return True
        is_limited = again.throttled or again.gate_closed
        self.failures += not is_limited
        self.throttled += is_limited
        self.refused += again.refused
        if self.failures < MAX_ATTEMPTS and self.throttled < MAX_THROTTLED and self.refused < MAX_REFUSED:
            return True
        if again.unreachable:  # other models cannot be reached either
            again.error.falls_back = False
        return False

    def pause(self) -> float:
        """Seconds to wait: doubled with each attempt, with a jitter of up to half."""
        return backoff(
            self.failures + self.throttled, first=self.first_backoff, longest=32 * self.first_backoff
        )
