"""The queries of the ledger in SQL for named keys, and for the acts of administrators."""

from collections.abc import Collection, Mapping, Sequence
from operator import eq, ge
from typing import Final

from sqlalchemy import and_, func, or_, select

from ledger import ActsPage, Place, PresentWork
from ledger.access_records import ApiKeyRecord, AuditRecord
from ledger.sql_reader import SqlReader, after, conditions_of
from ledger.tables import API_KEYS, ATTEMPTS, AUDIT, GENERATIONS, IS_NO_TRAINING

_A: Final = AUDIT.c
_G: Final = GENERATIONS.c
_K: Final = API_KEYS.c
_T: Final = ATTEMPTS.c


class SqlAccess(SqlReader):
    """`ledger.AccessQueries` on a database."""

    def changed_api_keys(self, revision: int) -> Sequence[ApiKeyRecord]:
        present = () if revision else (_K.deleted_at.is_(None),)
        return self._records(ApiKeyRecord, _K.revision > revision, *present, order=(_K.revision,))

    def last_key_revision(self) -> int:
        with self._reading() as connection:
            return connection.scalar(select(func.max(_K.revision))) or 0

    def api_key(self, key_id: str) -> ApiKeyRecord | None:
        return next(iter(self._records(ApiKeyRecord, _K.id == key_id)), None)

    def api_keys(self, *, limit: int, before: Place | None = None) -> Sequence[ApiKeyRecord]:
        later = after(before, _K.created_at, _K.id)
        order = _K.created_at.desc(), _K.id.desc()
        return self._records(ApiKeyRecord, _K.deleted_at.is_(None), *later, order=order, limit=limit)

    def api_key_names(self, key_ids: Collection[str]) -> Mapping[str, str]:
        names = select(_K.id, _K.name).where(_K.id.in_(key_ids))
        with self._reading() as connection:
            return {row.id: row.name for row in connection.execute(names)}

    def present_work(self, caller_id: str, since: float) -> PresentWork:
        # Not by the index of callers, since a caller may have millions of rows.
        mine = and_(_G.caller_id.op("||")("") == caller_id, IS_NO_TRAINING)
        unfinished = select(_G.id, _G.state).where(_G.ended_at.is_(None), mine)
        recent = unfinished.union_all(select(_G.id, _G.state).where(_G.ended_at >= since, mine)).subquery()
        created = (
            select(func.count())
            .select_from(ATTEMPTS.join(recent, recent.c.id == _T.generation_id))
            .where(or_(_T.answered_at >= since, and_(_T.answered_at.is_(None), _T.open)))
            .where(_T.submitted_at.is_not(None))
        )
        counts = unfinished.subquery()
        with self._reading() as connection:
            states = connection.execute(select(counts.c.state, func.count()).group_by(counts.c.state)).all()
            number = connection.scalar(created) or 0
        by_state = {row[0]: row[1] for row in states}
        waiting = by_state.pop("queued", 0)
        return PresentWork(sum(by_state.values()), waiting, number)

    def acts(self, page: ActsPage) -> Sequence[AuditRecord]:
        conditions = [*after(page.before, _A.at, _A.id)]
        conditions += conditions_of((_A.actor, eq, page.actor), (_A.at, ge, page.since))
        if (action := page.action) is not None:
            conditions.append(or_(_A.action == action, _A.action.startswith(f"{action}.", autoescape=True)))
        return self._records(AuditRecord, *conditions, order=(_A.at.desc(), _A.id.desc()), limit=page.limit)

    def act(self, act_id: str) -> AuditRecord | None:
        return next(iter(self._records(AuditRecord, _A.id == act_id)), None)
