"""Which attempts of other processes may have made a prediction, by the ledger that they share."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rival:
    """An attempt whose creation is in doubt. It was sent at `since` (Unix time). If it is `suspended`, no process
    searches for its prediction."""

    since: float
    suspended: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """Attempts of others that are in doubt, by reference, and the ids that are on record for any attempt."""

    in_doubt: Mapping[str, Rival] = field(default_factory=dict)
    known: Collection[str] = ()


class OtherAttempts(Protocol):
    """The attempts that all processes have on record."""

    async def look(
        self, caller_id: str, model: str, content: str, *, ids: Collection[str] = (), since: float = 0.0
    ) -> Seen:
        """The attempts in doubt of other processes with this input, and which of these ids are on record for work that
        has not ended before `since` (Unix time). Raises LedgerDown."""

    async def ours(self, predictions: Mapping[str, str], *, since: float) -> Collection[str]:
        """Those ids of `predictions`, a mapping to the fingerprints of their inputs, that a process has made or may
        have made, for work that has not ended before `since` (Unix time). Raises LedgerDown."""
