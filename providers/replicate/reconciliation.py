"""Finds out whether a creation whose answer was lost has arrived at Replicate.

It searches the account's recent predictions for the same target and input, created since the request was sent, under
an id that is not on record. Replicate's clock may differ from ours (`clock.py`), and its list may lag behind
(`absence.py`), so the search continues until it is decided, for ten minutes at the most:

- There are at most as many matches as uncertain creations. Each match is adopted by one of them. Identical
  requests make identical predictions, so any assignment is right. The creation sent first takes the oldest.
- There is no match, and it is proven that the list would show one. The request never arrived and may be sent again.
- There are more matches than uncertain creations, or Replicate has deleted the input of a prediction from that time (it
  does so after an hour), or nothing is proven after ten minutes. The outcome is unknown: the caller gets an error, and
  nothing is retried.

A match may belong to an identical creation that still waits for its answer, so all such answers are awaited before a
match is adopted, also those of other processes (`rivals.py`). A prediction that fits a creation with another target as
well, or better, is contested and not adopted (`matching.py`). A webhook that names the prediction ends the search.

Inputs are compared by fingerprint, since the ledger keeps no more of an input than that.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Final

import structlog

from auth import Caller
from catalog.targets import Target
from contract.callers import account_of
from errors import LedgerDown, OutcomeUnknown, ServiceError, UpstreamError
from ledger.rivals import OtherAttempts
from providers import Measures, Prediction, TryAgain, UncertainCreation
from providers.connections import Lost, NotSent
from providers.pushes import PushedResult
from providers.replicate.absence import Absence, KnownCreation, SearchTiming
from providers.replicate.account_list import (
    AccountList,
    AccountLists,
    FetchPage,
    Listing,
    ListTooLong,
    SearchScope,
)
from providers.replicate.api import CREATE_TIMEOUT
from providers.replicate.clock import UNKNOWN_SKEW, Offset, UpstreamClock, wall_offset
from providers.replicate.errors import seconds_to_wait, service_error
from providers.replicate.known_predictions import KnownPredictions
from providers.replicate.matching import Candidates, CreationKey, Fit, fit_of
from providers.replicate.rivals import Rivals
from providers.replicate.transport import Refusal
from providers.server_tokens import ServerTokens

CLOCK_MARGIN: Final = 60.0
"""Seconds by which Replicate's clock may differ from its measured offset."""

_RIVAL_PAUSE: Final = 1.0
"""Seconds between two looks whether another process has its answer."""

_UNDECIDED: Final = (
    "The connection was lost while the prediction was being created, and it is not known whether it was. "
    "The service does not retry, since the prediction may have been billed."
)

log = structlog.get_logger("replicate")


