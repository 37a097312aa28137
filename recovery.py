"""Death and rebirth: what a process left in the ledger, brought back to life in the next.

The admin's work goes on at once. A user's token was never written down, so a user's work waits for its owner: whoever
comes back with it, by the same idempotency key or to look it up, brings the token along. What nobody came back for in
time fails as `interrupted`; a prediction of it that still ran has ended by its deadline at Replicate.

What was simulated never goes on as anything else.
"""

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

import models
from admission.forecast import Plan
from auth import Caller
from callbacks import Delivery
from errors import GenerationFailed, Internal, Interrupted, InvalidRequest, OutcomeUnknown, ServiceError
from intake.attachments import Attachments, Gone
from intake.parsing import Terms, parse_generation
from lookup import Lookup
from providers.reconciliation import CLOCK_SKEW
from providers.replicate import CREATE_TIMEOUT
from records import Batch, Generation
from telling import Recorded, State, View
from tries import Attempt, PastAttempt, Try

log = structlog.get_logger("recovery")

Row = Mapping[str, Any]

_ANOTHER_WORLD: Final = "It was simulated and the service is not any more, or the other way round."

KNOWN_FOR: Final = 2 * CLOCK_SKEW.total_seconds()
"""Seconds before a creation in which predictions are looked at that may be its own, by a clock that is not ours: those
of other attempts must be known."""

SPENT_FOR: Final = 100.0
"""Seconds for which a creation may count in the window: until its answer, and a minute from then."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is to go on, and rows that ended here since they cannot."""

    generations: Sequence[Generation]
    batches: Sequence[Batch]
    lost: Sequence[Row]

    @property
    def ids(self) -> set[str]:
        """Of all of it, the batches too."""
        members = (each for batch in self.batches for each in batch.generations)
        alive = (each.id for each in (*self.generations, *members) if isinstance(each, Generation))
        return {*alive, *(batch.id for batch in self.batches), *(row["id"] for row in self.lost)}


