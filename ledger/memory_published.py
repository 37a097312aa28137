"""What a ledger in memory knows of models that were looked up, their published schemas, and calls that were lost."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from ledger.access_records import LostCallRecord
from ledger.claims import ClaimLookup, EndLookup, TakeLostCall, WaitsElsewhere
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord
from ledger.records import BatchRecord, GenerationRecord, MetaRecord, Record
from ledger.tables import MAPPINGS, Key

R = TypeVar("R", bound=Record)

Rows = dict[type[Record], dict[Key, Record]]


class MemoryRows:
    """The committed records by kind and key."""

    rows: Rows

    def all(self, kind: type[R]) -> list[R]:
        """Every committed record of this kind, in the order of its first commit."""
        return cast("list[R]", list(self.rows[cast("type[Record]", kind)].values()))

    def meta(self, name: str) -> bytes | None:
        """The value of this name."""
        found = cast("MetaRecord | None", self.rows[MetaRecord].get((name,)))
        return found.value if found else None


class MemoryModels(MemoryRows):
    """`ledger.ModelQueries` on `rows`, the claims of look-ups, and calls that were lost."""

    def claimed(self, claim: ClaimLookup | EndLookup | TakeLostCall | WaitsElsewhere) -> bool:
        """Make the claim, and return whether it was made."""
        if isinstance(claim, TakeLostCall):
            return self._taken(claim.lost)
        if isinstance(claim, WaitsElsewhere):
            return self._waits_elsewhere(claim.work_id)
        wanted = claim if isinstance(claim, ClaimLookup) else claim.claim
        record = LookupRecord(wanted.reader, wanted.name, wanted.simulated, wanted.until)
        place = MAPPINGS[LookupRecord].key_of(record)
        kept = cast("LookupRecord | None", self.rows[LookupRecord].get(place))
        if isinstance(claim, EndLookup):
            if kept != record:
                return False
            record = replace(record, until=claim.again_at, is_over=True)
        elif kept is not None and not kept.is_over and kept.until > wanted.now:
            return False
        self.rows[LookupRecord][place] = record
        return True

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

    def known_model(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[ModelRecord]:
        return [
            each for each in self._models(simulated=simulated) if each.name == name and each.reader in readers
        ]

    def known_version(self, readers: Collection[str], version: str, *, simulated: bool) -> ModelRecord | None:
        for each in self._models(simulated=simulated):
            is_of_it = each.version == version and each.name.endswith(f":{version}")
            if is_of_it and each.reader in readers and not each.missing:
                return each
        return None

    def known_models(self, search: str, *, limit: int, simulated: bool) -> Sequence[ModelRecord]:
        words = search.lower().split()
        found = [
            each
            for each in self._models(simulated=simulated)
            if not (each.reader or each.missing or ":" in each.name)
            and all(word in f"{each.name} {each.description}".lower() for word in words)
        ]
        return found[:limit]

    def schema(self, version: str, *, simulated: bool) -> SchemaRecord | None:
        return cast("SchemaRecord | None", self.rows[SchemaRecord].get((version, simulated)))

    def lookups(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[LookupRecord]:
        keys = {(reader, name, simulated) for reader in readers}
        return [each for each in self.all(LookupRecord) if MAPPINGS[LookupRecord].key_of(each) in keys]

    def running_seconds(self, target: str, *, simulated: bool) -> Sequence[float]:
        runs = self.all(RunRecord)
        return [each.seconds for each in runs if (each.target, each.simulated) == (target, simulated)]

    def outdated_models(self, before: float) -> Sequence[ModelRecord | LookupRecord]:
        missing = [each for each in self.all(ModelRecord) if each.missing and each.looked_up_at < before]
        return [*missing, *(each for each in self.all(LookupRecord) if each.until < before)]

    def _models(self, *, simulated: bool) -> list[ModelRecord]:
        """The latest look-up first."""
        found = [each for each in self.all(ModelRecord) if each.simulated == simulated]
        return sorted(found, key=lambda each: (-each.looked_up_at, each.name))
