"""Virtual time: an event loop whose clock jumps to the next timer, so that minutes take milliseconds.

The libraries for it count in ticks and stop when a timer is less than one tick away. This clock is as fine as the
floats that the code under test compares.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that starts at 0 seconds. It has timers, but no files and no sockets."""

    def __init__(self) -> None:
        self._virtual = _JumpingSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def jump(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as if the process was stopped."""
        self._virtual.now += seconds

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [each for each in scheduled if not each.cancelled()]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a fresh virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result = runner.run(work)
        runner.run(_end_all_tasks())
    return result


async def _end_all_tasks() -> None:
    """Cancel the other tasks, and those that they start as they end. The runner cancels only the former, and the
    others would be reported as destroyed while they are pending."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a virtual loop."""

    @functools.wraps(test)
    def in_time(*arguments: Any, **named: Any) -> None:
        run(test(*arguments, **named))

    return in_time


def now() -> float:
    """The time of the running loop, in seconds."""
    return asyncio.get_running_loop().time()


async def tick(times: int = 4) -> None:
    """Run all tasks that are ready. No time passes."""
    for _ in range(times):
        await asyncio.sleep(0)


class Inline(Executor):
    """An executor that runs each function at once in the calling thread."""

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(function(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


class Delayed(Inline):
    """An executor that runs each function `seconds` after its submission."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def submit(self, function: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function(*arguments, **named))
            except Exception as error:
                done.set_exception(error)

        asyncio.get_running_loop().call_later(self.seconds, run)
        return done
