"""Claims the idempotency keys of a submission, and finds earlier work under them: of the request, or of its items."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from auth import Caller
from errors import LedgerDown
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.finding import Finder
from generations.idempotency import IdempotencyKeys, KeyRequest
from generations.status import Status
from generations.submission import ItemKey, Submission
from generations.suspension import joined_again, made_again
from ledger import Ledger
from parsing.shapes import BatchRequest


class Claims:
    def __init__(self, *, keys: IdempotencyKeys, finder: Finder, status: Status, ledger: Ledger) -> None:
        self._keys = keys
        self._finder = finder
        self._status = status
        self._ledger = ledger

    async def claimed(self, submission: Submission) -> Work | Stored | Submission:
        """The work of the submission's key; or the submission, with the items that are there under the keys of its
        items. Its other keys are claimed for it then: call `settle` or `abandon`.

        Raises IdempotencyConflict and LedgerDown. Then no key is claimed."""
        requested = _requested(submission)
        if not requested:
            return submission
        try:
            known = await self._keys.claim_all(submission.caller.id, requested)
            if submission.key is not None and submission.key in known:
                return await self._existing(submission, known[submission.key])
            return await self._with_joined(submission, known) if known else submission
        except LedgerDown as down:
            # a new exception, since `down` is raised in all tasks that waited for the disk
            unknown = LedgerDown(down.detail)
            unknown.may_be_paid = True  # an earlier request with a key may have been paid
            raise unknown from down

    async def known(self, item_keys: Mapping[int, ItemKey], caller: Caller) -> Mapping[int, str]:
        """The ids of items that are there under these keys, by their places. Claims nothing. Raises as `claimed`."""
        requested = [_of_item(place, each) for place, each in item_keys.items()]
        known = await self._keys.known(caller.id, requested)
        return _by_place(item_keys, known)

    def settle(self, submission: Submission) -> None:
        """Assign the work of an accepted submission to its keys."""
        for each in _requested(submission):
            self._keys.settle(submission.caller.id, each.key)

    def abandon(self, submission: Submission, known: Collection[str] = ()) -> None:
        """Give up the keys that were claimed for a submission, which are not those of `known` items."""
        for each in _requested(submission):
            if each.key not in known:
                self._keys.abandon(submission.caller.id, each.key, each.work_id)

    async def _existing(self, submission: Submission, work_id: str) -> Work | Stored:
        again = made_again(work_id, submission.request)
        found = await self._finder.find(work_id, submission.caller, again)
        if found is None:
            raise LedgerDown(f"The key belongs to {work_id}, which is not in the ledger.")
        if isinstance(found, Batch) and found.joined:
            await self._finder.resume_joined(
                found, submission.caller, joined_again(found.joined, submission.request)
            )
        await self._ledger.flush()  # the first request may not have a response yet
        return found

    async def _with_joined(self, submission: Submission, known: Mapping[str, str]) -> Submission:
        """The submission with the items that have these ids, by their keys, and with the plan of the others."""
        request = submission.request
        assert isinstance(request, BatchRequest)  # noqa: S101 - others have no items
        ids = _by_place(submission.item_keys, known)
        try:
            again = joined_again(ids, request)
            found = await self._finder.items(ids.values(), submission.caller, again)
            forecast = await self._status.forecast(request.without(ids), submission.caller)
        except BaseException:
            self.abandon(submission, known)
            raise
        joined = {place: found[work_id] for place, work_id in ids.items()}
        return replace(submission, joined=joined, plan=forecast.plan)


def _requested(submission: Submission) -> list[KeyRequest]:
    """The keys that it claims: that of itself, and those of its items that are not there yet."""
    requested = [
        _of_item(place, each)
        for place, each in submission.item_keys.items()
        if place not in submission.joined
    ]
    if submission.key is None:
        return requested
    return [KeyRequest(submission.key, submission.fingerprint, submission.id), *requested]


def _of_item(place: int, key: ItemKey) -> KeyRequest:
    return KeyRequest(key.key, key.fingerprint, key.work_id, f"requests[{place}].idempotency_key")


def _by_place(item_keys: Mapping[int, ItemKey], known: Mapping[str, str]) -> dict[int, str]:
    return {place: known[each.key] for place, each in item_keys.items() if each.key in known}
