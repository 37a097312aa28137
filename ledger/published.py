"""The queries of the ledger in SQL for models that were looked up or trained, and their published schemas."""

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import func, not_

from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord, TrainedModelRecord
from ledger.sql_reader import SqlReader
from ledger.tables import LOOKUPS, MODELS, RUNS, SCHEMAS, TRAINED_MODELS

_L: Final = LOOKUPS.c
_M: Final = MODELS.c
_S: Final = SCHEMAS.c
_T: Final = TRAINED_MODELS.c

_LATEST_FIRST: Final = (_M.looked_up_at.desc(), _M.name)

_AT_ONCE: Final = 1_000


class SqlModels(SqlReader):
    """`ledger.ModelQueries` on a database."""

    def known_model(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[ModelRecord]:
        mine = _M.reader.in_(readers), _M.name == name, _M.simulated == simulated
        return self._records(ModelRecord, *mine, order=_LATEST_FIRST)

    def known_version(self, readers: Collection[str], version: str, *, simulated: bool) -> ModelRecord | None:
        mine = _M.reader.in_(readers), _M.version == version, _M.simulated == simulated
        named = _M.name.endswith(f":{version}"), not_(_M.missing)
        return next(iter(self._records(ModelRecord, *mine, *named, order=_LATEST_FIRST, limit=1)), None)

    def known_models(self, search: str, *, limit: int, simulated: bool) -> Sequence[ModelRecord]:
        public = _M.reader == "", _M.simulated == simulated, not_(_M.missing), not_(_M.name.contains(":"))
        text = func.lower(_M.name + " " + _M.description)
        words = [text.contains(word, autoescape=True) for word in search.lower().split()]
        return self._records(ModelRecord, *public, *words, order=_LATEST_FIRST, limit=limit)

    def schema(self, version: str, *, simulated: bool) -> SchemaRecord | None:
        found = self._records(SchemaRecord, _S.version == version, _S.simulated == simulated)
        return next(iter(found), None)

    def lookups(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[LookupRecord]:
        mine = _L.reader.in_(readers), _L.name == name, _L.simulated == simulated
        return self._records(LookupRecord, *mine)

    def trained_model(self, version: str, *, simulated: bool) -> TrainedModelRecord | None:
        found = self._records(TrainedModelRecord, _T.version == version, _T.simulated == simulated)
        return next(iter(found), None)

    def running_seconds(self, target: str, *, simulated: bool) -> Sequence[float]:
        runs = self._records(RunRecord, RUNS.c.target == target, RUNS.c.simulated == simulated)
        return [each.seconds for each in runs]

    def outdated_models(self, before: float) -> Sequence[ModelRecord | LookupRecord]:
        missing = self._records(
            ModelRecord, _M.missing, _M.looked_up_at < before, order=list(MODELS.primary_key), limit=_AT_ONCE
        )
        over = self._records(LookupRecord, _L.until < before, order=list(LOOKUPS.primary_key), limit=_AT_ONCE)
        return [*missing, *over]
