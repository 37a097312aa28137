"""Whether Replicate answers, as every request of the service finds it."""

import time
from collections.abc import Callable

from providers import UpstreamState
from providers.replicate.errors import RATE_LIMIT_WAIT, seconds_to_wait
from providers.replicate.transport import Refusal


class Health:
    """The outcomes of all requests to the API, over all accounts. `clock` returns Unix time."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._answered_at: float | None = None
        self._failing_since: float | None = None
        self._throttled_until = 0.0

    @property
    def state(self) -> UpstreamState:
        is_throttled = self._throttled_until > self._clock()
        return UpstreamState(
            self._answered_at, self._failing_since, self._throttled_until if is_throttled else None
        )

    def answered(self) -> None:
        """A request succeeded."""
        self._answered_at, self._failing_since = self._clock(), None

    def refused(self, refusal: Refusal) -> None:
        """A request was refused. A refusal in Replicate's own words shows that Replicate works."""
        now = self._clock()
        self._answered_at = now
        if refusal.is_replicates and refusal.status < 500:
            self._failing_since = None
        else:
            self.failed()
        if refusal.status == 429:
            wait = seconds_to_wait(refusal)
            until = now + (RATE_LIMIT_WAIT if wait is None else wait)
            self._throttled_until = max(self._throttled_until, until)

    def failed(self) -> None:
        """A request was not answered, or by something other than Replicate at work."""
        if self._failing_since is None:
            self._failing_since = self._clock()
