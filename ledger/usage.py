"""Usage in memory: the figures of `GET /usage` as sums over records."""

from collections.abc import Sequence
from typing import Any

from ledger import DAY
from ledger.records import GenerationRecord, UsageRecord
from ledger.tables import FIGURES


def usage_of(record: GenerationRecord) -> UsageRecord:
    """What one generation adds to the usage of its day."""
    return UsageRecord(
        day=int((record.ended_at or 0.0) // DAY),
        caller_id=record.caller_id,
        model=record.model,
        simulated=record.simulated,
        generations=1,
        succeeded=int(record.state == "succeeded"),
        failures=int(record.state == "failed"),
        canceled=int(record.state == "canceled"),
        images=record.images,
        video_seconds=record.video_seconds,
        usd=record.cost_usd,
        credits=record.credits,
    )


def figures(records: Sequence[UsageRecord]) -> dict[str, Any]:
    """The sum of each figure."""
    return {name: sum(getattr(each, name) for each in records) for name in FIGURES}
