"""What the contenders share: their task, and the line they end with.

A contender reads its task from the command line and where Replicate is from the environment, as the
`replicate` client does. Once it has told its result it waits, so that the bench can look at its process, and
it ends when its standard input does: it outlives nobody.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MODEL = "black-forest-labs/flux-dev"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was asked for. A contender that knows as much tells the link to it, and when that was
    known, in seconds since the epoch."""

    url: str = ""
    known: float = 0.0


@dataclass(frozen=True, slots=True)
class Substitute:
    """What was handed over as a picture and is not the one that was asked for."""


@dataclass(frozen=True, slots=True)
class Task:
    """How many pictures to make, how many of them at once, and how many fail in passing at their first try."""

    pictures: int
    slots: int
    failing: int = 0

    @property
    def prompts(self) -> list[str]:
        """A prompt a picture; those that fail come first."""
        return [f"picture {n}" + " [[transient]]" * (n < self.failing) for n in range(self.pictures)]


def carry_out(make: Callable[[Task], Sequence[Picture | Substitute | BaseException]]) -> None:
    """Time `make`, tell what came of it, and wait to be ended.

    `make` returns what its user would hold in the end; exceptions among it, and what is missing, are lost.
    """
    leaving = threading.Thread(target=_leave_at_eof, daemon=True)
    leaving.start()
    task = Task(*map(int, sys.argv[1:]))
    began = time.perf_counter()
    made = make(task)
    seconds = time.perf_counter() - began
    got = [each for each in made if isinstance(each, Picture)]
    result = {
        "got": len(got),
        "substitutes": sum(isinstance(each, Substitute) for each in made),
        "seconds": seconds,
        "known": {each.url: each.known for each in got if each.url},
    }
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    leaving.join()


def _leave_at_eof() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
