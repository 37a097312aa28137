"""A batch while it is in memory, or as it is read from the ledger: its items in input order, and its plan."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from generations import views
from generations.generation import Generation
from ledger.records import BatchRecord, GenerationRecord, PlanRecord

Item = Generation | GenerationRecord


@dataclass(eq=False, slots=True, kw_only=True)
class Batch:
    """Generations that were submitted together. Times are the loop's, in seconds."""

    id: str
    caller_id: str
    items: Sequence[Item]
    max_concurrent: int | None
    max_cost: float | None
    """USD."""
    plan: PlanRecord
    accepted_at: float
    address: str
    simulated: bool
    request_json: str = "{}"
    """The part of the body that its items share, as `Generation.request_json`."""
    webhook: str | None = None
    born: float = field(default_factory=time.time)
    """When it was accepted, as a Unix time."""
    ended_at: float | None = None
    detached: bool = False
    """It continues without a waiting caller, who can fetch it later."""

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    @property
    def expected_cost(self) -> float:
        """USD that it has cost, and may still cost."""
        return sum(
            max(each.cost_usd, each.reserved)
            if isinstance(each, Generation) and not each.has_ended
            else each.cost_usd
            for each in self.items
        )

    def summary(self) -> dict[str, Any]:
        """How far it is, without its results."""
        succeeded = sum(each.succeeded for each in self.items)
        ended = sum(each.has_ended for each in self.items)
        total = len(self.items)
        return {
            "success": succeeded == total,
            "id": self.id,
            "total": total,
            "succeeded": succeeded,
            "failed": ended - succeeded,
            **views.plan(self.plan),
            "actual_seconds": self._seconds(),
            "actual_cost_usd": round(sum(each.cost_usd for each in self.items), 6),
        }

    def item(self, index: int, address: str) -> dict[str, Any]:
        """The result of one item that has ended."""
        return views.item(index, self.items[index].record(), address)

    def result(self, address: str) -> dict[str, Any]:
        """The whole result, once it has ended."""
        results = [self.item(index, address) for index in range(len(self.items))]
        return {**self.summary(), "results": results}

    def record(self) -> BatchRecord:
        return BatchRecord(
            id=self.id,
            caller_id=self.caller_id,
            total=len(self.items),
            request=self.request_json,
            max_concurrent=self.max_concurrent,
            max_cost_usd=self.max_cost,
            webhook=self.webhook,
            plan=self.plan,
            address=self.address,
            simulated=self.simulated,
            accepted_at=self.born,
            ended_at=self.born + self._seconds() if self.has_ended else None,
        )

    def _seconds(self) -> float:
        """Seconds that it took, or has taken so far, to the millisecond, as they are read from its record again."""
        return round(
            time.time() - self.born if self.ended_at is None else self.ended_at - self.accepted_at, 3
        )


Work = Generation | Batch
"""Work held in this process."""


def ended_items(batch: Batch) -> list[int]:
    """The indexes of the items that have ended, in input order."""
    return [index for index, each in enumerate(batch.items) if each.has_ended]
