"""Work that mostly waits, beside other work."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do `work` in a thread of its own; its result, or what it raised, is the future's.

    Who leaves does not wait for it, unlike for a pool's: what it started ends with this process.
    """
    future: Future[T] = Future()

    def carry_out() -> None:
        try:
            future.set_result(work())
        except BaseException as reason:
            future.set_exception(reason)

    Thread(target=carry_out, daemon=True).start()
    return future
