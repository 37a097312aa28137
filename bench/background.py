"""Runs work in a background thread."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Run `work` in a daemon thread. The future gets its result or exception.

    The interpreter does not wait for the thread at exit, as it would for a thread of an executor.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as reason:
            future.set_exception(reason)

    Thread(target=run, daemon=True).start()
    return future
