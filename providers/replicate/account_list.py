"""Reads the list of an account's predictions for the searches for lost creations.

All searches of an account share the readings: a search that comes during a reading waits for the next one. Each reading
measures how far the list lags behind (`absence.py`), by the creations of ours that it should show.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from auth import Caller
from catalog.targets import Target
from providers.connections import Lost
from providers.replicate.absence import (
    Freshness,
    KnownCreation,
    LearnedLags,
    RecentLags,
    SearchTiming,
    measure_freshness,
)
from providers.replicate.answers import ListedPrediction, Page
from providers.replicate.matching import Fit, fit_of

_PAGES: Final = 100
"""The most pages of one reading: ten minutes of 600 creations a minute, and more."""

_REACH: Final = 30.0
"""Seconds before a lost creation from which a reading shows all predictions of the account."""

_LAST: Final = 250_000_000_000.0
"""A Unix time in the year 9892."""

_MADE_KEPT: Final = 20_000
_MADE_FOR: Final = 900.0
"""Creations of ours that are remembered, and for how many seconds: for as long as a search takes."""

FetchPage = Callable[[Caller, str], Awaitable[Page]]


class ListTooLong(Lost):
    """The list has more pages than can be searched. Searching again would not help."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The result of one reading: the predictions that are not on record, by id, and how fresh the list was."""

    listed: Mapping[str, ListedPrediction]
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class SearchScope:
    """The predictions that a search must see: those that may be of `target`, created from `since` on (Unix time by
    Replicate's clock). `sent` is when the lost creation was sent, by the loop's clock."""

    target: Target
    sent: float
    since: float


