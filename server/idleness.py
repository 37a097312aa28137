"""Decides when a service has been idle for long enough to end (`IDLE_EXIT_SECONDS`). Pure: `now` is an argument."""


class Idleness:
    """The time since the last sign of use. It begins at `now`, in seconds of any clock."""

    def __init__(self, seconds: float, *, now: float) -> None:
        self.seconds = seconds
        self._requests = 0
        self._since = now

    def is_over(self, now: float, *, requests: int, is_busy: bool) -> bool:
        """Whether there was no sign of use for so many seconds. `requests` is their number so far, and `is_busy` says
        that one is open or that work is unfinished. Call it about once a second."""
        if is_busy or requests != self._requests:
            self._requests, self._since = requests, now
        return now - self._since >= self.seconds
