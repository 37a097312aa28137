"""Exponential backoff with a cap and jitter: how long to wait before the next attempt."""

import math
import random
from collections.abc import Callable


def backoff(
    failed: int,
    *,
    first: float,
    longest: float = math.inf,
    jitter: float = 0.5,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float:
    """Seconds to wait after `failed` failed attempts, of which there is at least one.

    The wait is `first` after one failure and doubles with each further one, up to `longest` and at most 64 times. Then
    up to the share `jitter` of it, from 0 to 1, is taken off by chance. `uniform(low, high)` returns a number between
    two.
    """
    whole = min(first * 2.0 ** min(failed - 1, 64), longest)
    return uniform(whole * (1 - jitter), whole)
