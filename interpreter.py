"""How often Python's threads hand the interpreter to each other.

A thread keeps the interpreter until it waits for something, or until another thread has waited for it for the switch
interval. A hand-over wakes a thread, often on another core, and costs about as much as the short pieces of work that a
request consists of. With an interval of half a millisecond, a request takes a seventh more processor time than with
Python's own 5 ms. But beside a computation that waits for nothing, another thread gets the interpreter only once an
interval, and a health check needs it about ten times. So the interval is short only while such a computation runs.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SHORT: Final = 0.0005
"""Seconds of the switch interval while something computes."""

USUAL: Final = sys.getswitchinterval()

_lock = threading.Lock()
_computations = 0


@contextmanager
def computing() -> Iterator[None]:
    """The block is a computation that may take some milliseconds or more without waiting. Safe in any thread."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _computations
    with _lock:
        _computations += change
        sys.setswitchinterval(SHORT if _computations else USUAL)
