"""Restores unfinished work from the ledger when the service starts.

Work on the server's token resumes at once. A user's token is never stored. So a user's work is suspended until its
owner sends the token again, with the same idempotency key or to get the work. Work that is not resumed in
time fails as `interrupted`; its prediction at Replicate has ended by its deadline.

Simulated work never resumes as real work, nor real work as simulated.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from auth import Caller
from catalog.model import Model
from contract.door_facts import REPLICATE
from errors import (
    Internal,
    Interrupted,
    InvalidRequest,
    LedgerDown,
    ServiceError,
)
from generations.attempts import Attempt, FinishedAttempt
from generations.batch import Batch
from generations.endings import cancelled, ended_record
from generations.generation import Generation
from generations.joined import items_of_record, joined_ids
from generations.past import answered_ago
from ledger import Queries
from ledger.records import AttemptRecord, BatchRecord, Delivery, GenerationRecord
from ledger.rivals import target_of
from parsing.attachments import Attachments, Gone
from parsing.context import ParseContext
from parsing.generation import names_in, parse_generation
from parsing.shapes import GenerationRequest
from parsing.trainings import parse_training
from providers import Limits, UncertainCreation
from providers.payers import load as load_payers

log = structlog.get_logger("recovery")

_OTHER_MODE: Final = "A simulated generation cannot continue at Replicate, nor a real one at the simulator."

CallerOf = Callable[[str], Caller | None]
"""The caller with this id if its work runs on the server's token, and there is one."""

StoredBatch = tuple[BatchRecord, Sequence[GenerationRecord]]
"""A batch and its generations, in input order."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Work to resume, and `ended` generations, which cannot be resumed."""

    generations: Sequence[Generation]
    batches: Sequence[Batch]
    ended: Sequence[GenerationRecord]

    @property
    def running(self) -> list[Generation]:
        """The generations to resume, including items of batches."""
        items = (item for batch in self.batches for item in batch.items)
        return [each for each in (*self.generations, *items) if isinstance(each, Generation)]

    @property
    def ids(self) -> set[str]:
        """The ids of all generations and batches."""
        return {each.id for work in (self.running, self.batches, self.ended) for each in work}


