"""The list of an account's predictions, as the searches for lost creations look at it.

All searches of an account share their looks: a search that wants one while another is under way waits for the next.
Each look says how far the list lags behind (`absence.py`), by the creations of ours that it should show.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from auth import Caller
from providers import Prediction, fingerprint
from providers.replicate.absence import Freshness, Lags, Made, SearchTiming, measured
from providers.replicate.answers import listed, moment, read_prediction
from providers.replicate.transport import Lost

_PAGES: Final = 100
"""At the most, in one look: ten minutes of 600 creations, and more."""

_REACH: Final = 30.0
"""Seconds before a lost creation within which each look shows all that the account made."""

_LAST: Final = 250_000_000_000.0
"""A Unix time in the year 9892."""

_MADE_KEPT: Final = 20_000
_MADE_FOR: Final = 900.0
"""Creations of ours that are remembered, and for how many seconds: for as long as a search takes."""

FetchPage = Callable[[Caller, str], Awaitable[Any]]


class TooLong(Lost):
    """The list has more pages than can be searched. Searching again would not help."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A prediction on the list that is not on record. `content` is the fingerprint of its input, None if that is not
    shown. One without an id `has_id` made up here."""

    prediction: Prediction
    model: str
    content: str | None
    has_id: bool = True

    @property
    def made(self) -> float:
        """When, as a Unix time by Replicate's clock. The end of time if it has no date, so that it is not too old."""
        created_at = self.prediction.created_at
        return math.inf if created_at is None else created_at.timestamp()


@dataclass(frozen=True, slots=True)
class Look:
    """The result of one look at the list: the predictions that are not on record, by id, and how fresh the list is."""

    listed: Mapping[str, Listed]
    freshness: Freshness


@dataclass(frozen=True, slots=True)
class Wanted:
    """The predictions that a search wants to see: those of this model made `since` then (Unix time by Replicate's
    clock), for a creation that was `sent` then by the loop's clock."""

    model: str
    sent: float
    since: float


class AccountList:
    """The list of one account. `page(caller, query)` fetches one page of it; `is_known` says whether an id is on
    record. Belongs to one loop."""

    def __init__(self, page: FetchPage, *, is_known: Callable[[str], bool], timing: SearchTiming) -> None:
        self._page = page
        self._is_known = is_known
        self._timing = timing
        self._made: deque[Made] = deque(maxlen=_MADE_KEPT)
        self._lags = Lags()
        self._next: asyncio.Task[Look] | None = None
        self._under_way: asyncio.Task[Look] | None = None
        self._not_before = -math.inf
        self._wanted: list[Wanted] = []
        """By the searches that wait for the next look."""

    def is_idle(self, now: float) -> bool:
        """Whether nothing is remembered that a later search could use."""
        is_forgotten = not self._made or self._made[-1].known < now - _MADE_FOR
        return self._under_way is None and self._next is None and is_forgotten

    def note_made(self, made: Made) -> None:
        """A creation of ours is known to exist."""
        self._made.append(made)
        while self._made[0].known < made.known - _MADE_FOR:
            self._made.popleft()

    async def look(self, caller: Caller, wanted: Wanted) -> Look:
        """A look that begins from now on. Raises Refusal, NotSent, Lost or TooLong."""
        self._wanted.append(wanted)
        if self._next is None:
            self._next = asyncio.create_task(self._turn(caller, self._under_way))
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def aclose(self) -> None:
        """End the looks. No search may be left."""
        looks = [each for each in (self._under_way, self._next) if each is not None]
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def _turn(self, caller: Caller, before: asyncio.Task[Look] | None) -> Look:
        """One look, after the one before."""
        loop = asyncio.get_running_loop()
        if before is not None:
            await asyncio.wait([before])
        if (wait := self._not_before - loop.time()) > 0:
            await asyncio.sleep(wait)
        self._under_way, self._next = self._next, None
        wanted, self._wanted = self._wanted, []
        began = loop.time()
        found: dict[str, Mapping[str, Any]] = {}
        try:
            pages = await self._fill(found, caller, min(each.since for each in wanted))
        finally:
            self._under_way = None
            self._not_before = began + max(self._timing.between, self._timing.per_item * len(found))
        return self._read(found, pages, wanted, began)

    def _read(
        self,
        found: Mapping[str, Any],
        pages: Sequence[Collection[str]],
        wanted: Collection[Wanted],
        began: float,
    ) -> Look:
        now = asyncio.get_running_loop().time()
        models = {each.model for each in wanted}
        unknown = [
            _listed(identity, item)
            for identity, item in found.items()
            if any(item.get("model") == model for model in models) and not self._is_known(identity)
        ]
        reaches_to = min(each.sent for each in wanted) - _REACH
        ours = (each for each in self._made if each.sent >= reaches_to)
        freshness = measured(ours, pages, self._lags, sent=began, answered=now)
        return Look({each.prediction.id: each for each in unknown if each is not None}, freshness)

    async def _fill(
        self, found: dict[str, Mapping[str, Any]], caller: Caller, since: float
    ) -> list[Collection[str]]:
        """Add all that was made since then, by id. Returns the ids of each page."""
        pages: list[Collection[str]] = []
        query = urlencode({"created_after": _written(since)})
        for _ in range(_PAGES):
            page = await self._page(caller, query)
            items = [item for item in listed(page) if isinstance(item, dict)]
            before = len(found)
            shown = {_key(item, before + number): item for number, item in enumerate(items)}
            pages.append(shown.keys())
            found.update(shown)
            following = page.get("next")
            made = moment(items[-1].get("created_at")) if items else None
            if not isinstance(following, str) or not items or (made and made.timestamp() < since):
                return pages
            if len(found) == before:
                raise Lost("the list repeats itself")
            # Only its query: the token would go wherever a `next` points.
            query = following.partition("?")[2]
        raise TooLong("the list is too long to search")


def _written(since: float) -> str:
    """As a date for Replicate, within the years that a date can have, since it depends on Replicate's clock."""
    return datetime.fromtimestamp(min(max(since, 0.0), _LAST), UTC).isoformat().replace("+00:00", "Z")


def _key(item: Mapping[str, Any], number: int) -> str:
    """Its id. A prediction whose id cannot be used is there all the same."""
    identity = item.get("id")
    return identity if isinstance(identity, str) and identity else f"unnamed-{number}"


def _listed(identity: str, item: Mapping[str, Any]) -> Listed | None:
    """None if it cannot be read as a prediction."""
    sent, status = item.get("input"), item.get("status")
    try:
        content = fingerprint(sent) if isinstance(sent, dict) else None
    except (ValueError, RecursionError):
        content = "none that was sent"
    # Of a prediction that cannot be watched yet, the status does not matter.
    status = status if isinstance(status, str) else "starting"
    try:
        prediction = read_prediction({**item, "id": "listed", "status": status})
    except Lost:
        return None
    return Listed(replace(prediction, id=identity), item["model"], content, has_id=identity == item.get("id"))


def _retrieve(look: asyncio.Task[Look]) -> None:
    """All who waited for it may be gone."""
    if not look.cancelled():
        look.exception()
