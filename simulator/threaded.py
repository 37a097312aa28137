"""Runs a simulator in a thread, for tests.

The server uses its state only on its event loop. Each method here runs its work on that loop and waits for the result,
so a test may call it from any thread.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from simulator.counts import Counts
from simulator.gemini.remote import RemoteGemini
from simulator.options import Options
from simulator.predictions import PredictionRecord
from simulator.server import Server
from simulator.trainings import TrainingRecord
from simulator.uploads import UploadRecord
from simulator.windows import Clock

T = TypeVar("T")


class Simulator:
    """A simulated Replicate, running from `start` until `stop`.

    Args:
        options: The settings.
        clock: Monotonic nanoseconds, for limits and for the expiry of outputs and uploads.
    """

    def __init__(self, options: Options | None = None, *, clock: Clock = time.monotonic_ns) -> None:
        self.server = Server(options or Options(), clock=clock)
        self.gemini = RemoteGemini(self.server.state.gemini, self._call)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, such as `http://127.0.0.1:43127`."""
        return self.server.url

    def start(self) -> None:
        """Listen, and return once connections are accepted.

        Raises:
            OSError: If it cannot listen on the address.
        """
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.server.start(), loop).result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and its thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def inject(self, *, on: str = "any", times: int = 1, after: int = 0, **rest: Any) -> None:
        """Inject a fault; `simulator.faults` lists the kinds.

        Args:
            on: The kind of request.
            times: The number of requests to affect.
            after: The number of such requests to let through first.
            rest: `token` for one account only, and exactly one kind of fault.

        Raises:
            ValueError: If an argument is invalid.
        """
        inject = self.server.state.faults.inject
        self._call(lambda: inject(on=on, times=times, after=after, **rest))

    def stall(self, seconds: float) -> None:
        """Accept requests but serve them only after `seconds`, even if their callers have disconnected by then.

        The simulator must be running.

        Raises:
            ValueError: If `seconds` is not a number from 0 to 3600.
        """
        self._call(lambda: self.server.state.stall(seconds))

    def finish(self) -> None:
        """End all running predictions and trainings now, by their directives; those with `[[hang]]` succeed."""
        self._call(self.server.state.predictions.finish)
        self._call(self.server.state.trainings.finish)

    def respond(self) -> None:
        """End the waits of the faults `delay` and `hang` now. Later requests wait as long as their faults say."""
        self._call(self.server.state.faults.end_pauses)

    def account(self, token: str, **changes: Any) -> None:
        """Change the named settings of an account.

        Args:
            token: The account's token.
            changes: `reject` (bool), `same_as` (another token of the account), `credit` ("ok", "low" or "empty"),
                `username`, `creations_per_minute`, `others_per_minute`, `burst`.

        Raises:
            ValueError: If a change is unknown or invalid.
        """
        self._call(lambda: self.server.state.accounts.configure(token, **changes))

    def publish(self, document: Mapping[str, Any]) -> None:
        """Publish a model, a new version of one, or new facts about one, from a document (`loading`).

        Raises:
            ValueError: If the document is invalid. Then nothing is changed.
        """
        self._call(lambda: self.server.state.models.publish(document))

    def latest_version(self, model: str) -> str:
        """The id of the latest version of a model `owner/name`, or an empty text if it has none."""
        return self._call(lambda: {each.name: each.version for each in self.server.state.models}[model])

    def counts(self) -> Counts:
        """The counts at this moment."""
        return self._call(self.server.state.counters.snapshot)

    def predictions(self) -> list[PredictionRecord]:
        """The kept predictions, oldest first."""
        return self._call(lambda: [each.record() for each in self.server.state.predictions])

    def trainings(self) -> list[TrainingRecord]:
        """The kept trainings, oldest first."""
        return self._call(lambda: [each.record() for each in self.server.state.trainings])

    def trainings_by_url(self) -> dict[str, int]:
        """The number of kept trainings by the URL of their images."""
        return dict(Counter(each.url for each in self.trainings() if each.url is not None))

    def uploads(self) -> list[UploadRecord]:
        """The kept uploads, oldest first."""
        return self._call(self.server.state.uploads.records)

    def reset(self) -> None:
        """Return to the state of the start."""
        self._call(self.server.state.reset)

    async def _end(self) -> None:
        await self.server.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # responses that hang by a fault
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _call(self, work: Callable[[], T]) -> T:
        if self._loop is None:
            # No other thread uses the state before the start and after the stop.
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
    """A simulator that runs during the `with` block."""
    simulator = Simulator(options, clock=clock)
    simulator.start()
    try:
        yield simulator
    finally:
        simulator.stop()