class Recovery:
    """Makes rows of the ledger live again. Any thread."""

    def __init__(self, *, attachments: Attachments, terms: Terms) -> None:
        self._attachments = attachments
        self._terms = terms

    def revived(
        self, rows: Sequence[Row], batches: Iterable[tuple[Row, Sequence[Row]]], caller: Caller
    ) -> Left:
        """Single generations, and batches with all of their generations, of one caller."""
        lost: list[Row] = []
        generations = [self._revived(row, {}, caller, lost) for row in rows]
        return Left(
            [each for each in generations if isinstance(each, Generation)],
            [self.batch(batch, members, caller, lost) for batch, members in batches],
            lost,
        )

    def batch(self, row: Row, members: Sequence[Row], caller: Caller | None, lost: list[Row]) -> Batch:
        """A batch as it stands; without a caller what has not ended of it stays as it is."""
        shared: dict[str, Any] = {}
        if caller is not None and row["ended_at"] is None:
            try:
                shared = self._attachments.read(row["id"], row["request"])
            except Gone as gone:
                over = {
                    each["id"]: ended_as(each, Interrupted(str(gone)))
                    for each in members
                    if each["ended_at"] is None
                }
                members = [over.get(each["id"], each) for each in members]
                lost += over.values()
        took = None if row["ended_at"] is None else row["ended_at"] - row["accepted_at"]
        return Batch(
            id=row["id"],
            generations=[
                self._revived(each, shared, caller, lost)
                if caller is not None and each["ended_at"] is None
                else Recorded.of(each)
                for each in members
            ],
            caller=caller or Caller("user", row["caller"], "unknown"),
            max_concurrent=row["max_concurrent"],
            max_cost=row["max_cost_usd"],
            plan=Plan(**json.loads(row["plan"])),
            accepted_at=0.0,
            ended_at=took,
            view=View(row["simulated"], row["address"]),
            written=row["request"],
            webhook=row["webhook"],
            born=row["accepted_at"],
            is_wanted=True,
        )

    def _revived(
        self, row: Row, shared: Mapping[str, Any], caller: Caller, lost: list[Row]
    ) -> Generation | Recorded:
        try:
            return self._alive(row, shared, caller)
        except Gone as gone:
            error: ServiceError = Interrupted(str(gone))
        except InvalidRequest as invalid:  # this version knows its model no more, say
            error = invalid
        except Exception:
            log.exception("row_not_understood", generation=row["id"])
            error = Internal()
        lost.append(ended_as(row, error))
        return Recorded.of(lost[-1])

    def _alive(self, row: Row, shared: Mapping[str, Any], caller: Caller) -> Generation:
        owner = row["batch"] or row["id"]
        given = {**shared, **self._attachments.read(owner, row["request"])}
        request = parse_generation(given, terms=self._terms)
        facts = json.loads(row["facts"])
        model = models.find(row["model"]) or request.model
        tries: list[Try] = []
        for record in json.loads(row["tries"]):
            if record["submitted_at"] is None and record["told"]["error"] is None:
                continue  # nothing was sent
            tried = models.find(record["told"]["model_name"]) or model
            if not record["open"]:
                tries.append(PastAttempt(tried, record))
                continue
            step = (
                request.route.step(tried) if request.route and tried is not request.model else request.first
            )
            attempt = Attempt(tried, step.input, step.changes)
            attempt.go_on_from(record)
            tries.append(attempt)
        return Generation(
            id=row["id"],
            request=request,
            caller=caller,
            request_id=row["request_id"],
            accepted_at=0.0,
            view=View(row["simulated"], row["address"]),
            written=row["request"],
            batch=row["batch"],
            position=row["position"],
            born=row["accepted_at"],
            state=row["state"],
            tries=tries,
            at=model,
            queued=facts["timing"]["queued"],
            predicting=facts["timing"]["predicting"],
            reserved=row["reserved_usd"],
            is_cancelled=row["cancelled"],
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """A creation that may have been sent at `since`, and whose caller has to come back before that can be asked."""

    reference: str
    caller: str
    model: str
    content: str
    since: float


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a process before this one left: what goes on, and what waits for its owner; how many seconds ago its last
    creations were answered; its latest predictions, and of which creations that wait it is not known whether they made
    any; what it did not deliver; by which ids files may still be needed; and USD that `left.lost` cost."""

    left: Left
    waiting: Sequence[Row]
    answered_ago: Sequence[float]
    prediction_ids: Sequence[str]
    in_doubt: Sequence[Doubt]
    deliveries: Sequence[Delivery]
    files_of: Collection[str]
    lost_usd: float

    @property
    def going_on(self) -> int:
        """How many generations."""
        return len(self.left.ids) - len(self.left.batches) - len(self.left.lost)


def inherit(
    lookup: Lookup, recovery: Recovery, admin: Caller | None, *, simulated: bool, now: float
) -> Inheritance:
    """All that the ledger has for a process that begins. `admin` can pay for the admin's. Raises LedgerDown."""
    unfinished = lookup.unfinished()
    over_now = {row["id"]: row for each in unfinished if (row := _over(each, simulated)) is not None}
    lost = list(over_now.values())
    rows = [row for row in unfinished if row["id"] not in over_now]
    batches = [
        (batch, [over_now.get(each["id"], each) for each in lookup.of_batch(batch["id"])])
        for batch in lookup.unfinished_batches()
    ]
    # Those of the other world, and after a crash between the end of the last item and the batch's own.
    done = [
        recovery.batch(batch, members, None, [])
        for batch, members in batches
        if all(each["ended_at"] is not None for each in members)
    ]
    left, waiting = Left((), done, lost), rows
    if admin is not None:
        over = {batch.id for batch in done}
        whole = [
            (row, members) for row, members in batches if row["caller"] == admin.id and row["id"] not in over
        ]
        in_whole = {row["id"] for row, _ in whole}
        single = [row for row in rows if row["caller"] == admin.id and row["batch"] not in in_whole]
        revived = recovery.revived(single, whole, admin)
        left = Left(revived.generations, [*done, *revived.batches], [*lost, *revived.lost])
        waiting = [row for row in rows if row["caller"] != admin.id]
    doubtful = min((doubt.since for row in rows for doubt in _doubts(row)), default=now)
    unfinished_ids = {each for row in rows for each in (row["id"], row["batch"]) if each}
    return Inheritance(
        left=left,
        waiting=waiting,
        answered_ago=seconds_since(lookup.recent_tries(now - SPENT_FOR), now=now),
        prediction_ids=prediction_ids(lookup.recent_tries(doubtful - KNOWN_FOR)),
        in_doubt=[doubt for row in waiting for doubt in _doubts(row)],
        deliveries=[
            Delivery.from_row(row) for row in lookup.pending_deliveries() if row["id"] not in unfinished_ids
        ],
        files_of=unfinished_ids,
        lost_usd=sum(row["cost_usd"] for row in left.lost if row["simulated"] == simulated),
    )


def _over(row: Row, simulated: bool) -> dict[str, Any] | None:
    """How it has ended, if nobody can go on with it, or nobody wants it and nothing of it runs."""
    if row["simulated"] != simulated:
        return ended_as(row, Interrupted(_ANOTHER_WORLD))
    return cancelled(row) if row["cancelled"] and row["state"] == "queued" else None


def _doubts(row: Row) -> Iterator[Doubt]:
    for number, record in enumerate(json.loads(row["tries"]), 1):
        if record["open"] and record["told"]["prediction_id"] is None:
            model, since = record["told"]["model_name"], record["submitted_at"]
            yield Doubt(f"{row['id']}.{number}", row["caller"], model, record["content"], since)


def ended_as(row: Row, error: ServiceError, state: State = "failed") -> dict[str, Any]:
    """A row whose generation ended like this without having lived here. What runs of it, or may, counts as billed."""
    now, facts = time.time(), json.loads(row["facts"])
    may_run = row["state"] in {"submitting", "running"}
    cost = max(row["cost_usd"], row["reserved_usd"]) if may_run else row["cost_usd"]
    facts |= {"status": state, "error": error.as_item(), "cost_usd": cost}
    facts["timing"]["total"] = round(now - row["accepted_at"], 3)
    return dict(row) | {
        "state": state,
        "request": None,
        "ended_at": now,
        "interrupted_at": None,
        "facts": json.dumps(facts),
        "cost_usd": cost,
        "reserved_usd": 0.0,
    }


def given_up(row: Row) -> dict[str, Any]:
    """A row that nobody came back for."""
    if row["cancelled"]:
        return cancelled(row)
    if row["state"] == "queued":
        return ended_as(row, Interrupted())
    if row["state"] == "submitting":
        return ended_as(row, OutcomeUnknown("The service stopped while its prediction was being created."))
    return ended_as(
        row, Interrupted(f"Its prediction {_prediction(row)} ended without us, and may have been billed.")
    )


def cancelled(row: Row) -> dict[str, Any]:
    """A row that somebody cancels who cannot cancel its prediction: that takes its owner's token."""
    detail = "It was cancelled."
    if row["state"] == "submitting":
        detail += " The service had stopped while its prediction was being created, which may be billed."
    elif row["state"] == "running":
        detail += f" Its prediction {_prediction(row)} may run until its deadline, and be billed."
    return ended_as(row, GenerationFailed(detail), "canceled")


def _prediction(row: Row) -> str | None:
    prediction_id: str | None = json.loads(row["facts"])["prediction_id"]
    return prediction_id


def seconds_since(tries: Iterable[str], *, now: float) -> list[float]:
    """Of the attempts of the last minutes, as they are written: how long ago each creation was answered. What a dead
    process had on its way may still arrive, for as long as that would have waited for the answer: less than none."""
    return [
        max(0.0, now - record["answered_at"])
        if record["answered_at"] is not None
        else -max(0.0, record["submitted_at"] + CREATE_TIMEOUT - now)
        for written in tries
        for record in json.loads(written)
        if record["submitted_at"] is not None and now - record["submitted_at"] < SPENT_FOR
    ]


def prediction_ids(tries: Iterable[str]) -> list[str]:
    return [
        record["told"]["prediction_id"]
        for written in tries
        for record in json.loads(written)
        if record["told"]["prediction_id"] is not None
    ]
