"""Saves the files of rows that have ended, in threads of its own."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replicate_concurrent.batches.following import Arrived
from replicate_concurrent.errors import OutputLost, ReplicateConcurrentError
from replicate_concurrent.results import Generation

_PARTIAL: Final = re.compile(r"\.[0-9a-f]{16}\.part")
"""The name of a file that is not whole yet, as `Generation.save` makes it."""


@dataclass(frozen=True)
class Saved:
    """A row whose files are saved, or could not be. `facts` are fields of its line in the manifest."""

    key: str
    generation: Generation
    facts: Mapping[str, Any]
    trouble: str = ""


class Savers:
    """Threads that save, and put a `Saved` of each generation into `news`. They are daemons, so that a large file holds
    up no end of the program."""

    def __init__(self, directory: Path, news: queue.SimpleQueue[Any], *, count: int) -> None:
        self._directory = directory
        self._news = news
        self._count = count
        self._jobs: queue.SimpleQueue[tuple[Arrived, str] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def save(self, arrived: Arrived, name: str) -> None:
        """Save a generation under `name`, which no other row has."""
        self._jobs.put((arrived, name))
        if len(self._threads) < self._count:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def close(self) -> None:
        """End the threads once they are idle."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._news.put(saved(*job, self._directory))


def saved(arrived: Arrived, name: str, directory: Path) -> Saved:
    """Save the files of a generation that has ended."""
    made = arrived.generation
    facts: dict[str, Any] = {
        "generation": made.id,
        "cost_usd": made.cost_usd,
        "seed": made.seed,
        "status": "succeeded",
        "lost": (),
    }
    if made.error is not None:
        facts |= {"status": made.status, "error": made.raw.get("error")}
    try:
        if made.error is None or made.placeholder:
            paths = made.save(directory, name, overwrite=True)
            facts["files"] = _names(paths, directory)
    except OutputLost as error:
        facts["lost"] = error.lost
        if error.saved:
            facts["files"] = _names(error.saved, directory)
    except (ReplicateConcurrentError, OSError) as error:
        return Saved(arrived.key, made, {"generation": made.id}, f"{type(error).__name__}: {error}")
    return Saved(arrived.key, made, facts)


def _names(paths: Iterable[Path], directory: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(directory).as_posix() for path in paths)


def remove_partial(directory: Path) -> None:
    """Remove the files that an earlier run has left when it was killed."""
    with suppress(OSError):
        for path in directory.iterdir():
            if _PARTIAL.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()
