"""Chooses the polls to make now, and their pace: the fewest requests that show all predictions that are due.

An account's predictions can be listed, a hundred a page, the latest created first. So the due predictions of an account
are polled by pages, unless fewer than three are due, or no page can be read, or its pages proved wrong. The polls that
will likely find most predictions over go first.

Pages show no logs. So a followed prediction gets polls of its own besides, about one a second. They are the least
likely to find it over, and come last.

Polls are made at once while the window has room and evenly spread beyond half of it; the last tenth is left to
cancels. Polls for followers never take more than a third of the window: the more predictions are followed, the less
often each is polled.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from admission.durations import Lengths
from admission.sliding_window import WINDOW
from auth import Caller
from catalog.outputs import FILES, OutputForm
from concurrency import Gate
from errors import ServiceError
from providers import OnLook, Prediction
from providers.replicate.durations import OF_PREDICTIONS, SHORTEST, Pace, chance, next_start_poll

PAGE = 100
"""Predictions on a page of the list."""

MIN_DUE_FOR_PAGE = 3
"""From this many due predictions on, an account is polled by pages."""

MAX_UNFINISHED_PAGES = 20
"""After this many pages in a row that show it unfinished, a prediction is polled by itself."""

UNDATED = datetime.max.replace(tzinfo=UTC)
"""The creation time that is assumed for a prediction that shows none."""

ANSWER_PATIENCE = 2.0
"""Seconds after which an unanswered page is no longer waited for. Also the seconds between two polls of one prediction
while an earlier one is unanswered."""

_PAGES_AT_ONCE = 8

_AT_ONCE = 150
"""Polls under way, shared evenly by the accounts, so that one account whose polls hang leaves room for the others."""

_TICK = timedelta(milliseconds=1)
"""The resolution in seconds at which the list is assumed to compare times. A coarser one would list one burst
again and again."""

_OVERDUE = 60.0
"""Being this many seconds overdue counts like one more prediction found over, so that no poll waits for ever."""

FOLLOW_INTERVAL = 1.0
"""Seconds between two polls of a followed prediction, at the least."""

_EVENLY_FROM = 1 / 2
_NONE_FROM = 0.9
_FOLLOWED = 1 / 3
"""Shares of the window of polls."""

_LIMIT_CHANGES = 1.0
"""Seconds in which the limit of the window may change, if other processes share it."""

log = structlog.get_logger("watcher")


class PollFailed(Exception):
    """The poll failed, and a later one may succeed.

    `wait` is the wait that the refusal states, in seconds. A finite `patience` means that the failure
    concerns this prediction, not the whole upstream: its watch ends with `error` when its polls have failed
    like this for `patience` seconds without a break.
    """

    def __init__(self, error: ServiceError, *, wait: float = 0.0, patience: float = math.inf) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait
        self.patience = patience


class NoPages(Exception):
    """The list cannot be read."""


@dataclass(slots=True, eq=False)
class Watch:
    """One prediction that is waited for. Times are the loop's, in seconds; `created_at` is the upstream's."""

    id: str
    created_at: datetime
    since: float
    lengths: Lengths
    over: asyncio.Future[Prediction]
    form: OutputForm = FILES
    on_look: OnLook | None = None
    start_by: float | None = None
    """As in `Provider.wait`. Until a prediction that may have to boot runs, `since` is when it was created, and then
    when it started."""
    pace: Pace = OF_PREDICTIONS
    has_started: bool = False
    idle_until: float = -math.inf
    """When it was last seen waiting for its start."""
    seen: float = 0.0
    """Its age, in seconds, when it was last seen unfinished."""
    earliest: float = 0.0
    latest: float = 0.0
    first: float = 0.0
    """When its next poll is due, and when its first was."""
    needs_own_poll: bool = False
    """Whether its next poll must be for it alone."""
    unanswered: int = 0
    """How many of its own polls are under way."""
    pages: int = 0
    """The number of pages in a row that have shown it unfinished, or not at all."""
    failures: int = 0
    missing_since: float | None = None
    is_pushed: Callable[[], bool] = bool
    """Whether its result is pushed, and webhooks of its account arrive."""
    followers: dict[object, Callable[[Prediction], object]] = field(default_factory=dict)
    eager: set[object] = field(default_factory=set)
    """The followers for which it is polled more often."""
    polled_at: float = -math.inf
    follow_at: float = math.inf
    """When it was last polled by itself, and when the next such poll for its followers is due."""

    @property
    def may_boot(self) -> bool:
        """Whether it may wait for a boot now, of which the durations of its model say nothing."""
        return self.start_by is not None and not self.has_started

    def schedule(self, now: float) -> None:
        age = now - self.since
        if self.may_boot:
            earliest, latest = next_start_poll(age)
            if self.start_by is not None and age < self.start_by:
                latest = min(latest, self.start_by)
        else:
            span = self.pace.pushed if self.is_pushed() else self.pace.polled
            earliest, latest = span(self.lengths.ordered, age)
        self.earliest, self.latest = self.since + min(earliest, latest), self.since + latest

    def look(self, prediction: Prediction, now: float) -> None:
        """It is unfinished."""
        is_running = prediction.status == "processing"
        if is_running and not self.has_started:
            began = self._start(prediction, now)
            if self.start_by is not None:
                self.since, self.seen = began, 0.0
            self.has_started = True
            self._tell(now - began)
        elif not self.has_started:
            self.idle_until = now
            self._tell(None)

    def _start(self, prediction: Prediction, now: float) -> float:
        """When it has started. If the provider does not show that: when it may have started the earliest, or for one
        that may have had to boot, now."""
        if prediction.waited is not None:
            return min(now, self.since + prediction.waited)
        return max(self.since, self.idle_until) if self.start_by is None else now

    def _tell(self, ran: float | None) -> None:
        if self.on_look is not None:
            self.on_look(ran)

    def learn(self, prediction: Prediction, now: float) -> None:
        """It has succeeded. Remember how long it took, without a boot."""
        took, seconds = now - self.since, prediction.seconds
        if self.start_by is not None and seconds is not None and prediction.waited is not None:
            seconds = max(0.0, seconds - prediction.waited)
        elif self.may_boot:
            return  # how long it waited is not known
        self.lengths.learn(took if seconds is None else min(seconds, took))

    def formed(self, prediction: Prediction) -> Prediction:
        """What a poll or a push shows of it, with the form of its output."""
        return replace(prediction, form=self.form)

    def poll_for_followers(self, when: float) -> None:
        self.follow_at = when if self.eager else math.inf

    def show(self, prediction: Prediction) -> None:
        """Pass it to the followers. A follower's error does not end the wait."""
        for follower in list(self.followers.values()):
            try:
                follower(prediction)
            except Exception:
                log.exception("progress_listener_failed", prediction=prediction.id)

    def chance(self, now: float) -> float:
        lengths: Sequence[float] = () if self.may_boot else self.lengths.ordered
        return chance(lengths, self.seen, now - self.since)

    def is_listable(self) -> bool:
        return not self.needs_own_poll and self.pages < MAX_UNFINISHED_PAGES


