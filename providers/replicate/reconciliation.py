"""Whether a creation whose answer was lost ever arrived: asked of Replicate, never guessed.

The account's recent predictions are searched for the same model and input, made since it was sent, under
an id that is not on record. Several looks over some seconds, since a list may lag:

- as many as are in doubt, or fewer: each is adopted by one of those in doubt. Identical requests make
  identical predictions, so it does not matter which is whose.
- none: it never arrived, and may be sent again. A process that died may have left it on its way, so the next one looks
  again until it would have given up waiting for the answer.
- more than are in doubt, or the last look fails, or Replicate has thrown away what one of that time was asked for (it
  does after an hour): nobody can know. It is told, not retried.

What is found may be that of an identical creation which still waits for its answer, so the answer is
awaited before anybody adopts. A webhook may name the prediction while it is searched for, and ends the search.

Inputs are compared by their fingerprints: that is all that is left of one when the process died that sent it.
"""

import asyncio
import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from auth import Caller
from errors import OutcomeUnknown, ServiceError, UpstreamError
from providers import Prediction, Told, TryAgain
from providers.replicate.answers import listed, moment
from providers.replicate.errors import seconds_to_wait, service_error
from providers.replicate.transport import Lost, NotSent, Refusal

LOOKS = (0.5, 1.5, 3.0)
"""Seconds before each look."""

_LATER_LOOKS = 5.0
"""Seconds between looks for what may still be on its way."""

CLOCK_SKEW = timedelta(seconds=60)
"""How far Replicate's clock may be from ours."""

PATIENCE = 600.0
"""Seconds to go on looking for what an earlier process was creating while no look is answered."""

_PAUSES = (1.0, 30.0)
"""Seconds after such a look, at first and at the most; it doubles."""

_PAGES = 20
_IDS_KEPT = 50_000

FetchPage = Callable[[Caller, str], Awaitable[Any]]


class _TooLong(Lost):
    """The list goes on for longer than can be searched, and will tomorrow."""


