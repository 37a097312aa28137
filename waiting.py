"""How many callers may do the same thing at once.

Threads are finite. A caller who waits for a result takes a seat before the body is even read, and there are fewer seats
than threads, so `/health`, `/status` and `/configure` always have some. Callers who trickle their headers hold threads
nonetheless: a proxy in front protects from those.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from errors import QueueFull


class Seats:
    """So many callers may do something at once. A seat may be left in another thread than it was taken in.

    `taken_by` says what those who have one do, as in "callers are waiting for a result".
    """

    def __init__(self, seats: int, *, taken_by: str) -> None:
        self._seats = seats
        self._taken_by = taken_by
        self._free = threading.Semaphore(seats)

    def take(self, *, retry_after: Callable[[], float]) -> None:
        """Take a seat. Raises QueueFull, with the seconds until one is likely free."""
        if not self._free.acquire(blocking=False):
            raise QueueFull(
                f"{self._seats} {self._taken_by}, and no more may.",
                retry_after=retry_after(),
            )

    def leave(self) -> None:
        self._free.release()

    @contextmanager
    def taken(self, *, retry_after: Callable[[], float]) -> Iterator[None]:
        self.take(retry_after=retry_after)
        try:
            yield
        finally:
            self.leave()
