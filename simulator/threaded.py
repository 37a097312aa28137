"""The handle a test holds: a running simulator in a thread of its own.

The server keeps one event loop and touches its state only there. Every method here hands its work
to that loop and waits for the outcome, so a test may call them from any thread at any time.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from simulator.accounts import Clock
from simulator.counts import Counts
from simulator.options import Options
from simulator.predictions import PredictionRecord
from simulator.server import Server
from simulator.uploads import UploadRecord

T = TypeVar("T")


class Simulator:
    """A simulated Replicate, running from `start` until `stop`.

    Args:
        options: Where to listen and how to behave.
        clock: The monotonic nanoseconds that limits and the life of outputs are measured on; a test
            may pass its own.
    """

    def __init__(self, options: Options | None = None, *, clock: Clock = time.monotonic_ns) -> None:
        self._server = Server(options or Options(), clock=clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:43127`."""
        return self._server.url

    def start(self) -> None:
        """Listen, and return once connections are accepted.

        Raises:
            OSError: If the address cannot be listened on.
        """
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._server.start(), loop).result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and its thread, and leave nothing open."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def inject(self, *, on: str = "any", times: int = 1, after: int = 0, **rest: Any) -> None:
        """Order a fault; `simulator.faults` lists the kinds.

        Args:
            on: The kind of request it is for.
            times: How many requests it strikes.
            after: How many such requests it lets through first.
            rest: `token` for one account only, and exactly one kind of fault.

        Raises:
            ValueError: If the order makes no sense.
        """
        inject = self._server.state.faults.inject
        self._call(lambda: inject(on=on, times=times, after=after, **rest))

    def stall(self, seconds: float) -> None:
        """Take requests in and serve them only after so many seconds, whether their senders wait or not. Only while it
        runs.

        Raises:
            ValueError: If that is no number of seconds from 0 to 3600.
        """
        self._call(lambda: self._server.state.stall(seconds))

    def account(self, token: str, **changes: Any) -> None:
        """Set up an account; what `changes` leaves out stays.

        Args:
            token: Whose account.
            changes: `reject` (bool), `credit` ("ok", "low" or "empty"), `username`, `creations_per_minute`,
                `others_per_minute`, `burst`.

        Raises:
            ValueError: If a change is unknown or makes no sense.
        """
        self._call(lambda: self._server.state.accounts.configure(token, **changes))

    def counts(self) -> Counts:
        """What was counted so far."""
        return self._call(self._server.state.counters.snapshot)

    def predictions(self) -> list[PredictionRecord]:
        """Every prediction remembered, oldest first."""
        return self._call(lambda: [each.record() for each in self._server.state.predictions])

    def uploads(self) -> list[UploadRecord]:
        """Every uploaded file remembered, oldest first."""
        return self._call(self._server.state.uploads.records)

    def reset(self) -> None:
        """Forget everything, as if just started."""
        self._call(self._server.state.reset)

    async def _end(self) -> None:
        await self._server.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # answers that were ordered to hang
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _call(self, work: Callable[[], T]) -> T:
        if self._loop is None:
            # Before the start and after the stop nothing else touches the state.
            return work()

        async def on_loop() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result()


@contextmanager
def running(
    options: Options | None = None,
    *,
    clock: Clock = time.monotonic_ns,
) -> Iterator[Simulator]:
    """A simulator that listens while the block runs."""
    simulator = Simulator(options, clock=clock)
    simulator.start()
    try:
        yield simulator
    finally:
        simulator.stop()
