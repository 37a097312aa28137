"""A secret that is replaced while the service runs. Its earlier values stay valid for a while."""

import time
from collections.abc import Callable, Sequence


class RotatingSecret:
    """A secret, and those that it replaced within the last `grace` seconds. `clock` is monotonic, in seconds. Any
    thread may call it: all that may be read is one immutable value."""

    __slots__ = ("_clock", "_state")

    def __init__(self, value: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state: tuple[str | None, tuple[tuple[str, float], ...]] = (value, ())
        """The secret, and earlier ones, the latest first, each with the time until which it holds."""

    def __repr__(self) -> str:
        return "RotatingSecret(…)"

    @property
    def value(self) -> str | None:
        """The secret; None if there is none."""
        return self._state[0]

    @property
    def valid(self) -> Sequence[str]:
        """All secrets that hold, the present one first."""
        value, earlier = self._state
        if not earlier:
            return () if value is None else (value,)
        now = self._clock()
        held = [each for each, until in earlier if now < until and each != value]
        return held if value is None else [value, *held]

    def replace(self, value: str, *, grace: float) -> None:
        """Replace the secret, which holds for `grace` seconds more. Call it in one thread."""
        old, earlier = self._state
        if value == old:
            return
        now = self._clock()
        left = tuple((each, until) for each, until in earlier if now < until and each not in {value, old})
        self._state = (value, left if old is None else ((old, now + grace), *left))
