"""The lost calls in a ledger in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ledger.access_records import LostCallRecord
from ledger.claims import TakeLostCall, WaitsElsewhere
from ledger.memory_rows import MemoryRows
from ledger.records import BatchRecord, GenerationRecord
from ledger.tables import MAPPINGS


class MemoryLostCalls(MemoryRows):
    """The queries about lost calls on `rows`, and their claims."""

    def claimed_call(self, claim: TakeLostCall | WaitsElsewhere) -> bool:
        """Make the claim, and return whether it was made."""
        if isinstance(claim, TakeLostCall):
            return self._taken(claim.lost)
        return self._waits_elsewhere(claim.work_id)

    def _taken(self, lost: LostCallRecord) -> bool:
        """Delete the row of a lost call, and return whether it was there."""
        place = MAPPINGS[LostCallRecord].key_of(lost)
        if self.rows[LostCallRecord].get(place) != lost:
            return False
        del self.rows[LostCallRecord][place]
        return True

    def lost_calls(
        self, caller_id: str | None = None, body_fingerprint: str | None = None
    ) -> Sequence[LostCallRecord]:
        return [
            each
            for each in self.all(LostCallRecord)
            if caller_id in {None, each.caller_id} and body_fingerprint in {None, each.body_fingerprint}
        ]

    def may_be_left(
        self,
        caller_id: str,  # noqa: ARG002
        body_fingerprint: str,  # noqa: ARG002
        *,
        process: str | None,  # noqa: ARG002
        seconds: float,  # noqa: ARG002
    ) -> bool:
        return False  # it knows no processes

    def _waits_elsewhere(self, work_id: str) -> bool:
        for kind in (GenerationRecord, BatchRecord):
            found = cast("GenerationRecord | BatchRecord | None", self.rows[kind].get((work_id,)))
            if found is not None:
                self.rows[kind][work_id,] = replace(found, body_fingerprint=None)
                return True
        return False
