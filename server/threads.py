"""The threads that handle requests."""

import threading
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue


class Threads:
    """Up to `most` threads. A thread starts when a call finds none idle, and ends with the process.

    `run` never waits for a thread. An executor of `concurrent.futures` waits until each new thread has started, which
    would slow the accepting thread down while others use the processor.
    """

    def __init__(self, most: int) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.idle = threading.Semaphore(0)
        self._left = most

    def run(self, call: Callable[[], object]) -> None:
        """Run `call` on a thread as soon as one is idle. `call` must not raise. Only one thread may use this method."""
        self._calls.put(call)
        if self._left and not self.idle.acquire(blocking=False):
            with suppress(
                RuntimeError
            ):  # the system has no more threads: an existing one runs the call later
                start_new_thread(self._work, ())
                self._left -= 1

    def shutdown(self, *, wait: bool) -> None:
        """gunicorn calls this when it stops."""

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self.idle.release()
