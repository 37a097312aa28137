"""The records of generations that end without running, since they cannot be resumed."""

import time
from dataclasses import replace

from contract.states import State
from errors import GenerationFailed, Interrupted, OutcomeUnknown, ServiceError
from generations.attempts import failure
from ledger.records import GenerationRecord


def ended_record(record: GenerationRecord, error: ServiceError, state: State = "failed") -> GenerationRecord:
    """The record of a generation that ends now without running. A prediction that may still run counts as billed."""
    now = time.time()
    may_run = record.state in {"submitting", "running"}
    return replace(
        record,
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


def expired(record: GenerationRecord) -> GenerationRecord:
    """The record of a generation whose owner did not come back in time."""
    if record.cancelled:
        return cancelled(record)
    if record.state == "queued":
        return ended_record(record, Interrupted())
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
    if record.state == "submitting":
        detail += " The service had stopped while its prediction was being created, which may be billed."
    elif record.state == "running":
        detail += f" Its prediction {record.prediction_id} may run until its deadline, and be billed."
    return ended_record(record, GenerationFailed(detail), "canceled")
