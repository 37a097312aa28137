"""Whether a creation whose answer was lost ever arrived: asked of Replicate, never guessed.

The account's recent predictions are searched for the same model and input, made since it was sent, under
an id that no answer has told us. Several looks over some seconds, since a list may lag:

- as many as are in doubt, or fewer: each is adopted by one of those in doubt. Identical requests make
  identical predictions, so it does not matter which is whose.
- none: it never arrived, and may be sent again.
- more than are in doubt, or the last look fails: nobody can know. It is told, not retried.

What is found may be that of an identical creation which still waits for its answer, so the answer is
awaited before anybody adopts.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from auth import Caller
from errors import OutcomeUnknown, UpstreamError
from providers import Prediction, TryAgain
from providers.answers import listed, moment
from providers.transport import Lost, NotSent, Refusal

LOOKS = (0.5, 1.5, 3.0)
"""Seconds before each look."""

CLOCK_SKEW = timedelta(seconds=60)
"""How far Replicate's clock may be from ours."""

_PAGES = 20
_IDS_KEPT = 50_000

FetchPage = Callable[[Caller, str], Awaitable[Any]]


class Creations:
    """The creations under way, and the ids we were told. `page(caller, query)` fetches one page of the list;
    `looks` are the seconds before each look."""

    def __init__(self, page: FetchPage, *, looks: Sequence[float] = LOOKS) -> None:
        self.page = page
        self.looks = looks
        self.under_way: set[Creation] = set()
        self._known_ids: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def begin(self, caller: Caller, model: str, sent: Mapping[str, Any]) -> Iterator["Creation"]:
        """One creation, from before it is sent until it is settled."""
        creation = Creation(self, caller, model, sent)
        self.under_way.add(creation)
        try:
            yield creation
        finally:
            self.under_way.discard(creation)
            creation.heard.set()

    def is_known(self, prediction_id: str) -> bool:
        return prediction_id in self._known_ids

    def know(self, prediction_id: str) -> None:
        self._known_ids[prediction_id] = None
        if len(self._known_ids) > _IDS_KEPT:
            self._known_ids.popitem(last=False)


class Creation:
    """One creation, until it is settled."""

    def __init__(self, creations: Creations, caller: Caller, model: str, sent: Mapping[str, Any]) -> None:
        self._creations = creations
        self._caller = caller
        self.content = (caller.token, model, sent)
        self.heard = asyncio.Event()
        """Set once nothing more is to be heard: it is settled, or in doubt."""
        self._since = datetime.now(UTC) - CLOCK_SKEW
        self._began = asyncio.get_running_loop().time()

    def answered(self, prediction_id: str) -> None:
        """The ordinary end: the answer came."""
        self._creations.know(prediction_id)

    async def find(self) -> Prediction:
        """The prediction that was made after all. Raises TryAgain when there is none, OutcomeUnknown."""
        self.heard.set()
        undecided = True
        for delay in self._creations.looks:
            await asyncio.sleep(delay)
            try:
                found = {
                    item["id"]: moment(item.get("created_at"))
                    async for item in self._recent()
                    if self._could_be_mine(item)
                }
            except (Refusal, NotSent, Lost):
                undecided = True
                continue
            in_doubt = await self._alike_in_doubt()
            candidates = [identity for identity in found if not self._creations.is_known(identity)]
            undecided = bool(candidates)
            if 1 <= len(candidates) <= in_doubt:
                mine = candidates[0]
                self._creations.know(mine)
                age = asyncio.get_running_loop().time() - self._began
                # How it stands is left to be looked up: a list may tell less than there is.
                return Prediction(mine, "starting", created_at=found[mine], age=age)
        if undecided:
            raise OutcomeUnknown(
                "The connection was lost while the prediction was being created, and whether it was "
                "cannot be told. It is not tried again, since it may have been paid for."
            )
        raise TryAgain(UpstreamError("Replicate did not take the prediction."))

    async def _alike_in_doubt(self) -> int:
        """How many of those that may own what was just listed are in doubt, this one included.

        Whoever begins later owns none of it and need not be awaited, or a stream of them would never end.
        """
        alike = [other for other in self._creations.under_way if other.content == self.content]
        for other in alike:
            await other.heard.wait()
        return sum(other in self._creations.under_way for other in alike)

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
        raise Lost("the list is too long to search")

    def _could_be_mine(self, item: Mapping[str, Any]) -> bool:
        _, model, sent = self.content
        return (
            isinstance(item.get("id"), str)
            and item.get("model") == model
            and item.get("input") == sent
            and _made(item) >= self._since
        )


def _made(item: Any) -> datetime:
    made = moment(item.get("created_at")) if isinstance(item, dict) else None
    return made or datetime.now(UTC)
