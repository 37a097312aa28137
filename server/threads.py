"""The threads that handle requests."""

import threading
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue


class Threads:
    """Up to `most` threads. Each is started when a call finds none idle, and ends with the process.

    Nothing here waits for a thread. An executor of `concurrent.futures` waits until each thread that it starts has
    run, and while others compute the accepting thread would do little else.
    """

    def __init__(self, most: int) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._left = most

    def run(self, call: Callable[[], object]) -> None:
        """Run `call`, which does not raise, on a thread: at once, or when one is idle. To be called by one thread."""
        self._calls.put(call)
        if self._left and not self._idle.acquire(blocking=False):
            with suppress(
                RuntimeError
            ):  # the system has no thread left, so one of those that are here must do
                start_new_thread(self._work, ())
                self._left -= 1

    def shutdown(self, *, wait: bool) -> None:
        """gunicorn calls this when it stops."""

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._idle.release()
