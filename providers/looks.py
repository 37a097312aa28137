"""Which looks are worth making now: whoever is due, in as few requests as will tell of them all.

An account's predictions can be listed, a hundred a page, the latest created first. So whatever is due of one
account is asked for by pages, unless that is less than three, or no page can be had, or pages are not to be
believed of it. The looks that will likely tell of most predictions come first.

Pages show no logs. So a prediction that somebody follows gets looks of its own besides, about one a second. They are
the least likely to tell that it is over, and come last.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from admission.durations import Lengths
from auth import Caller
from providers import Prediction
from providers.durations import SHORTEST, chance, next_look, next_safety_look

PAGE = 100
"""Predictions on a page of the list."""

WORTH_A_PAGE = 3
"""So many due at once are asked for by a page."""

PAGES_BELIEVED = 20
"""So many pages in a row may show a prediction unfinished before it is asked for by itself."""

UNDATED = datetime.max.replace(tzinfo=UTC)
"""When a prediction was created that does not say when."""

UNANSWERED = 2.0
"""Seconds after which pages without an answer are not waited for, and between looks while one's own hang."""

_PAGES_AT_ONCE = 8

_AT_ONCE = 150
"""Looks under way, shared evenly by the accounts. One that hangs must not take the room of all."""

_TICK = timedelta(milliseconds=1)
"""How exactly the list may tell moments apart. More would show those of one burst again and again."""

_OVERDUE = 60.0
"""So many seconds overdue weigh as much as one prediction more to tell of: nobody waits for ever."""

log = structlog.get_logger("watcher")


@dataclass(slots=True, eq=False)
class Watch:
    """One prediction that somebody waits for. Times are the loop's, in seconds; `created_at` is the upstream's."""

    id: str
    created_at: datetime
    since: float
    lengths: Lengths
    over: asyncio.Future[Prediction]
    seen: float = 0.0
    """Its age, in seconds, when it was last seen unfinished."""
    earliest: float = 0.0
    latest: float = 0.0
    first: float = 0.0
    """When its next look is wanted, and when its first was."""
    alone: bool = False
    """Its next look must be its own."""
    unanswered: int = 0
    """How many of its own looks are under way."""
    pages: int = 0
    """How often in a row a page has shown it unfinished, or not at all."""
    failures: int = 0
    missing_since: float | None = None
    will_be_told: Callable[[], bool] = bool
    """Whether its upstream is relied on to tell how it ends. Unless it was asked to, it is not."""
    followers: dict[object, Callable[[Prediction], object]] = field(default_factory=dict)
    looked_at: float = -math.inf
    follow_at: float = math.inf
    """When its last look of its own was, and when its followers want one."""

    def schedule(self, now: float) -> None:
        schedule = next_safety_look if self.will_be_told() else next_look
        earliest, latest = schedule(self.lengths.ordered, now - self.since)
        self.earliest, self.latest = self.since + earliest, self.since + latest

    def look_for_followers(self, when: float) -> None:
        self.follow_at = when if self.followers else math.inf

    def show(self, prediction: Prediction) -> None:
        """To those who follow it. What becomes of it there is no matter of whoever waits."""
        for follower in list(self.followers.values()):
            try:
                follower(prediction)
            except Exception:
                log.exception("follower_failed", prediction=prediction.id)

    def chance(self, now: float) -> float:
        return chance(self.lengths.ordered, self.seen, now - self.since)

    def is_listable(self) -> bool:
        return not self.alone and self.pages < PAGES_BELIEVED


@dataclass(slots=True, eq=False)
class Account:
    """Whom an upstream tells of its predictions, and how well that goes."""

    caller: Caller
    watches: dict[Watch, None] = field(default_factory=dict)
    """As a set that keeps its order."""
    looks_again: float = -math.inf
    pages_again: float = -math.inf
    pages_under_way: list[float] = field(default_factory=list)
    """When each began."""
    under_way: int = 0
    share: int = _AT_ONCE
    """How many may be under way."""
    failures: int = 0
    page_failures: int = 0
    failed_at: float = -math.inf

    def may_begin(self, now: float) -> bool:
        """Whether another look may be made now; asked again just before it is, since time has passed."""
        return now >= self.looks_again and self.under_way < self.share

    def has_pages_enough(self) -> bool:
        """So many are under way that another must wait."""
        return len(self.pages_under_way) >= _PAGES_AT_ONCE

    def next_look(self) -> float:
        latest = min((min(watch.latest, watch.follow_at) for watch in self.watches), default=math.inf)
        return max(latest, self.looks_again)


@dataclass(slots=True)
class Look:
    """One request to come, and whom it is for: by a page if `before` is set, else one prediction alone."""

    account: Account
    watches: list[Watch]
    expected: float
    """How many it will likely tell of."""
    before: datetime | None = None

    def urgency(self, now: float) -> float:
        overdue = now - min(watch.latest for watch in self.watches)
        return self.expected + max(0.0, overdue) / _OVERDUE


def due(accounts: Iterable[Account], now: float) -> list[Look]:
    """The looks to make, the most urgent first. Of an account that fails it is one: the likeliest to be answered."""
    looks: list[Look] = []
    accounts = list(accounts)
    for account in accounts:
        if account.next_look() > now:
            continue
        account.share = max(2, _AT_ONCE // len(accounts))
        if account.under_way >= account.share:
            account.looks_again = now + SHORTEST
            continue
        found = _looks_at(account, now)
        if account.failures:
            found = [min(found, key=lambda look: (look.watches[0].failures, -look.urgency(now)))]
        looks += found
    return sorted(looks, key=lambda look: -look.urgency(now))


def _looks_at(account: Account, now: float) -> list[Look]:
    listable = [watch for watch in account.watches if watch.earliest <= now and watch.is_listable()]
    if len(listable) < WORTH_A_PAGE or now < account.pages_again or account.failures:
        listable = []
    elif account.has_pages_enough():
        if now - account.pages_under_way[0] < UNANSWERED:
            for watch in listable:  # one of those will tell
                watch.schedule(now)
        listable = []
    listed = set(listable)
    single = [
        Look(account, [watch], watch.chance(now))
        for watch in account.watches
        if (watch.latest <= now and watch not in listed) or watch.follow_at <= now
    ]
    return [*_pages(account, listable, now), *single]


def _pages(account: Account, listable: list[Watch], now: float) -> Iterator[Look]:
    """The latest created first: whoever is crowded out by other people's predictions is due again at once."""
    listable.sort(key=lambda watch: watch.created_at, reverse=True)
    for start in range(0, len(listable), PAGE):
        page = listable[start : start + PAGE]
        before = min(page[0].created_at, UNDATED - _TICK) + _TICK
        yield Look(account, page, sum(watch.chance(now) for watch in page), before)
