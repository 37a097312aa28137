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
    """Seconds to wait after `failed` failed attempts, at least one.

    The wait is `first` after one failure and doubles with each further one, at most 64 times and up to `longest`.
    Jitter then shortens it by a random share of up to `jitter`, from 0 to 1. `uniform(low, high)` returns a random
    number.
    """
    whole = min(first * 2.0 ** min(failed - 1, 64), longest)
    return uniform(whole * (1 - jitter), whole)
