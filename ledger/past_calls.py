"""The queries of the ledger in SQL for the calls that still count in the limits of their accounts."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import func, or_, select

from contract.tasks import CALL_DOORS
from errors import OutcomeUnknown
from ledger import PastCall
from ledger.sql_reader import SqlReader
from ledger.tables import ATTEMPTS, DELIVERIES, GENERATIONS

_A, _G = ATTEMPTS.c, GENERATIONS.c
_SENT = (_A.generation_id == _G.id, _A.prompt_tokens.is_not(None), _A.submitted_at.is_not(None))


class SqlPastCalls(SqlReader):
    """The part of `ledger.Queries` about past calls, on a database."""

    def past_calls(self, since: float, *, simulated: bool) -> Sequence[PastCall]:
        columns = (
            _G.caller_id, _A.model, _A.submitted_at, _A.answered_at, _G.ended_at, _A.prompt_tokens,
            _A.cost_usd, _A.open, _A.error_code, _G.reserved_usd,
        )  # fmt: skip
        query = select(*columns).where(*_SENT, _G.simulated == simulated)
        # Two selects and no OR, so that each has its own partial index.
        ended, unfinished = query.where(_G.ended_at >= since), query.where(_G.ended_at.is_(None))
        with self._reading() as connection:
            return [
                PastCall(
                    caller_id=row.caller_id,
                    model=row.model,
                    submitted_at=row.submitted_at,
                    answered_at=row.answered_at,
                    ended_at=row.ended_at,
                    tokens=row.prompt_tokens,
                    usd=row.reserved_usd if row.open else row.cost_usd,
                    is_lost=row.open or row.error_code == OutcomeUnknown.code,
                )
                for row in connection.execute(ended.union_all(unfinished))
            ]

    def kept_texts(self, models: Collection[str], *, since: float, before: float, most: int) -> Sequence[str]:
        pending = select(DELIVERIES.c.id).where(DELIVERIES.c.state == "pending")
        is_of_texts = or_(_G.calls > 0, _G.door.in_(CALL_DOORS), _G.model.in_(models))
        has_texts = or_(
            _G.prompt != "", _G.outputs != "[]", _G.text.is_not(None), _G.error_problems.is_not(None)
        )
        query = (
            select(_G.id)
            .where(_G.ended_at >= since, _G.ended_at < before, is_of_texts, has_texts)
            .where(_G.id.not_in(pending), or_(_G.batch_id.is_(None), _G.batch_id.not_in(pending)))
            .order_by(_G.ended_at)
            .limit(most)
        )
        with self._reading() as connection:
            return connection.scalars(query).all()

    def calls_since(self, moment: float, *, simulated: bool) -> Mapping[tuple[str, str], int]:
        sent = select(_G.caller_id, _A.model, _A.submitted_at).where(
            *_SENT, _G.simulated == simulated, or_(_G.calls > 0, _G.ended_at.is_(None))
        )
        recent = (
            sent.where(_G.ended_at >= moment).union_all(sent.where(_G.ended_at.is_(None))).subquery("recent")
        )
        groups = (recent.c.caller_id, recent.c.model)
        counted = select(*groups, func.count()).where(recent.c.submitted_at >= moment).group_by(*groups)
        with self._reading() as connection:
            return {(caller, model): int(calls) for caller, model, calls in connection.execute(counted)}
