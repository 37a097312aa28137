"""The calls of `controls` for Python, on a simulator in another thread."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from simulator.gemini.books import Bill, GeminiCounts
from simulator.gemini.service import Gemini

T = TypeVar("T")


class OnLoop(Protocol):
    """Runs work on the simulator's loop, and returns its result."""

    def __call__(self, work: Callable[[], T]) -> T: ...


class RemoteGemini:
    """A simulated Gemini, for any thread.

    Args:
        gemini: The simulated Gemini.
        on_loop: Runs work on its loop.
    """

    def __init__(self, gemini: Gemini, on_loop: OnLoop) -> None:
        self._gemini = gemini
        self._on_loop = on_loop

    def inject(self, **fault: Any) -> None:
        """Inject a fault: `marks`, or `status` with `body` and `headers`; `faults` lists its other arguments.

        Raises:
            ValueError: If an argument is unknown or invalid.
        """
        self._on_loop(partial(self._gemini.faults.inject, **fault))

    def project(self, key: str, **changes: Any) -> None:
        """Change the settings of a key and its project, as `Projects.configure` lists them.

        Raises:
            ValueError: If a change is unknown or invalid.
        """
        self._on_loop(partial(self._gemini.projects.configure, key, **changes))

    def configure(self, **changes: Any) -> None:
        """Change settings of `GeminiOptions`.

        Raises:
            ValueError: If a change is unknown or invalid.
        """
        self._on_loop(partial(self._gemini.configure, **changes))

    def counts(self) -> GeminiCounts:
        """The counts at this moment."""
        return self._on_loop(self._gemini.counts)

    def bills(self) -> list[Bill]:
        """The kept bills, oldest first."""
        return self._on_loop(self._gemini.bills)

    def reset(self) -> None:
        """Return to the state of the start."""
        self._on_loop(self._gemini.reset)