class Creations(KnownPredictions):
    """The creations under way, and the ids on record. `page(caller, query)` fetches one page of the list;
    `answer_timeout` is how many seconds a creation's answer is awaited. `elsewhere` are the attempts of other processes
    on the same ledger, if there may be any. `payer_of` identifies the account that pays for a caller."""

    def __init__(
        self,
        page: FetchPage,
        *,
        answer_timeout: float = CREATE_TIMEOUT,
        clock: UpstreamClock | None = None,
        timing: SearchTiming | None = None,
        elsewhere: OtherAttempts | None = None,
        payer_of: Callable[[Caller], str] | None = None,
    ) -> None:
        super().__init__()
        self.payer_of = payer_of or ServerTokens(None).payer_of
        self.elsewhere = elsewhere
        self.clock = clock or UpstreamClock()
        self.timing = timing or SearchTiming()
        self.answer_timeout = answer_timeout
        self.under_way: set[Creation] = set()
        self.late: set[Creation] = set()
        """The settled creations whose predictions may still appear (`late_search.py`)."""
        self._lists = AccountLists(page, is_known=self.is_known, timing=self.timing, payer_of=self.payer_of)
        self._uncertain: dict[str, UncertainCreation] = {}

    @contextmanager
    def begin(
        self,
        caller: Caller,
        target: str,
        content: str,
        *,
        reference: str,
        since: float,
        skew: float | None = None,
        hidden: Collection[str] = (),
    ) -> Iterator["Creation"]:
        """One creation, from before it is sent, or was at `since` (Unix time, seconds), until it is settled. `skew` is
        how far Replicate's clock was ahead then, in seconds, if an earlier process sent it and knew. `content` is the
        fingerprint of the input without the inputs `hidden`."""
        key = CreationKey(self.payer_of(caller), Target.parse(target), content, frozenset(hidden))
        creation = Creation(self, caller, key, reference=reference, since=since, skew=skew)
        self.under_way.add(creation)
        self._uncertain.pop(reference, None)
        try:
            yield creation
        finally:
            self.under_way.discard(creation)
            creation.answer_ruled_out.set()

    def by_reference(self, reference: str) -> "Creation | None":
        """The creation of this attempt, while it is under way."""
        return next((each for each in self.under_way if each.reference == reference), None)

    def account_list(self, caller: Caller) -> AccountList:
        """The list of the account that pays for this caller."""
        return self._lists.of(caller)

    @property
    def lags(self) -> dict[str, float]:
        """See `AccountLists`."""
        return self._lists.lags

    def learn(self, measured: Measures) -> None:
        """See `providers.CreationRegistry`."""
        if measured.clock_skew is not None:
            self.clock.learn(measured.clock_skew)
        self._lists.learn(measured.list_lags)

    def register_uncertain(self, creation: UncertainCreation) -> None:
        """A creation of an earlier process that cannot be searched for until its caller comes back."""
        self._uncertain[creation.reference] = creation

    def uncertain_like(self, creation: "Creation") -> dict[str, CreationKey]:
        """The uncertain creations of earlier processes with the same input, by reference."""
        earliest = creation.since - 2 * UNKNOWN_SKEW
        return {
            each.reference: replace(creation.key, target=Target.parse(each.model))
            for each in self._uncertain.values()
            if (account_of(each.caller), each.content) == (creation.account, creation.key.content)
            and each.since >= earliest
        }

    async def aclose(self) -> None:
        """Cancel all readings. All searches must have ended."""
        await self._lists.aclose()


