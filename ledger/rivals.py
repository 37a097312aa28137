"""Which attempts of other processes may have made a prediction, by the ledger that they share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from catalog.targets import Target
from ledger.records import AttemptRecord, GenerationRecord


@dataclass(frozen=True, slots=True)
class Rival:
    """An attempt whose creation is in doubt. It was sent at `since` (Unix time), for this `target`
    (`catalog/targets.py`). If it is `suspended`, no process searches for its prediction."""

    since: float
    suspended: bool
    target: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Attempts of others that are in doubt, by reference, and the ids that are on record for any attempt."""

    in_doubt: Mapping[str, Rival] = field(default_factory=dict)
    known: Collection[str] = ()


class OtherAttempts(Protocol):
    """The attempts that all processes have on record."""

    async def look(
        self, account: str, content: str, *, ids: Collection[str] = (), since: float = 0.0
    ) -> Seen:
        """The attempts in doubt of other processes with this input for this account
        (`contract.callers`), for any target, and which of these ids are on
        record for work that has not ended before `since` (Unix time). Raises LedgerDown."""

    async def ours(self, predictions: Mapping[str, str], *, since: float) -> Collection[str]:
        """Those ids of `predictions`, a mapping to the fingerprints of their inputs, that a process has made or may
        have made, for work that has not ended before `since` (Unix time). Raises LedgerDown."""


def target_of(generation: GenerationRecord, attempt: AttemptRecord) -> str:
    """What this attempt of a generation runs (`catalog/targets.py`)."""
    version = generation.version if attempt.model == generation.model else None
    return str(Target(attempt.model, version))
