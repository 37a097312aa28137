"""How a provider responds, from the outcomes of all requests to it, over all accounts."""

import time
from collections.abc import Callable

from providers import UpstreamState


class UpstreamHealth:
    """`clock` returns Unix time."""

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

    def answered_with_error(self, *, works: bool, throttled_for: float | None = None) -> None:
        """A request was refused. `works` is whether the refusal shows that the provider works, and `throttled_for` the
        wait in seconds that a rate limit requires."""
        self._answered_at = now = self._clock()
        if works:
            self._failing_since = None
        else:
            self.failed()
        if throttled_for is not None:
            self._throttled_until = max(self._throttled_until, now + throttled_for)

    def failed(self) -> None:
        """A request was not answered, or not by the provider itself."""
        if self._failing_since is None:
            self._failing_since = self._clock()
