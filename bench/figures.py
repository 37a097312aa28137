"""Figures of two variants of the service, measured by turns, and their targets.

The second variant is measured twice in each round, by two processes. The ratio of these two is the noise: what a ratio
shows if nothing has changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Final

from bench.report import Section
from bench.rounds import Round, failures

NEW: Final = "new"
OLD: Final = "old"
AGAIN: Final = "old, again"

TOLERANCE: Final = 0.05
"""The change of a ratio that no target counts, however small the noise was."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The values of all rounds, shown as their median and range."""

    values: Sequence[float]

    def __str__(self) -> str:
        middle = f"{median(self.values):.2f}"
        if len(self.values) == 1:
            return middle
        return f"{middle} ({min(self.values):.2f} to {max(self.values):.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure, with one value of each variant for each round.

    Attributes:
        what: The thing measured.
        unit: The unit of the values; may be empty.
        values: Those of `NEW`, `OLD` and `AGAIN`, each in the order of the rounds.
        is_more_better: Whether larger values are better.
        most: Target of the median of `NEW`. Without it the target is a ratio.
        ratio: Target of the median of the ratios. Without it, and without `most`, they must not be worse than the worst
            round of the noise, or worse by `TOLERANCE`.
        failed: A sentence about requests that failed; empty if none did.
    """

    what: str
    unit: str
    values: Mapping[str, Sequence[float]]
    is_more_better: bool = False
    most: float | None = None
    ratio: float | None = None
    failed: str = ""

    @property
    def ratios(self) -> Spread:
        """`NEW / OLD`, round by round."""
        return self._over_old(NEW)

    @property
    def noise(self) -> Spread:
        """`AGAIN / OLD`, round by round."""
        return self._over_old(AGAIN)

    @property
    def bound(self) -> float:
        """The largest ratio that meets the target, or the least if more is better."""
        if self.ratio is not None:
            return self.ratio
        if self.is_more_better:
            return min(1 - TOLERANCE, *self.noise.values)
        return max(1 + TOLERANCE, *self.noise.values)

    @property
    def target(self) -> str:
        if self.most is not None:
            return f"≤ {self.most:g} {self.unit}".strip()
        return f"ratio {'≥' if self.is_more_better else '≤'} {self.bound:.2f}"

    @property
    def is_met(self) -> bool:
        if self.most is not None:
            return median(self.values[NEW]) <= self.most
        ratio = median(self.ratios.values)
        return ratio >= self.bound if self.is_more_better else ratio <= self.bound

    def row(self) -> tuple[str, ...]:
        values = (self._shown(NEW), self._shown(OLD))
        met = "yes" if self.is_met and not self.failed else "no"
        return (self.what, *values, str(self.ratios), str(self.noise), self.target, met)

    def missed(self) -> list[str]:
        """A sentence for a missed target, and one for failed requests."""
        missed = []
        if not self.is_met:
            figure = f"ratio {self.ratios}" if self.most is None else self._shown(NEW)
            missed.append(f"{self.what}: {figure}, not {self.target.removeprefix('ratio ')}")
        if self.failed:
            missed.append(f"{self.what}: {self.failed}")
        return missed

    def _over_old(self, name: str) -> Spread:
        pairs = zip(self.values[name], self.values[OLD], strict=True)
        return Spread([value / old for value, old in pairs])

    def _shown(self, name: str) -> str:
        middle = median(self.values[name])
        return f"{middle:.{2 if abs(middle) < 100 else 0}f} {self.unit}".strip()


def load_figure(
    what: str,
    unit: str,
    rounds: Mapping[str, Sequence[Round]],
    value: Callable[[Round], float],
    *,
    ratio: float | None = None,
    is_more_better: bool = False,
) -> Figure:
    """The figure that is `value` of each round."""
    kept = {name: rounds[name] for name in (NEW, OLD, AGAIN)}
    return Figure(
        what=what,
        unit=unit,
        values={name: [value(each) for each in those] for name, those in kept.items()},
        ratio=ratio,
        is_more_better=is_more_better,
        failed=failures(chain.from_iterable(kept.values())),
    )


def compared(title: str, figures: Iterable[Figure], *, names: tuple[str, str], note: str = "") -> Section:
    """A section with a row for each figure. Each is printed at once. `names` are those of the new and the old
    variant."""
    rows, missed = [], []
    for figure in figures:
        print(f"{'MISS' if figure.missed() else 'ok  '} {' | '.join(figure.row())}", flush=True)
        rows.append(figure.row())
        missed += figure.missed()
    new, old = names
    columns = ("what", new, old, f"{new} / {old}", f"{old} / {old}", "target", "met")
    return Section(title, columns, rows, missed, note)