@dataclass(slots=True, eq=False)
class PolledAccount:
    """A caller's predictions that are waited for, and how well their polls go."""

    caller: Caller
    watches: dict[Watch, None] = field(default_factory=dict)
    """As a set that keeps its order."""
    next_poll_at: float = -math.inf
    next_page_at: float = -math.inf
    pages_under_way: list[float] = field(default_factory=list)
    """When each began."""
    under_way: int = 0
    share: int = _AT_ONCE
    """How many may be under way."""
    failures: int = 0
    page_failures: int = 0
    failed_at: float = -math.inf

    def may_begin(self, now: float) -> bool:
        """Whether another poll may be made now. Check again just before each poll, since time has passed."""
        return now >= self.next_poll_at and self.under_way < self.share

    def has_max_pages(self) -> bool:
        """Whether another page must wait for one of those under way."""
        return len(self.pages_under_way) >= _PAGES_AT_ONCE

    def next_poll(self) -> float:
        latest = min((min(watch.latest, watch.follow_at) for watch in self.watches), default=math.inf)
        return max(latest, self.next_poll_at)


@dataclass(frozen=True, slots=True)
class WatcherStats:
    """How many accounts have waiting callers, how many polls are under way, and whether more are begun."""

    accounts: int
    polls: int
    is_polling: bool


