"""The creations of other processes, on the same ledger, that may have made the same prediction as a lost one.

Another process may send the same input for the same account. Its prediction must not be adopted here. So before a
prediction is adopted, the ledger is searched for an attempt that has it on record, and for attempts of other processes
with this input that are in doubt. Such an attempt is on the disk before its creation is sent, so those that made a
listed prediction are in the ledger when the list has been read. Each may still have an answer until the time for that
is over. From then on it counts as uncertain, and all uncertain ones take the listed predictions in the order of their
ids.

A rival with another target and this input is a stranger. It made none of these predictions, but Replicate may show too
little of a prediction to tell whose it is (`matching.py`).
"""

import asyncio
import math
import time
from collections.abc import Collection, Mapping, Set
from typing import Final

from catalog.targets import Target
from ledger.rivals import OtherAttempts, Rival
from providers.replicate.matching import CreationKey

_RECORDED_WITHIN: Final = 10.0
"""Seconds in which an answer that has arrived is in the ledger, or its process is dead and its work taken over."""


class Rivals:
    """The rivals of one lost creation. After each reading of the list, call `look` once, and then `update` until none
    is `pending`. The answer to a rival arrives `answered_within` seconds after it was first seen, or never.

    An uncertain rival that is gone may have adopted the prediction of this creation. `gone_since` is when it was sent,
    by the loop's clock; the calling code resets it."""

    def __init__(
        self,
        elsewhere: OtherAttempts | None,
        account: str,
        key: CreationKey,
        *,
        answered_within: float,
    ) -> None:
        self._elsewhere = elsewhere
        self._account = account
        self._content, self._target = key.content, key.target
        self._answered_within = answered_within + _RECORDED_WITHIN
        self._first_seen: dict[str, float] = {}
        self._present: Mapping[str, Rival] = {}
        self.gone_since = math.inf

    async def look(self) -> None:
        """Note which rivals there are. Raises LedgerDown."""
        if self._elsewhere is None:
            return
        seen = await self._elsewhere.look(self._account, self._content)
        now = _now()
        self._note_gone(seen.in_doubt)
        self._first_seen = {each: self._first_seen.get(each, now) for each in seen.in_doubt}
        self._present = seen.in_doubt

    async def update(self, ids: Collection[str], *, since: float) -> Collection[str]:
        """Returns which of these ids are on record for any attempt, and notes which of those rivals are still in doubt.
        Raises LedgerDown."""
        if self._elsewhere is None:
            return ()
        seen = await self._elsewhere.look(self._account, self._content, ids=ids, since=since)
        self._note_gone(seen.in_doubt)
        self._present = {each: rival for each, rival in seen.in_doubt.items() if each in self._first_seen}
        return seen.known

    def _note_gone(self, in_doubt: Mapping[str, Rival]) -> None:
        for reference, rival in self._present.items():
            is_gone = reference not in in_doubt and not self._may_be_answered(reference, rival)
            if is_gone and self._is_alike(rival):
                sent = min(self._first_seen[reference], _now() - (time.time() - rival.since))
                self.gone_since = min(self.gone_since, sent)

    @property
    def pending(self) -> Set[Target]:
        """The targets of the rivals and strangers that still wait for their answers."""
        return {
            Target.parse(rival.target)
            for reference, rival in self._present.items()
            if self._may_be_answered(reference, rival)
        }

    @property
    def uncertain(self) -> Mapping[str, Rival]:
        """The rivals that may have made a listed prediction, by reference."""
        return {each: rival for each, rival in self._present.items() if self._is_alike(rival)}

    @property
    def strangers(self) -> Set[Target]:
        """The targets of the strangers."""
        return {Target.parse(rival.target) for rival in self._present.values()} - {self._target}

    def _is_alike(self, rival: Rival) -> bool:
        return Target.parse(rival.target) == self._target

    def _may_be_answered(self, reference: str, rival: Rival) -> bool:
        return not rival.suspended and _now() < self._first_seen[reference] + self._answered_within


def _now() -> float:
    return asyncio.get_running_loop().time()
