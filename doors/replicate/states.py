"""What predictions and trainings of Replicate's API have in common: their states, times, figures and inputs.

Facts: recorded answers, and Replicate's OpenAPI document.
"""

import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ledger.records import GenerationRecord

Body = dict[str, Any]

_STATUSES: Final = {"queued": "starting", "submitting": "starting", "running": "processing"}
"""Replicate's words for our states. The others are the same."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_REDACTED: Final = "[REDACTED]"

_LONGEST_DATA: Final = 10_000
"""The most characters of a `data:` URI that is shown whole."""


def status(record: GenerationRecord) -> str:
    """Its state in Replicate's word."""
    return _STATUSES.get(record.state, record.state)


def error(record: GenerationRecord) -> str | None:
    """Why it failed; None if it did not."""
    return record.error.detail if record.error is not None and record.state == "failed" else None


def times(record: GenerationRecord) -> Body:
    """The dates of its acceptance, its start and its end, and its metrics."""
    return {
        "created_at": timestamp(record.accepted_at),
        "started_at": _started_at(record),
        "completed_at": None if record.ended_at is None else timestamp(record.ended_at),
        "metrics": _metrics(record),
    }


def timestamp(moment: float) -> str:
    """A Unix time in Replicate's format: ISO 8601, UTC, microseconds, rounded down."""
    date = _EPOCH + timedelta(microseconds=math.floor(moment * 1e6))
    return date.isoformat(timespec="microseconds").replace("+00:00", "Z")


def shown_input(sent: Mapping[str, Any], secrets: Collection[str]) -> Body:
    """The input of a caller as answers show it. Secrets are replaced, and long `data:` URIs lose their content."""
    return {name: _REDACTED if name in secrets else _shortened(value) for name, value in sent.items()}


def _started_at(record: GenerationRecord) -> str | None:
    if record.state in {"queued", "submitting"} or (record.has_ended and not record.predicting_seconds):
        return None
    return timestamp(record.accepted_at + record.queued_seconds)


def _metrics(record: GenerationRecord) -> Body:
    if not record.has_ended:
        return {}
    total = {"total_time": record.total_seconds}
    return {"predict_time": record.predicting_seconds, **total} if record.predicting_seconds else total


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    if isinstance(value, str) and len(value) > _LONGEST_DATA and value[:5].lower() == "data:":
        return f"{value.partition(',')[0][:200]},…"
    return value
