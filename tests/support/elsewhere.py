"""The attempts of several services in one test, each of which has a ledger in memory of its own."""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from contract.callers import account_of
from ledger.memory import MemoryLedger
from ledger.records import AttemptRecord, GenerationRecord
from ledger.rivals import Rival, Seen, target_of


@dataclass
class MemoryOtherAttempts:
    """`ledger.rivals.OtherAttempts` for the service whose ledger is `own`, among `ledgers`."""

    ledgers: list[MemoryLedger]
    own: MemoryLedger | None = field(default=None)

    async def look(
        self,
        account: str,
        content: str,
        *,
        ids: Collection[str] = (),
        since: float = 0.0,  # noqa: ARG002 - all work is recent
    ) -> Seen:
        await asyncio.sleep(0.01)
        in_doubt = {
            f"{attempt.generation_id}.{attempt.number}": Rival(
                attempt.submitted_at or 0.0, False, target_of(generation, attempt)
            )
            for ledger in self.ledgers
            if ledger is not self.own
            for generation, attempt in _attempts(ledger)
            if generation.ended_at is None
            and attempt.is_in_doubt
            and (account_of(generation.caller_id), attempt.fingerprint) == (account, content)
        }
        await asyncio.sleep(0.01)
        return Seen(in_doubt, set(ids) & {each.prediction_id or "" for each in self._all()})

    async def ours(self, predictions: Mapping[str, str], *, since: float) -> Collection[str]:  # noqa: ARG002
        await asyncio.sleep(0.01)
        known = {each.prediction_id for each in self._all()} | {each.fingerprint for each in self._all()}
        return {each for each, content in predictions.items() if known & {each, content}}

    def _all(self) -> Iterator[AttemptRecord]:
        return (attempt for ledger in self.ledgers for _, attempt in _attempts(ledger))


def _attempts(ledger: MemoryLedger) -> Iterator[tuple[GenerationRecord, AttemptRecord]]:
    for generation in ledger.all(GenerationRecord):
        for attempt in generation.attempts:
            yield generation, attempt
