"""A batch in memory or from the ledger: its items in input order, its plan, and its response body."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog.prices import weakest
from generations import views
from generations.generation import Generation, Item
from generations.joined import joined_json
from generations.submission import Submission
from ledger.records import BatchRecord, GenerationRecord, PlanRecord
from parsing.shapes import BatchRequest, metadata_json


@dataclass(eq=False, slots=True, kw_only=True)
class Batch:
    """Generations that were submitted together, and those that it has `joined`: ids by their places (`joined.py`).

    `accepted_at` and `ended_at` are times of the loop, `created_at` is the Unix time of acceptance. `max_cost` is USD,
    and `metadata` a JSON object. `request_json` is the part of the request that all items share. The other fields are
    those of a `Generation`.
    """

    id: str
    caller_id: str
    items: list[Item]
    max_concurrent: int | None
    max_cost: float | None
    plan: PlanRecord
    accepted_at: float
    address: str
    simulated: bool
    request_json: str = "{}"
    webhook: str | None = None
    metadata: str | None = None
    created_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    detached: bool = False
    door: str | None = None
    body_fingerprint: str | None = None
    joined: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        submission: Submission,
        request: BatchRequest,
        items: list[Item],
        *,
        request_json: str,
        accepted_at: float,
    ) -> "Batch":
        """The batch of a submission that is accepted."""
        assert submission.plan is not None  # noqa: S101 - every batch has one
        return cls(
            id=submission.id,
            caller_id=submission.caller.id,
            items=items,
            max_concurrent=request.max_concurrent,
            max_cost=request.max_cost,
            plan=submission.plan,
            accepted_at=accepted_at,
            address=submission.address,
            simulated=submission.simulated,
            request_json=request_json,
            webhook=request.webhook,
            metadata=metadata_json(request.metadata),
            door=submission.door,
            body_fingerprint=submission.body_fingerprint,
            created_at=submission.submitted_at,
            detached=submission.detached or request.webhook is not None,
            joined={place: each.id for place, each in submission.joined.items()},
        )

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    @property
    def expected_cost(self) -> float:
        """USD that it has cost so far and may still cost at the most."""
        return sum(
            each.cost_usd if each.has_ended else max(each.cost_usd, each.reserved_usd)
            for each in own_items(self)
        )

    def summary(self) -> dict[str, Any]:
        """Its body without the results."""
        succeeded = sum(each.succeeded for each in self.items)
        ended = sum(each.has_ended for each in self.items)
        total, own = len(self.items), own_items(self)
        return {
            "success": succeeded == total,
            "id": self.id,
            "total": total,
            "succeeded": succeeded,
            "failed": ended - succeeded,
            **views.plan(self.plan),
            "actual_seconds": self._seconds(),
            "actual_cost_usd": round(sum(each.cost_usd for each in own), 6),
            "cost_basis": weakest((each.cost_basis or "declared" for each in own), "declared"),
            **views.joined(self.joined),
            **views.metadata(self.metadata),
            **views.call_totals(self.door, total=total, succeeded=succeeded, failed=ended - succeeded),
        }

    def item(self, index: int, address: str) -> dict[str, Any]:
        """The result of one item that has ended."""
        body = views.item(index, self.items[index].record(), address)
        return body | {"joined": True} if index in self.joined else body

    def result(self, address: str) -> dict[str, Any]:
        """The body of a batch that has ended."""
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
            metadata=self.metadata,
            plan=self.plan,
            address=self.address,
            simulated=self.simulated,
            accepted_at=self.created_at,
            door=self.door,
            body_fingerprint=self.body_fingerprint,
            joined=joined_json(self.joined),
            ended_at=self.created_at + self._seconds() if self.has_ended else None,
        )

    def _seconds(self) -> float:
        """Seconds from acceptance to the end, or until now, rounded to milliseconds as in its record."""
        took = time.time() - self.created_at if self.ended_at is None else self.ended_at - self.accepted_at
        return round(took, 3)


Work = Generation | Batch
"""Work that runs in this process, or has run in it."""


def items_of(work: Work | GenerationRecord) -> Sequence[Item]:
    """The generations of a batch, or the one generation itself."""
    return work.items if isinstance(work, Batch) else (work,)


def own_items(work: Work | GenerationRecord) -> Sequence[Item]:
    """The same without the items that a batch has joined."""
    if not isinstance(work, Batch) or not work.joined:
        return items_of(work)
    return [each for place, each in enumerate(work.items) if place not in work.joined]


def in_memory(work: Work) -> list[Generation]:
    """The generations of the work, without those that are only in the ledger or that a batch has joined."""
    return [each for each in own_items(work) if isinstance(each, Generation)]


def unfinished(work: Work) -> list[Generation]:
    """The generations of the work in memory that have not ended."""
    return [each for each in in_memory(work) if not each.has_ended]
