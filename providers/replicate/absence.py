"""Decides when readings of an account's list prove that a lost creation never arrived. Every time is an argument.

The list may lag up to a minute behind the account. It is in the order of creation. So a reading that does not show the
creation proves its absence only if the list is newer than the moment by which the creation would have arrived:

- One page of the list shows two other creations of ours: one that was made before the lost one was sent, and
  one that was sent after that moment.
- Or no other creation of ours is missing, and enough time has passed: three times the largest lag of the last
  hour, and three times the age of the youngest creation of ours that a reading showed. The list lags by no
  more than that age. Without such evidence the wait is 90 seconds.

A request may wait in the buffer of a stopped server, and arrive when the server continues. It also answers
readings again from then on. So a waiting creation arrives about when the first reading after the loss is
answered, and a proof needs answered readings over at least 15 seconds.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

_HOUR: Final = 3600.0
_TIMES: Final = 3.0
_LONGEST_GAP: Final = 60.0
"""Seconds that a list may lag."""


@dataclass(frozen=True, slots=True)
class SearchTiming:
    """The timing of a search. All values are seconds."""

    quick: tuple[float, ...] = (0.5, 1.5, 3.0)
    """Before each of the first readings."""
    pause: float = 5.0
    long_pause: float = 15.0
    long_from: float = 120.0
    """Between two later readings: `pause` at first, and `long_pause` from `long_from` seconds after the loss."""
    late: tuple[float, ...] = (30.0, 60.0, 120.0, 240.0, 480.0)
    """Before each reading for a late prediction, after the search has ended without one."""
    patience: float = 600.0
    """From the loss to the last reading of the search."""
    least: float = 15.0
    """From the first to the last answered reading of a proof."""
    drained: float = 5.0
    """From the first answered reading until a server that had stopped has served its buffered requests."""
    unknown: float = 90.0
    """From the first answered reading until absence is proven, if the lag of the list is not known."""
    between: float = 0.5
    """From the start of one reading of an account's list to the start of the next."""
    per_item: float = 0.002
    """Added to that for each prediction that the last reading showed."""

    def delays(self, elapsed: Callable[[], float]) -> Iterator[float]:
        """Seconds before each reading of a search, which began `elapsed` seconds ago."""
        yield from self.quick
        while True:
            yield self.pause if elapsed() < self.long_from else self.long_pause


@dataclass(frozen=True, slots=True)
class KnownCreation:
    """A creation of ours that was certainly made. `sent` is when it was sent, `known` when it was known to exist."""

    id: str
    sent: float
    known: float


@dataclass(frozen=True, slots=True)
class Span:
    """The part of the list that one page shows without a gap: all that was made between two creations of ours. Pages
    are of different moments, so there may be a gap between two of them."""

    oldest: float = -math.inf
    """When the oldest of ours on it was known to exist. The page shows all that was sent from then on."""
    newest: float = -math.inf
    """When the newest of ours on it was sent. The page shows all that was made until then."""
    gap_at: float = -math.inf
    """When the newest creation of ours that the page misses between those two was sent. The page has gaps
    until then."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh the list was in one reading, which was `sent` and `answered` at these times."""

    sent: float
    answered: float
    spans: tuple[Span, ...] = ()
    lag: float = 0.0
    """The least age of the list; 0 if it shows all of our latest creations."""
    largest_lag: float = 0.0
    """In the last hour."""


class RecentLags:
    """The largest lag of the last hour."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()
        """Pairs of time and lag; each lag is smaller than the one before."""

    def largest(self, now: float, lag: float) -> float:
        """The largest lag of the last hour, including this new one."""
        while self._falling and self._falling[-1][1] <= lag:
            self._falling.pop()
        self._falling.append((now, lag))
        while self._falling[0][0] < now - _HOUR:
            self._falling.popleft()
        return self._falling[0][1]


class LearnedLags:
    """The largest lags that other processes have measured, by account. Each counts for an hour."""

    def __init__(self) -> None:
        self._lags: dict[str, tuple[float, float]] = {}
        """The lag, and until when it counts."""

    def learn(self, lags: Mapping[str, float], now: float) -> None:
        """Another process has measured these in its last hour."""
        self._lags = {each: kept for each, kept in self._lags.items() if kept[1] > now}
        for account, lag in lags.items():
            if lag >= self.of(account, now):
                self._lags[account] = lag, now + _HOUR

    def of(self, account: str, now: float) -> float:
        """The largest lag of this account's list; 0 if none is known."""
        lag, until = self._lags.get(account, (0.0, now))
        return lag if now < until else 0.0


def measure_freshness(
    made: Iterable[KnownCreation],
    pages: Sequence[Collection[str]],
    lags: RecentLags,
    *,
    sent: float,
    answered: float,
) -> Freshness:
    """The freshness of a reading whose pages show these ids. The reading must reach back before all creations
    in `made`."""
    ours = list(made)
    shown = {identity for page in pages for identity in page}
    newest = max((each.sent for each in ours if each.id in shown), default=-math.inf)
    missing = [each for each in ours if each.known < sent and each.id not in shown]
    late = [each.known for each in missing if each.known > newest]
    lag = sent - min(late) if late else 0.0
    between = [each.known for each in missing if each.known <= newest]
    # A page older than the one before it leaves out creations in between. A creation of ours may also never
    # be listed.
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
    """Collects evidence that one creation, sent at `sent`, never arrived."""

    def __init__(self, timing: SearchTiming, *, sent: float) -> None:
        self._timing = timing
        self.sent = sent
        self._arrived_by = math.inf
        self._steady_since = math.inf
        self._freshest = math.inf
        """The least age of the youngest creation of ours that any reading showed."""

    def merge(self, other: Self) -> None:
        """Continue with the evidence of an identical creation that has adopted a prediction. The prediction may have
        been this creation's, so the one still missing may be the other's."""
        if other.sent < self.sent:
            self.sent, self._freshest = other.sent, math.inf
        self._arrived_by = max(self._arrived_by, other._arrived_by)

    def record_failure(self) -> None:
        """A reading failed, so Replicate may have stopped again."""
        self._steady_since = math.inf

    def is_proven_by(self, read: Freshness) -> bool:
        """Whether absence is proven if this reading does not show the creation either. Call it for every answered
        reading, in order."""
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
