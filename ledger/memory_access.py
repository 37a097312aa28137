"""What a ledger in memory knows of named keys, and of the acts of administrators."""

from collections.abc import Collection, Mapping, Sequence
from typing import cast

from ledger import ActsPage, Place, PresentWork
from ledger.access_records import ApiKeyRecord, AuditRecord
from ledger.claims import ClaimApiKey, written_with
from ledger.memory_rows import MemoryRows
from ledger.recent import as_changes
from ledger.records import GenerationRecord, Record


class MemoryAccess(MemoryRows):
    """`ledger.AccessQueries` on `rows`, and the claims of changes of keys."""

    def changed_key(self, claim: ClaimApiKey) -> bool:
        """Make the claim, and return whether it was made."""
        if claim.record.revision != self.last_key_revision() + 1:
            return False
        for (kind, key), record in as_changes(written_with(claim)).items():
            assert record is not None  # noqa: S101 - a claim deletes no row
            self.rows[kind][key] = record
        return True

    def newest(self, record: Record) -> Record:
        """The record, or that of the same key with a later change."""
        if not isinstance(record, ApiKeyRecord):
            return record
        kept = self.api_key(record.id)
        return record if kept is None or kept.revision < record.revision else kept

    def changed_api_keys(self, revision: int) -> Sequence[ApiKeyRecord]:
        found = [
            each
            for each in self.all(ApiKeyRecord)
            if each.revision > revision and (revision or each.deleted_at is None)
        ]
        return sorted(found, key=lambda each: each.revision)

    def last_key_revision(self) -> int:
        return max((each.revision for each in self.all(ApiKeyRecord)), default=0)

    def api_key(self, key_id: str) -> ApiKeyRecord | None:
        return cast("ApiKeyRecord | None", self.rows[ApiKeyRecord].get((key_id,)))

    def api_keys(self, *, limit: int, before: Place | None = None) -> Sequence[ApiKeyRecord]:
        found = [
            each
            for each in self.all(ApiKeyRecord)
            if each.deleted_at is None and (before is None or (each.created_at, each.id) < before)
        ]
        return sorted(found, key=lambda each: (each.created_at, each.id), reverse=True)[:limit]

    def api_key_names(self, key_ids: Collection[str]) -> Mapping[str, str]:
        return {each.id: each.name for each in self.all(ApiKeyRecord) if each.id in key_ids}

    def present_work(self, caller_id: str, since: float) -> PresentWork:
        every = self.all(GenerationRecord)
        mine = [each for each in every if each.caller_id == caller_id and not each.is_training]
        unfinished = [each for each in mine if each.ended_at is None]
        waiting = sum(each.state == "queued" for each in unfinished)
        created = sum(
            attempt.open if attempt.answered_at is None else attempt.answered_at >= since
            for each in mine
            if each.ended_at is None or each.ended_at >= since
            for attempt in each.attempts
            if attempt.submitted_at is not None
        )
        return PresentWork(len(unfinished) - waiting, waiting, created)

    def acts(self, page: ActsPage) -> Sequence[AuditRecord]:
        found = [
            each
            for each in self.all(AuditRecord)
            if (page.before is None or (each.at, each.id) < page.before)
            and page.actor in {None, each.actor}
            and (page.action is None or f"{each.action}.".startswith(f"{page.action}."))
            and (page.since is None or each.at >= page.since)
        ]
        return sorted(found, key=lambda each: (each.at, each.id), reverse=True)[: page.limit]

    def act(self, act_id: str) -> AuditRecord | None:
        return next((each for each in self.all(AuditRecord) if each.id == act_id), None)
