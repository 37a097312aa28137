"""Finds out whether a creation whose answer was lost ever arrived: from Replicate, never by guessing.

It searches the account's recent predictions for the same model and input, created since the request was sent, under
an id that is not on record. It searches several times over some seconds, since the list may lag. Then it counts the
matches:

- At most as many as there are uncertain creations: each of these adopts one. Identical requests make identical
  predictions, so it does not matter which is whose.
- None: the request never arrived and may be sent again. If the process that sent it has died, the request may still be
  on its way, so the search continues until that process would have stopped waiting for the answer.
- More than there are uncertain creations, or the last search failed, or Replicate has deleted the input of a prediction
  from that time (it does so after an hour): the outcome is unknown. The caller gets an error, and nothing is retried.

A match may belong to an identical creation that still waits for its answer, so all such answers are awaited before a
match is adopted. A webhook that names the prediction ends the search.

Inputs are compared by fingerprint, since the ledger keeps no more of an input than that.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import structlog

from auth import Caller
from errors import OutcomeUnknown, ServiceError, UpstreamError
from providers import Prediction, PushedResult, TryAgain, UncertainCreation, fingerprint
from providers.replicate import token_of
from providers.replicate.answers import listed, moment
from providers.replicate.errors import seconds_to_wait, service_error
from providers.replicate.transport import Lost, NotSent, Refusal

SEARCH_PAUSES = (0.5, 1.5, 3.0)
"""Seconds before each search."""

_LATER_PAUSE = 5.0
"""Seconds between two searches while the request may still be on its way."""

CLOCK_SKEW = timedelta(seconds=60)
"""How far Replicate's clock may be from ours."""

PATIENCE = 600.0
"""Seconds to repeat an unanswered search for a creation of an earlier process."""

_PAUSES = (1.0, 30.0)
"""Seconds after an unanswered search, at first and at the most. They double."""

_PAGES = 20
_IDS_KEPT = 50_000

log = structlog.get_logger("replicate")

FetchPage = Callable[[Caller, str], Awaitable[Any]]


class _TooLong(Lost):
    """The list has more pages than can be searched. Searching again would not help."""