class Creation:
    """One creation, until it is settled."""

    def __init__(
        self,
        creations: Creations,
        caller: Caller,
        key: CreationKey,
        *,
        reference: str,
        since: float,
        skew: float | None,
    ) -> None:
        self._creations = creations
        self._caller = caller
        self.caller_id = caller.id
        self.account = caller.account
        self._key = key
        self.model = str(key.target)
        self.reference = reference
        self.answer_ruled_out = asyncio.Event()
        """Set when the creation is settled or uncertain: no answer will come any more."""
        self.pushed: Prediction | None = None
        """The prediction it made, as a webhook showed it."""
        self.since = since
        self.began = _now() - max(0.0, time.time() - since)
        """The time at which it was sent, by the loop's clock."""
        self.absence = Absence(creations.timing, sent=self.began)
        self._rivals = Rivals(
            creations.elsewhere, caller.account, key, answered_within=creations.answer_timeout
        )
        self._search: asyncio.Timeout | None = None
        self._offset = creations.clock.offset
        """The offset of Replicate's clock when it was sent."""
        if skew is not None:
            sent = since + skew - self.began
            self._offset = Offset(sent, sent)

    @property
    def key(self) -> CreationKey:
        """Its target and input, and its account, which may become known after it was sent."""
        payer = self._creations.payer_of(self._caller)
        return self._key if payer == self._key.account else replace(self._key, account=payer)

    def answered(self, prediction: Prediction) -> None:
        """The creation was answered with this prediction."""
        now = _now()
        self._creations.clock.record_creation(prediction.created_at, sent=self.began, answered=now)
        self._is_made(prediction.id, known=now)

    def receive_push(self, pushed: PushedResult) -> None:
        """A webhook names the prediction; this ends a search. If an answer to the creation arrives after all,
        the answer counts."""
        if self.pushed is not None or not self.is_mine(pushed):
            return
        self.pushed = pushed.prediction
        self._creations.register_known(pushed.prediction.id, self.reference)
        self.answer_ruled_out.set()
        if self._search is not None:
            self._search.reschedule(-math.inf)

    def is_mine(self, pushed: PushedResult) -> bool:
        """Whether this creation may have made this prediction, which is not on record. A webhook was sent to the
        address of this attempt alone, so a doubtful fit is enough if the input is equal."""
        origin, key = pushed.origin, self.key
        is_like_it = fit_of(key.target, origin) is not Fit.NONE and origin.content(key.hidden) == key.content
        return is_like_it and not self._creations.is_known(pushed.prediction.id)

    async def find(self, *, believes_refusals: bool = False) -> Prediction:
        """Search for the prediction that was created after all. Raises TryAgain if there is none, and
        OutcomeUnknown if that cannot be decided in time.

        A search that `believes_refusals` raises a ServiceError when Replicate refuses the account's token."""
        self.answer_ruled_out.set()
        give_up = _now() + self._creations.timing.patience
        try:
            async with asyncio.timeout(None) as self._search:
                found = self._pushed_by_now() or await self._found(give_up, believes_refusals)
        except (TimeoutError, TryAgain, ServiceError):
            # It may be pushed in the same tick in which the search ends without it.
            if (pushed := self._pushed_by_now()) is None:
                raise
            found = pushed
        finally:
            self._search = None
        log.info("creation_adopted", prediction=found.id, model=self.model, caller=self.caller_id)
        return found

    def _is_made(self, prediction_id: str, *, known: float) -> None:
        self._creations.register_known(prediction_id, self.reference)
        self._creations.account_list(self._caller).record(KnownCreation(prediction_id, self.began, known))

    def _pushed_by_now(self) -> Prediction | None:
        return self.pushed and replace(self.pushed, age=self._age())

    def _age(self) -> float:
        return _now() - self.began

    async def _found(self, give_up: float, believes_refusals: bool) -> Prediction:
        began, least = _now(), 0.0
        delays = self._creations.timing.delays(lambda: _now() - began)
        while (left := give_up - _now()) > 0:
            await asyncio.sleep(min(max(next(delays), least), left))
            listing, least = await self.read_list(believes_refusals=believes_refusals)
            if listing is None:
                continue
            is_absent = self.absence.is_proven_by(listing.freshness)
            settled = await self.settle_with_others(listing)
            if settled is None:
                continue
            uncertain, rank = settled
            matches = self.matches(listing)
            if rank < len(matches) <= uncertain:
                return self._adopted(matches[rank], listing)
            if is_absent and not matches and not self._is_undecided(listing):
                raise TryAgain(UpstreamError("Replicate did not create the prediction."))
            if is_absent and (not matches or len(matches) > uncertain):
                break
        raise OutcomeUnknown(_UNDECIDED)

    async def read_list(self, *, believes_refusals: bool = False) -> tuple[Listing | None, float]:
        """The account's list, or None if it cannot be read, and the least number of seconds before the next reading."""
        wanted = SearchScope(self.key.target, self.absence.sent, self._range()[0])
        try:
            return await self._creations.account_list(self._caller).read(self._caller, wanted), 0.0
        except Refusal as refusal:
            if believes_refusals and refusal.status in {401, 403}:
                raise service_error(refusal, self._caller) from None
            return None, seconds_to_wait(refusal) or 0.0
        except ListTooLong:  # wait longer the next time
            raise OutcomeUnknown(_UNDECIDED) from None
        except (NotSent, Lost):
            self.absence.record_failure()
            return None, 0.0

    def _range(self) -> tuple[float, float]:
        """The range of dates (Unix times by Replicate's clock) that its prediction can have if the server did
        not stop. Both the offset known when it was sent and the present one may be right, since a clock may
        have jumped in between."""
        known = [each for each in (self._offset, self._creations.clock.offset) if each is not None]
        margin = CLOCK_MARGIN
        if not known:
            known, margin = [Offset(wall_offset(), wall_offset())], UNKNOWN_SKEW
        earliest = self.absence.sent + min(each.least for each in known) - margin
        latest = self.began + max(each.most for each in known) + margin
        return earliest, latest + self._creations.answer_timeout

    def matches(self, listing: Listing) -> list[Prediction]:
        """The predictions that this creation may adopt, the oldest first."""
        return self._candidates(listing).adoptable(self._others())

    def _is_undecided(self, listing: Listing) -> bool:
        """Whether it may have made a prediction that it cannot adopt."""
        return self._candidates(listing).are_undecided(self._others(), latest=self._range()[1])

    def _candidates(self, listing: Listing) -> Candidates:
        """The predictions that this creation may have made, and that are not on record."""
        earliest, _ = self._range()
        return Candidates(
            self.key,
            listing.listed.values(),
            may_be=lambda each: each.created >= earliest and not self._creations.is_known(each.prediction.id),
        )

    def _others(self) -> list[CreationKey]:
        """What other creations that are not settled have sent, here and elsewhere, if it is not equal."""
        here = chain(self._creations.under_way, self._creations.late)
        unsettled = chain(
            (each.key for each in here if not each.pushed),
            self._creations.uncertain_like(self).values(),
            (replace(self.key, target=each) for each in self._rivals.strangers),
        )
        return [key for key in unsettled if key.may_contest(self.key)]

    def _adopted(self, found: Prediction, listing: Listing) -> Prediction:
        self._is_made(found.id, known=listing.freshness.sent)
        for other in self._creations.under_way - {self}:
            if other.key == self.key and other.answer_ruled_out.is_set():
                other.absence.merge(self.absence)
        # Its state is left to a poll, since the list may lag behind.
        return Prediction(found.id, "starting", created_at=found.created_at, age=self._age())

    async def settle_with_others(self, listing: Listing) -> tuple[int, int] | None:
        """The number of uncertain creations that may have made a prediction just listed, and how many of those that are
        searched for go before this one. This one counts unless its result was pushed. None if that is not known yet.

        It waits until no identical creation awaits its answer, and none that contests a prediction. Creations that
        begin later are not waited for: they made none of the listed predictions, and a stream of them would never end.
        """
        alike = [other for other in self._creations.under_way if other.key == self.key]
        strangers = [other for other in self._creations.under_way if other.key.may_contest(self.key)]
        candidates = self._candidates(listing) if strangers else None
        for other in alike:
            await other.answer_ruled_out.wait()
        for other in strangers:
            if candidates and candidates.may_be_of(other.key):
                await other.answer_ruled_out.wait()
        try:
            if self._creations.elsewhere and not await self._has_settled_with_rivals(listing):
                return None
        except LedgerDown:
            return None
        uncertain = [other for other in alike if other in self._creations.under_way and other.pushed is None]
        rivals = self._rivals.uncertain
        searching = {each for each, rival in rivals.items() if not rival.suspended}
        if searching:  # all processes need one order
            earlier = sum(
                each < self.reference for each in searching | {each.reference for each in uncertain}
            )
        else:
            earlier = sum((each.began, each.reference) < (self.began, self.reference) for each in uncertain)
        like_it = {ref for ref, key in self._creations.uncertain_like(self).items() if key == self.key}
        return len(uncertain) + len(like_it | rivals.keys()), earlier

    async def _has_settled_with_rivals(self, listing: Listing) -> bool:
        """Learn from the ledger whose the listed predictions are, and wait for the answers of other processes. Returns
        whether the evidence of absence still holds. Raises LedgerDown."""
        rivals = self._rivals
        await rivals.look()
        since = self.since - 2 * UNKNOWN_SKEW
        while ids := self._candidates(listing).ids:
            for each in await rivals.update(ids, since=since):
                self._creations.register_known(each)
            candidates = self._candidates(listing)
            if not any(candidates.may_be_of(replace(self.key, target=each)) for each in rivals.pending):
                break
            await asyncio.sleep(_RIVAL_PAUSE)
        if rivals.gone_since == math.inf:
            return True
        # It may have adopted the prediction of this creation. Then the one still missing is the rival's.
        earliest = min(self.absence.sent, rivals.gone_since - CLOCK_MARGIN)
        self.absence, rivals.gone_since = Absence(self._creations.timing, sent=earliest), math.inf
        return False


def _now() -> float:
    return asyncio.get_running_loop().time()
