"""The claim of a place among the trainings that run at once. All processes on a ledger count them together."""

from dataclasses import dataclass
from typing import Any, Final

from contract.trainings import TRAINING


@dataclass(frozen=True, slots=True)
class ClaimTraining:
    """Mark this unfinished training as being created, if fewer than `most` others are being created or run, in any
    process. Those that a dead process has left count, too, but suspended ones do not. It has its place until a later
    record of it has another state. Such claims are made one after the other."""

    work_id: str
    most: int


TRAINING_PLACE: Final = """
    UPDATE generations SET state = 'submitting'
    WHERE id = ? AND door = ? AND ended_at IS NULL AND (
        SELECT count(*) FROM generations AS other
        WHERE other.ended_at IS NULL AND other.suspended_at IS NULL AND other.door = ?
            AND other.state IN ('submitting', 'running') AND other.id <> ?
    ) < ?
"""


def place_of(claim: ClaimTraining) -> tuple[Any, ...]:
    """The parameters of `TRAINING_PLACE`."""
    return claim.work_id, TRAINING, TRAINING, claim.work_id, claim.most
