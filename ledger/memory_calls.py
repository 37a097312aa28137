"""The past calls in a ledger in memory."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from contract.tasks import CALL_DOORS
from errors import OutcomeUnknown
from ledger import PastCall
from ledger.blanking import BlankTexts, blanked
from ledger.memory_rows import MemoryRows
from ledger.records import AttemptRecord, Delivery, GenerationRecord


class MemoryPastCalls(MemoryRows):
    """The queries about past calls on `rows`."""

    def past_calls(self, since: float, *, simulated: bool) -> Sequence[PastCall]:
        return [
            PastCall(
                caller_id=each.caller_id,
                model=call.model,
                submitted_at=call.submitted_at or 0.0,
                answered_at=call.answered_at,
                ended_at=each.ended_at,
                tokens=call.prompt_tokens or 0,
                usd=each.reserved_usd if call.open else call.cost_usd,
                is_lost=call.open or (call.error is not None and call.error.code == OutcomeUnknown.code),
            )
            for each, call in self._sent(since, simulated)
        ]

    def calls_since(self, moment: float, *, simulated: bool) -> Mapping[tuple[str, str], int]:
        return Counter(
            (each.caller_id, call.model)
            for each, call in self._sent(moment, simulated)
            if (call.submitted_at or 0.0) >= moment
        )

    def kept_texts(self, models: Collection[str], *, since: float, before: float, most: int) -> Sequence[str]:
        pending = {each.id for each in self.all(Delivery) if each.state == "pending"}
        found = [
            each
            for each in self.all(GenerationRecord)
            if each.ended_at is not None
            and since <= each.ended_at < before
            and (each.calls > 0 or each.door in CALL_DOORS or each.model in models)
            and (each.prompt or each.outputs or each.text is not None or (each.error and each.error.problems))
            and not {each.id, each.batch_id} & pending
        ]
        return [each.id for each in sorted(found, key=lambda each: each.ended_at or 0.0)[:most]]

    def blank(self, claim: BlankTexts) -> bool:
        """Remove these texts, and return whether there were such generations."""
        rows = self.rows[GenerationRecord]
        found = [each for each in self.all(GenerationRecord) if each.id in claim.work_ids and each.has_ended]
        rows |= {(each.id,): blanked(each, claim) for each in found}
        return bool(found)

    def _sent(self, since: float, simulated: bool) -> Iterator[tuple[GenerationRecord, AttemptRecord]]:
        for each in self.all(GenerationRecord):
            if each.simulated == simulated and (each.ended_at is None or each.ended_at >= since):
                for call in each.attempts:
                    if call.is_call and call.submitted_at is not None:
                        yield each, call