class Recovery:
    """Makes generations and batches from records. Call it in any thread; it reads uploaded files. `model_of` finds a
    model that is not declared, by its name and the version that was pinned for this caller; None if there is none.
    `trainer_of` finds the trainer of a training so."""

    def __init__(
        self,
        *,
        attachments: Attachments,
        context: ParseContext,
        model_of: Callable[[str, str | None, Caller], Model | None] = lambda *_: None,
        trainer_of: Callable[[str, str | None, Caller], Model | None] = lambda *_: None,
    ) -> None:
        self._attachments = attachments
        self._context = replace(context, accepted=True)
        self._model_of = model_of
        self._trainer_of = trainer_of

    def restore(
        self,
        records: Sequence[GenerationRecord],
        batches: Iterable[StoredBatch],
        caller: Caller,
    ) -> Restored:
        """Restore single generations and whole batches of one caller."""
        ended: list[GenerationRecord] = []
        generations = [self._restored(record, {}, caller, ended) for record in records]
        return Restored(
            [each for each in generations if isinstance(each, Generation)],
            [self._restored_batch(record, items, caller, ended) for record, items in batches],
            ended,
        )

    def _restored_batch(
        self,
        record: BatchRecord,
        items: Sequence[GenerationRecord],
        caller: Caller,
        ended: list[GenerationRecord],
    ) -> Batch:
        try:
            shared = self._attachments.read(record.id, record.request)
        except Gone as gone:
            over = [
                ended_record(item, Interrupted(str(gone))) if _goes_on(item, record) else item
                for item in items
            ]
            ended += [item for item, before in zip(over, items, strict=True) if item is not before]
            return stored_batch(record, over)
        batch = stored_batch(record, items)
        batch.items = [
            self._restored(item, shared, caller, ended) if _goes_on(item, record) else item for item in items
        ]
        return batch

    def _restored(
        self,
        record: GenerationRecord,
        shared: Mapping[str, Any],
        caller: Caller,
        ended: list[GenerationRecord],
    ) -> Generation | GenerationRecord:
        try:
            return self._running(record, shared, caller)
        except Gone as gone:
            error: ServiceError = Interrupted(str(gone))
        except LedgerDown:  # of its uploaded files, for now
            raise
        except InvalidRequest as invalid:  # this version may not have its model
            error = invalid
        except Exception:
            log.exception("generation_not_recoverable", generation=record.id)
            error = Internal()
        ended.append(ended_record(record, error))
        return ended[-1]

    def _running(self, record: GenerationRecord, shared: Mapping[str, Any], caller: Caller) -> Generation:
        if record.request is None:
            raise ValueError("an unfinished generation has its request")
        fields = {**shared, **self._attachments.read(record.batch_id or record.id, record.request)}
        context = self._context_of(fields, record, caller)
        request = replace(
            self._request(fields, context, record, caller),
            warned=record.warnings,
            metadata=json.loads(record.metadata or "{}"),
        )
        known = {each.name: each for each in context.resolved.values() if isinstance(each, Model)}

        def find(name: str) -> Model | None:
            return context.registry.find(name) or known.get(name)

        model = find(record.model) or request.model
        return Generation(
            id=record.id,
            request=request,
            caller=caller,
            request_id=record.request_id,
            accepted_at=0.0,
            address=record.address,
            simulated=record.simulated,
            request_json=record.request,
            batch_id=record.batch_id,
            position=record.position,
            semaphore=record.semaphore,
            secrets_lost=record.has_secrets,
            created_at=record.accepted_at,
            state=record.state if record.has_begun else "queued",
            attempts=[
                _attempt(attempt, request, find(attempt.model) or model)
                for attempt in record.attempts
                if attempt.submitted_at is not None or attempt.error is not None  # otherwise nothing was sent
            ],
            next_model=model,
            queued_seconds=record.queued_seconds,
            predicting_seconds=record.predicting_seconds,
            reserved_usd=record.reserved_usd,
            is_cancelled=record.cancelled,
            door=record.door,
            door_facts=record.door_facts,
            body_fingerprint=record.body_fingerprint,
            verdict=record.verdict,
        )

    def _request(
        self, fields: Mapping[str, Any], context: ParseContext, record: GenerationRecord, caller: Caller
    ) -> GenerationRequest:
        if not record.is_training:
            return parse_generation(fields, context)
        return parse_training(fields, self._trainer_of(record.model, record.version, caller), context)[1]

    def _context_of(
        self, fields: Mapping[str, Any], record: GenerationRecord, caller: Caller
    ) -> ParseContext:
        """What parsing the request again depends on, with the models in it that are not declared."""
        requested = fields.get("model_name")
        texts = self._context.texts
        if texts.find(str(requested)) is not None:  # no other route takes these models
            return replace(self._context, registry=texts, others=self._context.registry)
        found = {
            name: self._model_of(name, record.version if name == requested else None, caller)
            for name in names_in(fields)
        }
        return replace(
            self._context,
            lenient=record.door == REPLICATE,
            resolved={name: each for name, each in found.items() if each is not None},
        )


def _goes_on(item: GenerationRecord, batch: BatchRecord) -> bool:
    """Whether it is an item of its own that the batch goes on with."""
    return item.batch_id == batch.id and not item.has_ended


def _attempt(record: AttemptRecord, request: GenerationRequest, model: Model) -> Attempt | FinishedAttempt:
    if not record.open:
        return FinishedAttempt(model, record)
    step = request.route.step(model) if request.route and model is not request.model else request.first
    return Attempt.resumed(record, replace(step, model=model), request.longest)


def stored_batch(record: BatchRecord, items: Sequence[GenerationRecord]) -> Batch:
    """A batch made from its record."""
    took = None if record.ended_at is None else record.ended_at - record.accepted_at
    return Batch(
        id=record.id,
        caller_id=record.caller_id,
        items=[*items],
        joined=joined_ids(record),
        max_concurrent=record.max_concurrent,
        max_cost=record.max_cost_usd,
        plan=record.plan,
        accepted_at=0.0,
        ended_at=took,
        address=record.address,
        simulated=record.simulated,
        request_json=record.request,
        webhook=record.webhook,
        metadata=record.metadata,
        created_at=record.accepted_at,
        detached=True,
        door=record.door,
        body_fingerprint=record.body_fingerprint,
    )


