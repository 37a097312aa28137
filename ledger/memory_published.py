"""The models that were looked up or trained, and their published schemas, in a ledger in memory."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import cast

from ledger.claims import ClaimLookup, EndLookup
from ledger.memory_rows import MemoryRows
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord, TrainedModelRecord
from ledger.tables import MAPPINGS


class MemoryModels(MemoryRows):
    """`ledger.ModelQueries` on `rows`, and the claims of look-ups."""

    def claimed(self, claim: ClaimLookup | EndLookup) -> bool:
        """Make the claim, and return whether it was made."""
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

    def trained_model(self, version: str, *, simulated: bool) -> TrainedModelRecord | None:
        return cast("TrainedModelRecord | None", self.rows[TrainedModelRecord].get((version, simulated)))

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
