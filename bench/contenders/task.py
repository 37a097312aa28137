"""The code that contenders share: their task, and the line of JSON that they print at the end.

A contender reads its task from the command line, and Replicate's address from the environment, as the `replicate`
client does. After printing its result it waits, so that the bench can measure its process. It ends when its standard
input ends.
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
    """A requested picture. If the contender knows it, `url` is its link and `known` the time when the contender got the
    link, in seconds since the epoch."""

    url: str = ""
    known: float = 0.0


@dataclass(frozen=True, slots=True)
class Substitute:
    """Another picture, returned in place of the requested one."""


@dataclass(frozen=True, slots=True)
class Task:
    """The number of pictures, the most at once, and the number of prompts that fail transiently once."""

    pictures: int
    slots: int
    failing: int = 0

    @property
    def prompts(self) -> list[str]:
        """A prompt for each picture; the failing ones first."""
        return [f"picture {n}" + " [[transient]]" * (n < self.failing) for n in range(self.pictures)]


def run_task(make: Callable[[Task], Sequence[Picture | Substitute | BaseException]]) -> None:
    """Time `make`, print its result, and wait for the end of standard input.

    `make` returns the results of its user. Exceptions and missing results count as lost pictures.
    """
    exit_at_eof = threading.Thread(target=_exit_at_eof, daemon=True)
    exit_at_eof.start()
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
    exit_at_eof.join()


def _exit_at_eof() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