def fingerprint(sent: Mapping[str, Any]) -> str:
    """What an input is known by, here and in any other process: alike whatever the order of its keys, and whether
    a whole number is written 3 or 3.0. Raises RecursionError for what is nested too deep to be read."""
    # Read again, so that every float passes by, however deep: Replicate may give back 3 for 3.0.
    alike = json.loads(json.dumps(dict(sent)), parse_float=_number)
    return hashlib.sha256(json.dumps(alike, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Creations:
    """The creations under way, and the ids on record. `page(caller, query)` fetches one page of the list;
    `looks` are the seconds before each look."""

    def __init__(self, page: FetchPage, *, looks: Sequence[float] = LOOKS) -> None:
        self.page = page
        self.looks = looks
        self.under_way: set[Creation] = set()
        self._lost: dict[str, tuple[tuple[str, str, str], float]] = {}
        self._known_ids: OrderedDict[str, str | None] = OrderedDict()
        """Each with the reference of the attempt it was made by, if that is known."""

    @contextmanager
    def begin(
        self, caller: Caller, model: str, content: str, *, reference: str, since: float
    ) -> Iterator["Creation"]:
        """One creation, from before it is sent, or was at `since` (Unix time, seconds), until it is settled."""
        creation = Creation(self, caller, model, content, reference=reference, since=since)
        self.under_way.add(creation)
        self._lost.pop(reference, None)
        try:
            yield creation
        finally:
            self.under_way.discard(creation)
            creation.heard.set()

    def of(self, reference: str) -> "Creation | None":
        """The creation of this attempt, while it is under way."""
        return next((each for each in self.under_way if each.reference == reference), None)

    def lose(self, reference: str, caller_id: str, model: str, content: str, *, since: float) -> None:
        """One that an earlier process was about to send at `since`, and that nobody can ask after yet."""
        self._lost[reference] = (caller_id, model, content), since

    def lost_like(self, creation: "Creation") -> int:
        """How many of those may own what this one could own."""
        earliest = creation.since - 2 * CLOCK_SKEW.total_seconds()
        return sum(
            lost == (creation.caller_id, *creation.content[1:]) and since >= earliest
            for lost, since in self._lost.values()
        )

    def is_known(self, prediction_id: str) -> bool:
        return prediction_id in self._known_ids

    def know(self, prediction_id: str, reference: str | None = None) -> None:
        self._known_ids[prediction_id] = reference
        if len(self._known_ids) > _IDS_KEPT:
            self._known_ids.popitem(last=False)

    def may_be(self, prediction_id: str, reference: str) -> bool:
        """Whether the attempt of this reference may have made it, since no other is known to have."""
        return self._known_ids.get(prediction_id) in {None, reference}


class Creation:
    """One creation, until it is settled."""

    def __init__(
        self,
        creations: Creations,
        caller: Caller,
        model: str,
        content: str,
        *,
        reference: str,
        since: float,
    ) -> None:
        self._creations = creations
        self._caller = caller
        self.caller_id = caller.id
        self.content = (caller.token, model, content)
        self.reference = reference
        self.heard = asyncio.Event()
        """Set once nothing more is to be heard: it is settled, or in doubt."""
        self.told: Prediction | None = None
        """The prediction it made, as a webhook told it."""
        self._search: asyncio.Timeout | None = None
        self._is_unreadable = False
        """Whether something was listed that may be its own, and does not say so any more."""
        self._latest = datetime.max.replace(tzinfo=UTC)
        """When it would have arrived at the latest, by Replicate's clock."""
        self.since = since
        self._since = datetime.fromtimestamp(since, UTC) - CLOCK_SKEW
        self._began = _now() - max(0.0, time.time() - since)

    def answered(self, prediction_id: str) -> None:
        """The ordinary end: the answer came."""
        self._creations.know(prediction_id, self.reference)

    def tell(self, told: Told) -> None:
        """A webhook says what it made. Whatever the answer will say counts for more; a search ends with it."""
        is_mine = self.content[1:] == (told.model, told.content)
        if self.told is not None or not is_mine or self._creations.is_known(told.prediction.id):
            return
        self.told = told.prediction
        self._creations.know(told.prediction.id, self.reference)
        self.heard.set()
        if self._search is not None:
            self._search.reschedule(-math.inf)

    async def find(self, *, patience: float = 0.0, on_its_way: float = 0.0) -> Prediction:
        """The prediction that was made after all. Raises TryAgain when there is none, OutcomeUnknown.

        With `patience` (seconds), looks that fail are made again so long, and do not count; and when the account
        may not be searched at all, that ServiceError is raised. For so many seconds after it was sent, it may still be
        `on_its_way`.
        """
        self.heard.set()
        self._latest = self._since + timedelta(seconds=on_its_way) + 2 * CLOCK_SKEW
        try:
            async with asyncio.timeout(None) as self._search:
                return self._told_of() or await self._found(patience, self._began + on_its_way)
        except (TimeoutError, TryAgain, ServiceError):
            # Told, perhaps in the very tick in which the search ended without it.
            if (told := self._told_of()) is None:
                raise
            return told
        finally:
            self._search = None

    def _told_of(self) -> Prediction | None:
        return self.told and replace(self.told, age=self._age())

    def _age(self) -> float:
        return _now() - self._began

    async def _found(self, patience: float, arrived_by: float) -> Prediction:
        give_up = _now() + patience
        undecided = True
        for delay in self._delays(arrived_by):
            await asyncio.sleep(delay)
            matches = await self._matches(give_up)
            if matches is None:
                undecided = True
                continue
            in_doubt = await self._alike_in_doubt()
            candidates = [identity for identity in matches if not self._creations.is_known(identity)]
            undecided = bool(candidates) or self._is_unreadable
            if 1 <= len(candidates) <= in_doubt:
                # The oldest: what was sent later than this may be in doubt, too, and cannot have made it.
                mine = min(candidates, key=lambda identity: matches[identity] or datetime.now(UTC))
                self._creations.know(mine, self.reference)
                # How it stands is left to be looked up: a list may tell less than there is.
                return Prediction(mine, "starting", created_at=matches[mine], age=self._age())
        if undecided:
            raise OutcomeUnknown(
                "The connection was lost while the prediction was being created, and whether it was "
                "cannot be told. It is not tried again, since it may have been paid for."
            )
        raise TryAgain(UpstreamError("Replicate did not take the prediction."))

    def _delays(self, arrived_by: float) -> Iterator[float]:
        """Seconds before each look; the last is not before everything has arrived."""
        yield from self._creations.looks
        while (left := arrived_by - _now()) > 0:
            yield min(_LATER_LOOKS, left)

    async def _matches(self, give_up: float) -> Mapping[str, datetime | None] | None:
        """The predictions that could be its own, and when each was made. None if no look was answered."""
        pause, longest = _PAUSES
        while True:
            asked_for = 0.0
            try:
                found: dict[str, datetime | None] = {}
                self._is_unreadable = False
                async for item in self._recent():
                    if self._could_be_mine(item):
                        found[item["id"]] = moment(item.get("created_at"))
                    self._is_unreadable = self._is_unreadable or self._was_perhaps_mine(item)
                return found
            except Refusal as refusal:
                if _now() < give_up and refusal.status in {401, 403}:
                    raise service_error(refusal, self._caller) from None
                asked_for = seconds_to_wait(refusal) or 0.0
            except _TooLong:
                return None
            except (NotSent, Lost):
                pass
            wait = max(pause, asked_for)
            if _now() + wait >= give_up:
                return None
            await asyncio.sleep(wait)
            pause = min(2 * pause, longest)

    async def _alike_in_doubt(self) -> int:
        """How many of those that may own what was just listed are in doubt, this one included unless it was told.

        Whoever begins later owns none of it and need not be awaited, or a stream of them would never end.
        """
        alike = [other for other in self._creations.under_way if other.content == self.content]
        for other in alike:
            await other.heard.wait()
        in_doubt = sum(other in self._creations.under_way and other.told is None for other in alike)
        return in_doubt + self._creations.lost_like(self)

    async def _recent(self) -> AsyncIterator[Mapping[str, Any]]:
        query = urlencode({"created_after": self._since.isoformat().replace("+00:00", "Z")})
        for _ in range(_PAGES):
            page = await self._creations.page(self._caller, query)
            items = listed(page)
            for item in items:
                if isinstance(item, dict):
                    yield item
            following = page.get("next")
            if not isinstance(following, str) or not items or _made(items[-1]) < self._since:
                return
            # Only its query: the token would go wherever a `next` points.
            query = following.partition("?")[2]
        raise _TooLong("the list is too long to search")

    def _could_be_mine(self, item: Mapping[str, Any]) -> bool:
        _, model, content = self.content
        sent = item.get("input")
        if item.get("model") != model or not isinstance(sent, dict) or _made(item) < self._since:
            return False
        try:
            return isinstance(item.get("id"), str) and fingerprint(sent) == content
        except (ValueError, RecursionError):
            return False

    def _was_perhaps_mine(self, item: Mapping[str, Any]) -> bool:
        return (
            item.get("data_removed") is True
            and item.get("model") == self.content[1]
            and self._since <= _made(item) <= self._latest
            and not self._creations.is_known(str(item.get("id")))
        )


def _made(item: Any) -> datetime:
    made = moment(item.get("created_at")) if isinstance(item, dict) else None
    return made or datetime.now(UTC)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
