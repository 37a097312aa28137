"""The records of generations that end without running, since they cannot be resumed."""

import time
from dataclasses import replace

from contract.states import State
from errors import GenerationFailed, Interrupted, OutcomeUnknown, ServiceError
from generations.attempts import failure
from generations.call_state import STOPPED
from generations.generation import counts_of
from ledger.records import AttemptRecord, GenerationRecord
from providers.calls import CallLost


def ended_record(record: GenerationRecord, error: ServiceError, state: State = "failed") -> GenerationRecord:
    """The record of a generation that ends now without running. A prediction that may still run counts as billed."""
    now = time.time()
    may_run = record.has_begun
    attempts = _closed(record)
    return replace(
        record,
        attempts=attempts,
        **counts_of(attempts),
        state=state,
        request=None,
        ended_at=now,
        suspended_at=None,
        total_seconds=round(now - record.accepted_at, 3),
        error=failure(error),
        cost_usd=max(record.cost_usd, record.reserved_usd) if may_run else record.cost_usd,
        cost_basis="bounded" if may_run and record.cost_basis == "learned" else record.cost_basis,
        reserved_usd=0.0,
    )


def _closed(record: GenerationRecord) -> tuple[AttemptRecord, ...]:
    """The attempts, without an open call: its answer is lost, and it counts as what was reserved for it."""
    most = max(0.0, record.reserved_usd - sum(each.cost_usd for each in record.attempts))
    lost = failure(CallLost(STOPPED))
    return tuple(
        replace(each, open=False, error=lost, cost_usd=round(most, 6)) if each.open and each.is_call else each
        for each in record.attempts
    )


def expired(record: GenerationRecord) -> GenerationRecord:
    """The record of a generation whose owner did not come back in time."""
    if record.cancelled:
        return cancelled(record)
    if not record.has_begun:
        return ended_record(record, Interrupted())
    if (last := record.last_called) is not None and last.is_call:
        return ended_record(record, CallLost(STOPPED))
    if record.state == "submitting":
        return ended_record(
            record, OutcomeUnknown("The service stopped while it was creating the prediction.")
        )
    return ended_record(
        record,
        Interrupted(
            f"Prediction {record.prediction_id} was not watched to its end, and may have been billed."
        ),
    )


def cancelled(record: GenerationRecord) -> GenerationRecord:
    """The record of a generation that is cancelled without its owner's token, so not at Replicate."""
    detail = "The generation was cancelled."
    is_call = any(each.is_call for each in record.attempts)
    if is_call and record.state != "queued":
        detail += " Whether it had begun is not known: it may be billed."
    elif record.state == "submitting" and record.has_begun:
        detail += " The service had stopped while its prediction was being created, which may be billed."
    elif record.state == "running" and record.is_training:
        detail += f" Its training {record.prediction_id} may run to its end, and be billed."
    elif record.state == "running":
        detail += f" Its prediction {record.prediction_id} may run until its deadline, and be billed."
    return ended_record(record, GenerationFailed(detail), "canceled")
