"""Detects that another program creates predictions with the account of the server's token.

There are two signs: Replicate refuses a creation for its rate although our own window has room, or it lists a
prediction that was created after our start but by no generation here. Every page that is read is checked. If
no page was read for a minute, the next poll reads a page, so this costs no request.

A prediction is recognized by its id once its creation is answered, and by its input from before it is sent.
So a prediction whose answer is late or lost is no sign.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import urlencode

import structlog

from auth import Caller
from concurrency import Lease
from errors import LedgerDown
from ledger.rivals import OtherAttempts
from providers import Prediction
from providers.origins import NOTHING_HIDDEN
from providers.replicate.answers import ListedPrediction, Page
from providers.replicate.transport import Refusal

SIGN_LASTS: Final = 600.0
"""Seconds for which a sign counts."""

WARNED_EVERY: Final = 60.0
"""Seconds between two warnings, and seconds without a page after which a poll reads one."""

_LOOK_EVERY: Final = 10.0
"""Seconds between two questions to the ledger, which take time."""

_RECENT: Final = 1800.0
"""Seconds since the end of work to which a listed prediction may belong."""

KEPT: Final = 10_000
"""The number of latest inputs by which creations are recognized."""

_HIDDEN_KEPT: Final = 100
"""The number of latest sets of names of secret inputs."""

T = TypeVar("T")

log = structlog.get_logger("replicate")


class Sharing:
    """Create it on the loop, at the start. `is_known(id)` returns whether a prediction is on record. `elsewhere` are
    the attempts of other processes on the same ledger, if there may be any. Only the admin's calls count."""

    def __init__(self, *, is_known: Callable[[str], bool], elsewhere: OtherAttempts | None = None) -> None:
        self._is_known = is_known
        self._elsewhere = elsewhere
        self._looked_at = -math.inf
        self._started: float | None = None
        with suppress(RuntimeError):  # if it is made before its loop runs, it starts with the first creation
            self._started = _now()
        self._since: datetime | None = None
        """Our start by Replicate's clock; None before the first creation is answered."""
        self._inputs: OrderedDict[str, None] = OrderedDict()
        self._hidden: OrderedDict[frozenset[str], None] = OrderedDict()
        """The names of the secret inputs without which inputs are compared."""
        self._seen_at = self._warned_at = self._listed_at = -math.inf

    @property
    def is_seen(self) -> bool:
        """Whether there was a sign lately."""
        return _now() - self._seen_at < SIGN_LASTS

    def begin(self, content: str, hidden: Collection[str] = ()) -> None:
        """Record that a creation with this input (`providers.fingerprint`) is about to be sent, or may have
        been. This includes users' creations, since a user's token may belong to the server's account. The fingerprint
        is without the inputs named in `hidden`."""
        self._started = _now() if self._started is None else self._started
        _keep(self._inputs, content, KEPT)
        if hidden:
            _keep(self._hidden, frozenset(hidden), _HIDDEN_KEPT)

    def created(self, caller: Caller, prediction: Prediction, *, sent: float) -> None:
        """Record that a creation, sent at `sent` (the loop's clock), was answered with this prediction."""
        if not caller.uses_server_token or prediction.created_at is None:
            return
        if self._since is None and self._started is not None:
            self._listed_at = _now()
            self._since = prediction.created_at - timedelta(seconds=sent - self._started)

    def query(self, caller: Caller) -> str | None:
        """The query of a page to read in place of the next poll, if one is due."""
        if not caller.uses_server_token or self._since is None or _now() - self._listed_at < WARNED_EVERY:
            return None
        self._listed_at = _now()
        return urlencode({"created_after": f"{self._since:%Y-%m-%dT%H:%M:%S.%fZ}"})

    async def listed(self, caller: Caller, page: Page) -> None:
        """Record that a page of the list was read."""
        if not caller.uses_server_token or self._since is None:
            return
        self._listed_at = _now()
        foreign = [item for item in page.items if self._is_foreign(item, self._since)]
        if foreign and not await self._are_ours(foreign):
            self._report("Replicate lists a prediction that this service did not make.")

    def refused(self, caller: Caller, refusal: Refusal, lease: Lease) -> None:
        """Record that a creation was refused. A 429 is a sign if our own window has room."""
        if not caller.uses_server_token or refusal.status != 429 or not lease.window_has_room():
            return
        if "reduced" not in str(refusal.document.get("detail")):
            self._report("Replicate refused a creation for its rate, and our own window has room.")

    async def _are_ours(self, foreign: Sequence[ListedPrediction]) -> bool:
        """Whether other processes made these predictions, or that is not known now."""
        if self._elsewhere is None:
            return False
        if _now() < self._looked_at + _LOOK_EVERY:
            return True
        self._looked_at = _now()
        listed = {item.prediction.id: item.origin.content() or "" for item in foreign}
        try:
            return set(listed) == set(await self._elsewhere.ours(listed, since=time.time() - _RECENT))
        except LedgerDown:
            return True

    def _is_foreign(self, item: ListedPrediction, since: datetime) -> bool:
        listed = item.prediction
        if listed.is_removed or listed.created_at is None or listed.created_at < since:
            return False
        if self._is_known(listed.id) or not item.origin.content():
            return False
        hidden = (NOTHING_HIDDEN, *self._hidden)
        return all(item.origin.content(each) not in self._inputs for each in hidden)

    def _report(self, reason: str) -> None:
        self._seen_at = _now()
        if self._seen_at - self._warned_at >= WARNED_EVERY:
            self._warned_at = self._seen_at
            log.warning("account_shared", reason=reason)


class Unshared:
    """In place of `Sharing`, for creations that are no sign of another program."""

    is_seen = False

    def begin(self, content: str, hidden: Collection[str]) -> None: ...

    def created(self, caller: Caller, prediction: Prediction, *, sent: float) -> None: ...

    def query(self, caller: Caller) -> str | None:  # noqa: ARG002
        return None

    async def listed(self, caller: Caller, page: Page) -> None: ...

    def refused(self, caller: Caller, refusal: Refusal, lease: Lease) -> None: ...


def _keep(latest: OrderedDict[T, None], each: T, most: int) -> None:
    """Add it as the latest, and forget the oldest if there are more than `most`."""
    latest[each] = None
    latest.move_to_end(each)
    if len(latest) > most:
        latest.popitem(last=False)


def _now() -> float:
    return asyncio.get_running_loop().time()