@dataclass(frozen=True, slots=True)
class StartupState:
    """Unfinished work of earlier processes, from the ledger.

    `restored` is resumed, `suspended` waits for its owners. `answered_ago` are the seconds since the last answers to
    creations (`seconds_since`) of each named key, and of all other callers under None. `prediction_ids` are the latest
    predictions. `uncertain` are creations of suspended work that may have made a prediction. `payers` are rows about
    the tokens that have paid (`providers/payers.py`).
    """

    restored: Restored
    suspended: Sequence[GenerationRecord]
    answered_ago: Mapping[str | None, Sequence[float]]
    prediction_ids: Sequence[str]
    uncertain: Sequence[UncertainCreation]
    deliveries: Sequence[Delivery]
    payers: Mapping[str, bytes]


def load_startup_state(
    queries: Queries,
    recovery: Recovery,
    caller_of: CallerOf,
    *,
    process: str | None = None,
    limits: Limits,
    simulated: bool,
    now: float,
) -> StartupState:
    """Read the unfinished work from the ledger, and restore that of the callers of `caller_of`. If several
    processes share the ledger, this is only work that this `process` has taken over from dead ones.

    Raises LedgerDown."""
    unfinished = queries.unfinished(process)
    ended_now = {
        record.id: ended
        for record in unfinished
        if (ended := _ended_at_startup(record, simulated)) is not None
    }
    records = [record for record in unfinished if record.id not in ended_now]
    restored = _restored(queries, recovery, caller_of, process, records, ended_now)
    suspended = [record for record in records if caller_of(record.caller_id) is None]
    uncertain_since = min((each.since for record in records for each in _uncertain(record)), default=now)
    # If a clock is skewed, a prediction of that time may belong to such a creation, unless another attempt
    # has its id.
    known_since = uncertain_since - 2 * limits.clock_skew
    unfinished_ids = {each for record in records for each in (record.id, record.batch_id) if each}
    return StartupState(
        restored=restored,
        suspended=suspended,
        answered_ago=answered_ago(
            queries, now, {each.id for each in restored.running} | {each.id for each in suspended}
        ),
        prediction_ids=[
            each.prediction_id
            for each in queries.recent_attempts(known_since)
            if each.prediction_id and not each.is_call
        ],
        uncertain=[each for record in suspended for each in _uncertain(record)],
        deliveries=[
            replace(each, taken_at=None)
            for each in queries.pending_deliveries(process)
            if each.id not in unfinished_ids
        ],
        payers=load_payers(queries, simulated=simulated),
    )


def _restored(
    queries: Queries,
    recovery: Recovery,
    caller_of: CallerOf,
    process: str | None,
    records: Sequence[GenerationRecord],
    ended_now: Mapping[str, GenerationRecord],
) -> Restored:
    """The batches whose items have all ended, and the `records` to be resumed, which are of callers on the server's
    token."""
    done: list[Batch] = []
    whole: defaultdict[str, list[StoredBatch]] = defaultdict(list)
    for batch in queries.unfinished_batches(process):
        items = [ended_now.get(item.id, item) for item in items_of_record(queries, batch)]
        if not any(_goes_on(item, batch) for item in items):
            # The mode has changed, a crash came between the end of the last item and that of the batch, or the batch
            # waits only for items that it has joined.
            done.append(stored_batch(batch, items))
        elif caller_of(batch.caller_id) is not None:
            whole[batch.caller_id].append((batch, items))
    in_whole = {batch.id for batches in whole.values() for batch, _ in batches}
    single: defaultdict[str, list[GenerationRecord]] = defaultdict(list)
    for record in records:
        if record.batch_id not in in_whole:
            single[record.caller_id].append(record)
    resumed = [
        recovery.restore(single[caller_id], whole[caller_id], caller)
        for caller_id in {**single, **whole}
        if (caller := caller_of(caller_id)) is not None
    ]
    return Restored(
        [each for one in resumed for each in one.generations],
        [*done, *(each for one in resumed for each in one.batches)],
        [*ended_now.values(), *(each for one in resumed for each in one.ended)],
    )


def _ended_at_startup(record: GenerationRecord, simulated: bool) -> GenerationRecord | None:
    """The record of its end if it cannot be resumed: the service was switched between simulation and Replicate, or it
    was cancelled before anything was sent."""
    if record.simulated != simulated:
        return ended_record(record, Interrupted(_OTHER_MODE))
    return cancelled(record) if record.cancelled and not record.has_begun else None


def _uncertain(record: GenerationRecord) -> Iterator[UncertainCreation]:
    for each in record.attempts:
        if each.is_in_doubt and each.submitted_at is not None:
            attempt_id = f"{record.id}.{each.number}"
            yield UncertainCreation(
                attempt_id, record.caller_id, target_of(record, each), each.fingerprint, each.submitted_at
            )