class Creations:
    """The creations under way, and the ids on record. `page(caller, query)` fetches one page of the list;
    `pauses` are the seconds before each search."""

    def __init__(self, page: FetchPage, *, pauses: Sequence[float] = SEARCH_PAUSES) -> None:
        self.page = page
        self.pauses = pauses
        self.under_way: set[Creation] = set()
        self._uncertain: dict[str, UncertainCreation] = {}
        self._known_ids: OrderedDict[str, str | None] = OrderedDict()
        """Each with the reference of the attempt it was made by, if that is known."""

    @contextmanager
    def begin(
        self, caller: Caller, model: str, content: str, *, reference: str, since: float
    ) -> Iterator["Creation"]:
        """One creation, from before it is sent, or was at `since` (Unix time, seconds), until it is settled."""
        creation = Creation(self, caller, model, content, reference=reference, since=since)
        self.under_way.add(creation)
        self._uncertain.pop(reference, None)
        try:
            yield creation
        finally:
            self.under_way.discard(creation)
            creation.heard.set()

    def of(self, reference: str) -> "Creation | None":
        """The creation of this attempt, while it is under way."""
        return next((each for each in self.under_way if each.reference == reference), None)

    def register_uncertain(self, creation: UncertainCreation) -> None:
        """A creation of an earlier process that cannot be searched for until its caller comes back."""
        self._uncertain[creation.reference] = creation

    def uncertain_like(self, creation: "Creation") -> int:
        """How many of the uncertain ones may own a prediction that this one could own."""
        earliest = creation.since - 2 * CLOCK_SKEW.total_seconds()
        return sum(
            (each.caller, each.model, each.content) == (creation.caller_id, *creation.content[1:])
            and each.since >= earliest
            for each in self._uncertain.values()
        )

    def is_known(self, prediction_id: str) -> bool:
        return prediction_id in self._known_ids

    def register_known(self, prediction_id: str, reference: str | None = None) -> None:
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
        self.content = (token_of(caller), model, content)
        self.reference = reference
        self.heard = asyncio.Event()
        """Set once no answer will come: the creation is settled, or uncertain."""
        self.pushed: Prediction | None = None
        """The prediction it made, as a webhook showed it."""
        self._search: asyncio.Timeout | None = None
        self._is_unreadable = False
        """Whether a listed prediction may be its own, but has lost the input that would show it."""
        self._latest = datetime.max.replace(tzinfo=UTC)
        """The latest time at which it can have arrived, by Replicate's clock."""
        self.since = since
        self._since = datetime.fromtimestamp(since, UTC) - CLOCK_SKEW
        self._began = _now() - max(0.0, time.time() - since)

    def answered(self, prediction_id: str) -> None:
        """The ordinary end: the answer came."""
        self._creations.register_known(prediction_id, self.reference)

    def receive_push(self, pushed: PushedResult) -> None:
        """A webhook names the prediction, which ends a search. If the creation is answered after all, that counts."""
        is_mine = self.content[1:] == (pushed.model, pushed.content)
        if self.pushed is not None or not is_mine or self._creations.is_known(pushed.prediction.id):
            return
        self.pushed = pushed.prediction
        self._creations.register_known(pushed.prediction.id, self.reference)
        self.heard.set()
        if self._search is not None:
            self._search.reschedule(-math.inf)

    async def find(self, *, patience: float = 0.0, on_its_way: float = 0.0) -> Prediction:
        """The prediction that was created after all. Raises TryAgain when there is none, and OutcomeUnknown when it
        cannot be decided.

        With `patience` (seconds), failed searches are repeated for that long and do not count, and a ServiceError is
        raised when Replicate refuses the account's token. `on_its_way` is how many seconds after its sending the
        request may still arrive.
        """
        self.heard.set()
        self._latest = self._since + timedelta(seconds=on_its_way) + 2 * CLOCK_SKEW
        try:
            async with asyncio.timeout(None) as self._search:
                found = self._pushed_by_now() or await self._found(patience, self._began + on_its_way)
        except (TimeoutError, TryAgain, ServiceError):
            # Pushed, perhaps in the very tick in which the search ended without it.
            if (pushed := self._pushed_by_now()) is None:
                raise
            found = pushed
        finally:
            self._search = None
        log.info("creation_adopted", prediction=found.id, model=self.content[1], caller=self.caller_id)
        return found

    def _pushed_by_now(self) -> Prediction | None:
        return self.pushed and replace(self.pushed, age=self._age())

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
                # The oldest: a later creation may be uncertain, too, and cannot have made it.
                mine = min(candidates, key=lambda identity: matches[identity] or datetime.now(UTC))
                self._creations.register_known(mine, self.reference)
                # Its state is left to a poll, since the list may lag behind.
                return Prediction(mine, "starting", created_at=matches[mine], age=self._age())
        if undecided:
            raise OutcomeUnknown(
                "The connection was lost while the prediction was being created, and whether it was "
                "cannot be told. It is not tried again, since it may have been paid for."
            )
        raise TryAgain(UpstreamError("Replicate did not take the prediction."))

    def _delays(self, arrived_by: float) -> Iterator[float]:
        """Seconds before each search. The last comes once the request must have arrived."""
        yield from self._creations.pauses
        while (left := arrived_by - _now()) > 0:
            yield min(_LATER_PAUSE, left)

    async def _matches(self, give_up: float) -> Mapping[str, datetime | None] | None:
        """The predictions that could be its own, and when each was created. None if no search was answered."""
        pause, longest = _PAUSES
        while True:
            least = 0.0
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
                least = seconds_to_wait(refusal) or 0.0
            except _TooLong:
                return None
            except (NotSent, Lost):
                pass
            wait = max(pause, least)
            if _now() + wait >= give_up:
                return None
            await asyncio.sleep(wait)
            pause = min(2 * pause, longest)

    async def _alike_in_doubt(self) -> int:
        """How many uncertain creations may own a prediction just listed; this one counts unless its result was pushed.

        A creation that begins later owns none of them. It is not awaited, since a stream of such would never end.
        """
        alike = [other for other in self._creations.under_way if other.content == self.content]
        for other in alike:
            await other.heard.wait()
        in_doubt = sum(other in self._creations.under_way and other.pushed is None for other in alike)
        return in_doubt + self._creations.uncertain_like(self)

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