@dataclass(slots=True)
class Poll:
    """One request to make, and the predictions it is for: a page if `before` is set, else one prediction."""

    account: PolledAccount
    watches: list[Watch]
    expected: float
    """How many predictions it will probably find over."""
    before: datetime | None = None

    def urgency(self, now: float) -> float:
        overdue = now - min(watch.latest for watch in self.watches)
        return self.expected + max(0.0, overdue) / _OVERDUE


def due(accounts: Iterable[PolledAccount], now: float) -> list[Poll]:
    """The polls to make, the most urgent first. A failing account gets only the one that is likeliest to be
    answered."""
    polls: list[Poll] = []
    accounts = list(accounts)
    for account in accounts:
        if account.next_poll() > now:
            continue
        account.share = max(2, _AT_ONCE // len(accounts))
        if account.under_way >= account.share:
            account.next_poll_at = now + SHORTEST
            continue
        found = _polls_of(account, now)
        if account.failures:
            found = [min(found, key=lambda poll: (poll.watches[0].failures, -poll.urgency(now)))]
        polls += found
    return sorted(polls, key=lambda poll: -poll.urgency(now))


def _polls_of(account: PolledAccount, now: float) -> list[Poll]:
    listable = [watch for watch in account.watches if watch.earliest <= now and watch.is_listable()]
    if len(listable) < MIN_DUE_FOR_PAGE or now < account.next_page_at or account.failures:
        listable = []
    elif account.has_max_pages():
        if now - account.pages_under_way[0] < ANSWER_PATIENCE:
            for watch in listable:  # one of the pages under way will show it
                watch.schedule(now)
        listable = []
    listed = set(listable)
    single = [
        Poll(account, [watch], watch.chance(now))
        for watch in account.watches
        if (watch.latest <= now and watch not in listed) or watch.follow_at <= now
    ]
    return [*_pages(account, listable, now), *single]


def _pages(account: PolledAccount, listable: list[Watch], now: float) -> Iterator[Poll]:
    """Pages of the due predictions, the latest created first. A prediction that its page does not show,
    because others fill it, is due again at once."""
    listable.sort(key=lambda watch: watch.created_at, reverse=True)
    for start in range(0, len(listable), PAGE):
        page = listable[start : start + PAGE]
        before = min(page[0].created_at, UNDATED - _TICK) + _TICK
        yield Poll(account, page, sum(watch.chance(now) for watch in page), before)


class PollThrottle:
    """Spreads polls evenly over the window `places`, whose limit may be 0 for a while."""

    def __init__(self, places: Gate) -> None:
        self._places = places
        self._polled_at = -math.inf

    async def wait(self) -> None:
        """Wait until the next poll may be made."""
        now = asyncio.get_running_loop().time
        while self._used() >= _EVENLY_FROM:
            evenly = self._each(1 - _EVENLY_FROM)
            wait = evenly if self._used() >= _NONE_FROM else self._polled_at + evenly - now()
            if wait <= 0:
                return
            await asyncio.sleep(min(wait, _LIMIT_CHANGES))

    def record_poll(self) -> None:
        """Record that a poll is made now."""
        self._polled_at = asyncio.get_running_loop().time()

    def follow_interval(self, followed: int) -> float:
        """Seconds between two polls of each followed prediction, if this many are followed."""
        return max(FOLLOW_INTERVAL, followed * self._each(_FOLLOWED))

    def _used(self) -> float:
        window = self._places.statistics()
        return window.current_rate_per_minute / max(1, window.requests_per_minute_limit)

    def _each(self, share: float) -> float:
        """Seconds between two polls, if they use this share of the window, evenly spread."""
        return WINDOW / (share * max(1, self._places.statistics().requests_per_minute_limit))
