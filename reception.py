"""Between HTTP's threads and the loop: orders are written up; work is found, told, cancelled and listened to.

Every method may be called on any thread, and waits for the loop where it must.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal

import structlog

from admission.forecast import Plan
from auth import Caller, Doors, Visitor
from callbacks import Callbacks, Delivery
from desk import Desk, Order
from errors import LedgerDown, NotFound, Unauthenticated
from events import Events, Listener
from generation import new_id
from idempotency import body_fingerprint
from intake.attachments import Attachments
from intake.queries import UsageQuery
from intake.shapes import BatchRequest, GenerationRequest
from lookup import Lookup
from loop_thread import LoopThread
from providers import Provider
from providers.webhooks import Untrusted, verified
from records import Batch, Generation, Work
from standing import Standing, ended_of
from store import Ledger
from telling import Recorded, View

_CANCEL_PATIENCE: Final = 10.0
"""Seconds in which what is cancelled usually has ended."""

log = structlog.get_logger("reception")


class Reception:
    """What routes ask for beside the live figures."""

    def __init__(
        self,
        *,
        loop: LoopThread,
        desk: Desk,
        standing: Standing,
        events: Events,
        ledger: Ledger,
        lookup: Lookup,
        provider: Provider,
        callbacks: Callbacks,
        attachments: Attachments,
        doors: Doors,
        simulated: bool,
    ) -> None:
        self._loop = loop
        self._desk = desk
        self._standing = standing
        self._events = events
        self._ledger = ledger
        self._lookup = lookup
        self._provider = provider
        self._callbacks = callbacks
        self._attachments = attachments
        self._doors = doors
        self._simulated = simulated

    def order(
        self,
        kind: Literal["gen", "batch"],
        wanted: GenerationRequest | BatchRequest,
        body: Any,
        *,
        caller: Caller,
        view: View,
        key: str | None,
        seconds: float | None,
        request_id: str,
        plan: Plan | None = None,
    ) -> Order:
        """A request as the desk takes it: with its text, and its files put by. Raises LedgerDown."""
        target = new_id(kind)
        parts = [wanted] if isinstance(wanted, GenerationRequest) else wanted.requests
        shared = () if isinstance(wanted, GenerationRequest) else (wanted.shared,)
        try:
            written = [
                self._attachments.written(target, given)
                for given in (*shared, *(part.given for part in parts))
            ]
        except OSError as error:
            self._attachments.remove(target)
            raise LedgerDown(f"Its images cannot be kept: {error.strerror}. Nothing was spent.") from error
        fingerprint = body_fingerprint(kind, body) if key is not None else ""
        if key is not None and self._simulated:
            key = f"simulated {key}"  # what was simulated is no answer once it is not; no key of theirs has a space
        return Order(
            id=target, wanted=wanted, written=written, plan=plan, caller=caller, request_id=request_id, view=view,
            key=key, fingerprint=fingerprint, seconds=seconds,
        )  # fmt: skip

    def find(self, target: str, visitor: Visitor) -> Work | Recorded:
        """Work by its id, for whoever may see it; its owner brings it back to life if it waits for them. Raises
        NotFound and LedgerDown."""
        work = self._loop.submit(self._desk.look(target, visitor)).result()
        if work is None:
            raise _not_found()
        return work

    def cancel(self, target: str, visitor: Visitor) -> Work | Recorded:
        """Cancel what runs or waits of it, and give back how it stands then. Raises NotFound and LedgerDown."""
        work = self._loop.submit(self._desk.cancel(target, visitor, seconds=_CANCEL_PATIENCE)).result()
        if work is None:
            raise _not_found()
        return work

    def standing(self, work: Work | Recorded, view: View) -> dict[str, Any]:
        """What is told of work now: nothing that is not on the disk yet, as long as the disk can be written."""

        async def told() -> tuple[dict[str, Any], list[int]]:
            body, ended = self._standing.of(work, view), ended_of(work) if isinstance(work, Batch) else []
            with suppress(LedgerDown):
                await self._ledger.synced()
            return body, ended

        body, ended = self._loop.submit(told()).result()
        if isinstance(work, Batch):
            body["results"] = [work.item(index, view) for index in ended]
        delivery = self._delivery(work)
        return body | {"webhook": delivery.as_json()} if delivery else body

    def _delivery(self, work: Work | Recorded) -> Delivery | None:
        """How telling its webhook stands, if it has one; before it has ended it is yet to begin."""
        if work.webhook is None:
            return None
        if (alive := self._callbacks.get(work.id)) is not None:
            return alive
        row = self._lookup.delivery(work.id)
        return Delivery(work.id, work.webhook, since=time.time()) if row is None else Delivery.from_row(row)

    def listen(self, work: Work | Recorded, view: View) -> Listener:
        return self._loop.call(partial(self._events.listen, work, view))

    def unlisten(self, listener: Listener) -> None:
        self._loop.call(partial(self._events.leave, listener))

    def told_by_replicate(
        self, generation_id: str, attempt: str, headers: Mapping[str, str], body: Callable[[], bytes]
    ) -> None:
        """A webhook of Replicate's. Raises Unauthenticated if it is not believed; what it tells of something that is
        not here (any more) is no news, and not even read: anybody may send it."""
        work = self._loop.submit(self._desk.find(generation_id)).result()
        if work is None or isinstance(work, Batch):
            return
        caller = work.caller if isinstance(work, Generation) else self._doors.admin()
        if caller is None or caller.id != work.owner:
            return  # its account cannot be asked for the secret, and it waits for its owner
        secret = self._loop.submit(self._provider.webhook_secret(caller)).result()
        try:
            told = verified(headers, body(), secret)
        except Untrusted as reason:
            log.warning("webhook_refused", generation=generation_id, reason=str(reason))
            raise Unauthenticated("The signature does not hold.") from None
        if not isinstance(work, Generation) or attempt != str(work.attempts):
            return  # over, or about an attempt that is
        if work.prediction_id not in {None, told.prediction.id}:
            return  # signed, but about another prediction than this attempt's
        self._loop.call(partial(self._provider.tell, f"{generation_id}.{attempt}", told))

    def usage(self, asked: UsageQuery, visitor: Visitor) -> dict[str, Any]:
        """What all or one's own generations took and cost."""
        rows, total = (
            self._lookup.usage(
                by=by,
                caller=None if visitor.is_admin else visitor.id,
                since=asked.since,
                until=asked.until,
                simulated=self._simulated,
            )
            for by in (asked.group_by, None)
        )
        figures = [{**row, "usd": round(row["usd"], 6)} for row in (*rows, *total)]
        return {**asked.as_json(), "usage": figures[: len(rows)], "total": figures[-1]}


def _not_found() -> NotFound:
    return NotFound("There is nothing by that id, or it is somebody else's.")