class AccountList:
    """The list of one account. `page(caller, query)` fetches one page of it; `is_known` returns whether an id
    is on record. `learned` are the lags that other processes have measured, by account. Use it on one loop."""

    def __init__(
        self,
        page: FetchPage,
        *,
        is_known: Callable[[str], bool],
        timing: SearchTiming,
        account: str,
        learned: LearnedLags,
    ) -> None:
        self.account = account
        self._page = page
        self._is_known = is_known
        self._timing = timing
        self._made: deque[KnownCreation] = deque(maxlen=_MADE_KEPT)
        self._lags = RecentLags()
        self._learned = learned
        self._next: asyncio.Task[Listing] | None = None
        self._under_way: asyncio.Task[Listing] | None = None
        self._not_before = -math.inf
        self._wanted: list[SearchScope] = []
        """The scopes of the searches that wait for the next reading."""

    def is_idle(self, now: float) -> bool:
        """Whether no reading is under way and no creation of ours is remembered."""
        is_forgotten = not self._made or self._made[-1].known < now - _MADE_FOR
        return self._under_way is None and self._next is None and is_forgotten

    def largest_lag(self, now: float) -> float:
        """The largest lag that this process has measured in the last hour."""
        return self._lags.largest(now, 0.0)

    def record(self, made: KnownCreation) -> None:
        """Remember a creation of ours that is known to exist."""
        self._made.append(made)
        while self._made[0].known < made.known - _MADE_FOR:
            self._made.popleft()

    async def read(self, caller: Caller, wanted: SearchScope) -> Listing:
        """Return the next reading that begins after this call. Raises Refusal, NotSent, Lost or
        ListTooLong."""
        self._wanted.append(wanted)
        if self._next is None:
            self._next = asyncio.create_task(self._read_next(caller, self._under_way))
            self._next.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._next)

    async def aclose(self) -> None:
        """Cancel the readings. All searches must have ended."""
        tasks = [each for each in (self._under_way, self._next) if each is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_next(self, caller: Caller, before: asyncio.Task[Listing] | None) -> Listing:
        """Read the list, after the reading `before` has ended."""
        loop = asyncio.get_running_loop()
        if before is not None:
            await asyncio.wait([before])
        if (wait := self._not_before - loop.time()) > 0:
            await asyncio.sleep(wait)
        self._under_way, self._next = self._next, None
        wanted, self._wanted = self._wanted, []
        began = loop.time()
        found: dict[str, ListedPrediction] = {}
        try:
            pages = await self._read_pages(found, caller, min(each.since for each in wanted))
        finally:
            self._under_way = None
            self._not_before = began + max(self._timing.between, self._timing.per_item * len(found))
        return self._read(found, pages, wanted, began)

    def _read(
        self,
        found: Mapping[str, ListedPrediction],
        pages: Sequence[Collection[str]],
        wanted: Collection[SearchScope],
        began: float,
    ) -> Listing:
        now = asyncio.get_running_loop().time()
        targets = {each.target for each in wanted}
        unknown = {
            identity: item
            for identity, item in found.items()
            if not self._is_known(identity)
            and any(fit_of(target, item.origin) is not Fit.NONE for target in targets)
        }
        reaches_to = min(each.sent for each in wanted) - _REACH
        ours = (each for each in self._made if each.sent >= reaches_to)
        freshness = measure_freshness(ours, pages, self._lags, sent=began, answered=now)
        learned = self._learned.of(self.account, now)
        return Listing(unknown, replace(freshness, largest_lag=max(freshness.largest_lag, learned)))

    async def _read_pages(
        self, found: dict[str, ListedPrediction], caller: Caller, since: float
    ) -> list[Collection[str]]:
        """Add all predictions made since then to `found`, by id. Returns the ids of each page."""
        pages: list[Collection[str]] = []
        query = urlencode({"created_after": _iso_date(since)})
        for _ in range(_PAGES):
            page = await self._page(caller, query)
            before = len(found)
            shown = {item.prediction.id: item for item in page.items}
            pages.append(shown.keys())
            found.update(shown)
            if page.next_query is None or not page.items or page.items[-1].created < since:
                return pages
            if len(found) == before:
                raise Lost("the list repeats itself")
            query = page.next_query
        raise ListTooLong("the list is too long to search")


class AccountLists:
    """The list of each account, by `payer_of`. `page` and `is_known` are as for `AccountList`."""

    def __init__(
        self,
        page: FetchPage,
        *,
        is_known: Callable[[str], bool],
        timing: SearchTiming,
        payer_of: Callable[[Caller], str],
    ) -> None:
        self._page = page
        self._payer_of = payer_of
        self._is_known = is_known
        self._timing = timing
        self._lists: dict[str, AccountList] = {}
        self._learned = LearnedLags()

    def of(self, caller: Caller) -> AccountList:
        """The list of the account that pays for this caller."""
        payer = self._payer_of(caller)
        if payer not in self._lists:
            self._lists = {each: kept for each, kept in self._lists.items() if not kept.is_idle(_now())}
            self._lists[payer] = AccountList(
                self._page,
                is_known=self._is_known,
                timing=self._timing,
                account=caller.account,
                learned=self._learned,
            )
        return self._lists[payer]

    @property
    def lags(self) -> dict[str, float]:
        """By account (`auth.Caller.account`), the largest lag of its list in the last hour, unless it is 0."""
        now, lags = _now(), dict[str, float]()
        for each in self._lists.values():  # an account has two if it became known after the first request
            lags[each.account] = max(lags.get(each.account, 0.0), each.largest_lag(now))
        return {account: lag for account, lag in lags.items() if lag > 0}

    def learn(self, lags: Mapping[str, float]) -> None:
        """Another process has measured these lags, by account."""
        self._learned.learn(lags, _now())

    async def aclose(self) -> None:
        """Cancel all readings. All searches must have ended."""
        for each in self._lists.values():
            await each.aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _iso_date(since: float) -> str:
    """Format a Unix time as a date for Replicate, within the years that a date can have."""
    return datetime.fromtimestamp(min(max(since, 0.0), _LAST), UTC).isoformat().replace("+00:00", "Z")


def _retrieve_exception(task: asyncio.Task[Listing]) -> None:
    """Keep asyncio from logging an error for which no search waits any more."""
    if not task.cancelled():
        task.exception()
