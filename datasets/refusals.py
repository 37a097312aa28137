"""The errors of this package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 100 * 2**20
"""Bytes of the largest zip. Replicate's own storage of files, from which trainings read, takes no more."""

SHOWN: Final = 20
"""Problems that a refusal lists. It only counts the others."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason to refuse a zip. `name` is that of the file in it, or None if the zip itself is wrong. `message` goes on
    after the name, as in "is empty"."""

    name: str | None
    message: str

    def __str__(self) -> str:
        subject = "The zip" if self.name is None else self.name or "A file"
        return f"{subject} {self.message}"


class DatasetRefused(Exception):
    """A trainer would fail on the zip, or ignore parts of it. `problems` has at most SHOWN of them, and `count` is the
    number of all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems[:SHOWN])
        self.count = len(problems)
        more = [f"and {self.count - SHOWN} more"] if self.count > SHOWN else []
        super().__init__("; ".join([*map(str, self.problems), *more]))


class DatasetTooLarge(Exception):
    """The zip has, or would have, more than LARGEST bytes."""

    def __init__(self) -> None:
        super().__init__(f"a zip of images must be at most {LARGEST // 2**20} MiB")


class WeightsBroken(Exception):
    """A file of trained weights is damaged, cut short, or something else."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
