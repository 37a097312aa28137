"""Queries for the attempts of all processes on a ledger."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from sqlalchemy import CompoundSelect, Connection, Engine, case, or_, select
from sqlalchemy.exc import SQLAlchemyError

from catalog.targets import Target
from errors import LedgerDown
from ledger.rivals import Rival, Seen
from ledger.tables import ATTEMPTS, GENERATIONS, of_account
from loop_thread import Pool

_A, _G = ATTEMPTS.c, GENERATIONS.c


class SqlOtherAttempts:
    """`ledger.rivals.OtherAttempts` for the process `process`. The queries run in `threads`."""

    def __init__(self, engine: Engine, process: str, threads: Pool) -> None:
        self._engine = engine
        self._process = process
        self._threads = threads

    async def look(
        self, account: str, content: str, *, ids: Collection[str] = (), since: float = 0.0
    ) -> Seen:
        return await self._threads.run(partial(self._look, account, content, ids, since))

    async def ours(self, predictions: Mapping[str, str], *, since: float) -> Collection[str]:
        return await self._threads.run(partial(self._ours, predictions, since))

    def _ours(self, predictions: Mapping[str, str], since: float) -> Collection[str]:
        contents = set(predictions.values())
        ours = select(_A.prediction_id, _A.fingerprint).where(
            _A.generation_id.in_(_recent(since)),
            or_(_A.prediction_id.in_(list(predictions)), _A.fingerprint.in_(contents)),
        )
        with self._connected() as connection:
            found = {each for row in connection.execute(ours) for each in row}
        return {each for each, content in predictions.items() if each in found or content in found}

    def _look(self, account: str, content: str, ids: Collection[str], since: float) -> Seen:
        version = case((_A.model == _G.model, _G.version))
        in_doubt = select(_A.generation_id, _A.number, _A.submitted_at, _G.process, _A.model, version).where(
            _A.generation_id == _G.id,
            _G.ended_at.is_(None),
            of_account(_G.caller_id, account),
            or_(_G.process.is_(None), _G.process != self._process),
            _A.fingerprint == content,
            _A.open,
            _A.submitted_at.is_not(None),
            _A.prediction_id.is_(None),
        )
        known = select(_A.prediction_id).where(
            _A.generation_id.in_(_recent(since)), _A.prediction_id.in_(ids)
        )
        with self._connected() as connection:
            # Rivals first: if one has its prediction meanwhile, the id is known.
            rivals = {
                f"{generation_id}.{number}": Rival(submitted_at, process is None, str(Target(*target)))
                for generation_id, number, submitted_at, process, *target in connection.execute(in_doubt)
            }
            return Seen(rivals, set(connection.execute(known).scalars()) if ids else ())

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerDown("The database of the ledger failed.") from error


def _recent(since: float) -> CompoundSelect[tuple[str]]:
    """The work that has not ended before. Two selects and no OR, so that each has its own partial index."""
    return select(_G.id).where(_G.ended_at >= since).union_all(select(_G.id).where(_G.ended_at.is_(None)))
