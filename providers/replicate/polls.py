"""Polls and pages of a list, as the watcher and the searches use them."""

from contextlib import suppress
from datetime import datetime
from urllib.parse import urlencode

from auth import Caller
from concurrency import Gate, Lease
from errors import UpstreamError
from providers import Prediction
from providers.connections import Lost, NotSent, TooLarge
from providers.replicate.answers import Page
from providers.replicate.api import MAX_POLL
from providers.replicate.polling import NoPages, PollFailed
from providers.replicate.refusals import MISSING_PATIENCE, Refusals
from providers.replicate.resources import Resource
from providers.replicate.sharing import Sharing, Unshared
from providers.replicate.transport import MAX_ANSWER, Refusal
from providers.replicate.watcher import shows_result


class Polls:
    """Requests predictions, or trainings, each with a lease of the window `others`. `sharing` sees every page."""

    def __init__(
        self, resource: Resource, *, others: Gate, refusals: Refusals, sharing: Sharing | Unshared
    ) -> None:
        self._resource = resource
        self._others = others
        self._refusals = refusals
        self._sharing = sharing

    async def get(self, caller: Caller, prediction_id: str, lease: Lease) -> Prediction:
        """The prediction as it is now. Raises PollFailed if a later poll may find out more."""
        try:
            if (query := self._sharing.query(caller)) is not None:
                with suppress(Refusal, NotSent, Lost):
                    page = await self._list(caller, query, lease=lease, max_answer=MAX_POLL)
                    found = page.predictions.get(prediction_id)
                    if found is not None and (shows_result(found) or not found.is_over):
                        return found
                with await self._others.acquire(caller.turn, batch="polls") as another:
                    return await self._resource.get(caller, prediction_id, lease=another)
            return await self._resource.get(caller, prediction_id, lease=lease)
        except TooLarge:
            raise PollFailed(
                UpstreamError("Replicate's response was too large."), patience=MISSING_PATIENCE
            ) from None
        except Refusal as refusal:
            raise await self._refusals.poll_error(refusal, caller) from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None

    async def get_page(self, caller: Caller, before: datetime, lease: Lease) -> Page:
        """The latest hundred predictions created before a time. Raises PollFailed and NoPages."""
        query = urlencode({"created_before": before.isoformat().replace("+00:00", "Z")})
        try:
            return await self._list(caller, query, lease=lease, max_answer=MAX_POLL)
        except Refusal as refusal:
            failed = await self._refusals.poll_error(refusal, caller)
            # A final refusal: each prediction is polled by itself, and its answer gives the reason.
            raise failed if isinstance(failed, PollFailed) else NoPages from None
        except TooLarge:
            raise NoPages from None
        except (NotSent, Lost):
            raise PollFailed(UpstreamError()) from None

    async def search(self, caller: Caller, query: str) -> Page:
        """One page of the list. Raises Refusal, NotSent, Lost and TooLarge."""
        return await self._refusals.checked(caller, self._list(caller, query))

    async def _list(
        self, caller: Caller, query: str, *, lease: Lease | None = None, max_answer: int = MAX_ANSWER
    ) -> Page:
        page = await self._resource.list(caller, query, lease=lease, max_answer=max_answer)
        await self._sharing.listed(caller, page)
        return page
