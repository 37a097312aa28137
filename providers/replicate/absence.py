"""When looks at an account's list prove that a lost creation never arrived. Pure: every time is an argument.

The list is the account as it was up to a minute ago, in the order of creation. So a look that does not show the
creation proves its absence only if the list is known to be newer than the moment by which it would have arrived:

- A creation of ours that was sent after that moment is listed, on one page with one that was made before the lost one
  was sent.
- Or nothing of ours is missing, and enough time has passed: three times the largest lag of the last hour, and three
  times the age of the youngest creation of ours that a look showed, which is as old as the list can have been. If that
  says little or nothing, 90 seconds.

A request that waits in the buffer of a server that has stopped arrives when the server continues. Then looks are
answered as well, so the first answered look after the loss is the moment by which it would have arrived, and 'never
arrived' takes looks that are answered over at least 15 seconds.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

_HOUR: Final = 3600.0
_TIMES: Final = 3.0
_LONGEST_GAP: Final = 60.0
"""Seconds that a list may lag."""


@dataclass(frozen=True, slots=True)
class SearchTiming:
    """Seconds, all of them."""

    quick: tuple[float, ...] = (0.5, 1.5, 3.0)
    """Before each of the first looks."""
    pause: float = 5.0
    long_pause: float = 15.0
    long_from: float = 120.0
    """Between two looks, and the longer pause from so long after the loss."""
    late: tuple[float, ...] = (30.0, 60.0, 120.0, 240.0, 480.0)
    """Before each of the looks after an absence is proven, or nothing is."""
    patience: float = 600.0
    """From the loss to the last look."""
    least: float = 15.0
    """From the first to the last of the answered looks that prove an absence."""
    drained: float = 5.0
    """From the first answered look until all that a stopped server had in its buffers has arrived."""
    unknown: float = 90.0
    """From the first answered look, if nothing is known of the list's lag."""
    between: float = 0.5
    """From the beginning of one look at an account's list to that of the next."""
    per_item: float = 0.002
    """The same, for each prediction that the last look showed."""


@dataclass(frozen=True, slots=True)
class KnownCreation:
    """A creation of ours that certainly was made: it was sent and known to exist at these times."""

    id: str
    sent: float
    known: float


@dataclass(frozen=True, slots=True)
class Span:
    """The part of the list that one page shows without a gap: all that was made between two creations of ours. Pages
    are of different moments, so there may be a gap between two of them."""

    oldest: float = -math.inf
    """When the oldest of ours on it was known to exist. It shows all that was sent from then on."""
    newest: float = -math.inf
    """When the newest of ours on it was sent. It shows all that was made until then."""
    gap_at: float = -math.inf
    """When the newest of ours was sent that is missing between the two: up to then it is not in order."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh the list is by one look, which was `sent` and `answered` at these times."""

    sent: float
    answered: float
    spans: tuple[Span, ...] = ()
    lag: float = 0.0
    """The list is at least so old; 0 if nothing of ours is missing at its beginning."""
    largest_lag: float = 0.0
    """In the last hour."""


class RecentLags:
    """The largest lag of the last hour."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()
        """When, and the lag: each smaller than the one before."""

    def largest(self, now: float, lag: float) -> float:
        """Of the last hour, with this one."""
        while self._falling and self._falling[-1][1] <= lag:
            self._falling.pop()
        self._falling.append((now, lag))
        while self._falling[0][0] < now - _HOUR:
            self._falling.popleft()
        return self._falling[0][1]


def measure_freshness(
    made: Iterable[KnownCreation],
    pages: Sequence[Collection[str]],
    lags: RecentLags,
    *,
    sent: float,
    answered: float,
) -> Freshness:
    """The freshness by a look whose pages show these ids. It must reach back before all in `made`."""
    ours = list(made)
    shown = {identity for page in pages for identity in page}
    newest = max((each.sent for each in ours if each.id in shown), default=-math.inf)
    missing = [each for each in ours if each.known < sent and each.id not in shown]
    late = [each.known for each in missing if each.known > newest]
    lag = sent - min(late) if late else 0.0
    between = [each.known for each in missing if each.known <= newest]
    # A page older than the one before it leaves out creations in between. One of ours may also never be listed.
    gap = min(sent - min(between), _LONGEST_GAP) if between and len(pages) > 1 else 0.0
    spans = tuple(_span(ours, missing, page, is_last=page is pages[-1]) for page in pages)
    return Freshness(sent, answered, spans, lag, lags.largest(answered, max(lag, gap)))


def _span(
    ours: Sequence[KnownCreation], missing: Sequence[KnownCreation], page: Collection[str], *, is_last: bool
) -> Span:
    shown = [each for each in ours if each.id in page]
    newest = max((each.sent for each in shown), default=-math.inf)
    oldest = -math.inf if is_last else min((each.known for each in shown), default=math.inf)
    gap_at = [each.sent for each in missing if each.known <= newest and each.sent >= oldest]
    return Span(oldest, newest, max(gap_at, default=-math.inf))


class Absence:
    """Whether the looks for one creation, sent at `sent`, prove that it never arrived."""

    def __init__(self, timing: SearchTiming, *, sent: float) -> None:
        self._timing = timing
        self.sent = sent
        self._arrived_by = math.inf
        self._steady_since = math.inf
        self._freshest = math.inf
        """The least age of the youngest creation of ours that a look showed."""

    def merge(self, other: Self) -> None:
        """The creation of `other` has adopted a prediction like this one's, and perhaps this one's own. So it is the
        prediction of either that is still missing."""
        if other.sent < self.sent:
            self.sent, self._freshest = other.sent, math.inf
        self._arrived_by = max(self._arrived_by, other._arrived_by)

    def record_failure(self) -> None:
        """A look had no answer, so Replicate may have stopped again."""
        self._steady_since = math.inf

    def is_proven_by(self, read: Freshness) -> bool:
        """Whether it is, if this look, too, does not show it. Give it every answered look, in order."""
        timing = self._timing
        self._arrived_by = min(self._arrived_by, read.answered)
        self._steady_since = min(self._steady_since, read.answered)
        spans = [each for each in read.spans if each.oldest <= self.sent and each.gap_at < self.sent]
        is_first = bool(spans) and spans[0] is read.spans[0]
        if is_first:
            self._freshest = min(self._freshest, read.sent - spans[0].newest)
        if read.answered - self._steady_since < timing.least:
            return False
        if any(each.newest >= self._arrived_by + timing.drained for each in spans):
            return True
        by_age = min(timing.unknown, _TIMES * self._freshest) if is_first else timing.unknown
        wait = max(timing.least, _TIMES * read.largest_lag, by_age)
        return read.lag == 0 and read.sent - self._arrived_by >= wait
