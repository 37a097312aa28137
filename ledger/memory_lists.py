"""The lists of generations and batches in a ledger in memory."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from contract.states import State
from ledger import Page, Place
from ledger.access_records import ApiKeyRecord
from ledger.memory_rows import MemoryRows
from ledger.records import BatchRecord, GenerationRecord


def joined_by(batch: BatchRecord) -> Collection[str]:
    """The ids of the items that were there before this batch."""
    return json.loads(batch.joined or "{}").values()  # type: ignore[no-any-return]


class MemoryLists(MemoryRows):
    """The queries of lists on `rows`."""

    def page(self, page: Page) -> Sequence[GenerationRecord]:
        found = [
            each
            for each in self.all(GenerationRecord)
            if page.caller_id in {None, each.caller_id}
            and page.state in {None, each.state}
            and page.model in {None, each.model}
            and page.batch_id in {None, each.batch_id}
            and page.kind in {None, each.kind}
            and (page.since is None or each.accepted_at >= page.since)
            and (page.until is None or each.accepted_at < page.until)
            and (page.before is None or (each.seq or 0) < page.before)
            and (page.after is None or (each.seq or 0) > page.after)
            and page.training in {None, each.is_training}
            and (page.prompt is None or page.prompt.lower() in each.prompt.lower())
            and self._is_of_key(each.caller_id, page.key_name)
            and set(page.metadata) <= json.loads(each.metadata or "{}").items()
        ]
        return found[::-1][: page.limit] if page.after is None else found[: page.limit][::-1]

    def batches(
        self, caller_id: str | None, *, key_name: str | None = None, limit: int, before: Place | None = None
    ) -> Sequence[BatchRecord]:
        found = [
            each
            for each in self.all(BatchRecord)
            if caller_id in {None, each.caller_id}
            and self._is_of_key(each.caller_id, key_name)
            and (before is None or (each.accepted_at, each.id) < before)
        ]
        return sorted(found, key=lambda each: (each.accepted_at, each.id), reverse=True)[:limit]

    def batch_states(self, batch_ids: Collection[str]) -> Mapping[str, Mapping[State, tuple[int, float]]]:
        found: defaultdict[str, dict[State, tuple[int, float]]] = defaultdict(dict)
        for each in self.all(GenerationRecord):
            if each.batch_id is not None and each.batch_id in batch_ids:
                count, usd = found[each.batch_id].get(each.state, (0, 0.0))
                found[each.batch_id][each.state] = count + 1, usd + each.cost_usd
        for batch in self.all(BatchRecord):
            for work_id in joined_by(batch) if batch.id in batch_ids else ():
                if (joined := self.rows[GenerationRecord].get((work_id,))) is not None:
                    state = cast("GenerationRecord", joined).state
                    count, usd = found[batch.id].get(state, (0, 0.0))
                    found[batch.id][state] = count + 1, usd
        return found

    def _is_of_key(self, caller_id: str, name: str | None) -> bool:
        """Whether the caller is a key of this name, if one is required."""
        key = self.rows[ApiKeyRecord].get((caller_id,))
        return name is None or (isinstance(key, ApiKeyRecord) and key.name == name)
