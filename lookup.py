"""What the ledger is asked: one generation, a caller's list, what was left unfinished, what it all cost.

Any thread; each question takes a connection of its own for a moment. What was put a moment ago may not be there yet, so
whoever is still alive in this process is asked first (`generation.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, Select, case, func, or_, select, union_all
from sqlalchemy.exc import SQLAlchemyError

from errors import LedgerDown
from tables import BATCHES, DELIVERIES, GENERATIONS, KEYS, META

Row = dict[str, Any]
Grouping = Literal["model", "caller", "day"]

_KEYS_AT_ONCE: Final = 10_000

_G: Final = GENERATIONS.c
_UNFINISHED: Final = _G.ended_at.is_(None)


@dataclass(frozen=True, slots=True)
class Page:
    """Which of a caller's generations are asked for: `before` is the `seq` to begin below, `since` a Unix time."""

    caller: str
    limit: int
    state: str | None = None
    model: str | None = None
    since: float | None = None
    before: int | None = None


class Lookup:
    """Questions to the ledger behind this engine. Every one raises LedgerDown if it cannot be read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generation(self, generation_id: str) -> Row | None:
        return self._one(select(GENERATIONS).where(_G.id == generation_id))

    def batch(self, batch_id: str) -> Row | None:
        return self._one(select(BATCHES).where(BATCHES.c.id == batch_id))

    def of_batch(self, batch_id: str) -> Sequence[Row]:
        """A batch's generations in input order."""
        return self._all(select(GENERATIONS).where(_G.batch == batch_id).order_by(_G.position))

    def members(self, target: str) -> Sequence[Row]:
        """The generation of that id, or those of the batch."""
        return self._all(select(GENERATIONS).where(or_(_G.id == target, _G.batch == target)))

    def delivery(self, target: str) -> Row | None:
        return self._one(select(DELIVERIES).where(DELIVERIES.c.id == target))

    def key(self, caller: str, key: str) -> Row | None:
        """What a caller's idempotency key stands for."""
        return self._one(select(KEYS).where(KEYS.c.caller == caller, KEYS.c.key == key))

    def keys_before(self, since: float) -> Sequence[tuple[str, str, str]]:
        """The keys from before then, some of them: caller, key, and what it stands for."""
        asked = select(KEYS.c.caller, KEYS.c.key, KEYS.c.target).where(KEYS.c.since < since)
        with self._reading() as connection:
            return [
                (caller, key, target)
                for caller, key, target in connection.execute(asked.limit(_KEYS_AT_ONCE))
            ]

    def page(self, wanted: Page) -> Sequence[Row]:
        """A caller's generations, the latest first."""
        found = select(GENERATIONS).where(_G.caller == wanted.caller)
        if wanted.state is not None:
            found = found.where(_G.state == wanted.state)
        if wanted.model is not None:
            found = found.where(_G.model == wanted.model)
        if wanted.since is not None:
            found = found.where(_G.accepted_at >= wanted.since)
        if wanted.before is not None:
            found = found.where(_G.seq < wanted.before)
        return self._all(found.order_by(_G.seq.desc()).limit(wanted.limit))

    def unfinished(self) -> Sequence[Row]:
        """Every generation that has not ended, in the order of acceptance."""
        return self._all(select(GENERATIONS).where(_UNFINISHED).order_by(_G.seq))

    def unfinished_batches(self) -> Sequence[Row]:
        return self._all(select(BATCHES).where(BATCHES.c.ended_at.is_(None)))

    def interrupted(self, before: float) -> Sequence[Row]:
        """What has waited for its owner since before then."""
        return self._all(select(GENERATIONS).where(_UNFINISHED, _G.interrupted_at < before))

    def recent_tries(self, since: float) -> Sequence[str]:
        """The attempts of every generation that ended since then, or has not ended, as they are written."""
        with self._reading() as connection:
            recent = select(_G.tries).where(_G.ended_at >= since)
            return connection.execute(union_all(recent, select(_G.tries).where(_UNFINISHED))).scalars().all()

    def pending_deliveries(self) -> Sequence[Row]:
        return self._all(select(DELIVERIES).where(DELIVERIES.c.state == "pending"))

    def meta(self, name: str) -> bytes | None:
        with self._reading() as connection:
            return connection.execute(select(META.c.value).where(META.c.name == name)).scalar_one_or_none()

    def cost_since(self, since: float, *, simulated: bool) -> float:
        """USD of all that ended since then."""
        cost = func.coalesce(func.sum(_G.cost_usd), 0.0)
        asked = select(cost).where(_G.ended_at >= since, _G.simulated == simulated)
        with self._reading() as connection:
            return float(connection.execute(asked).scalar_one())

    def usage(
        self,
        *,
        by: Grouping | None,
        caller: str | None,
        since: float | None,
        until: float | None,
        simulated: bool,
    ) -> Sequence[Row]:
        """What ended from `since` to before `until`, a row a group, or one for all; of one caller or of everybody."""
        groups = {
            "model": _G.model,
            "caller": _G.caller,
            "day": func.strftime("%Y-%m-%d", _G.ended_at, "unixepoch"),
        }
        group = groups[by].label(by) if by else None
        figures = (
            func.count().label("generations"),
            func.coalesce(func.sum(case((_G.succeeded, 1), else_=0)), 0).label("succeeded"),
            func.coalesce(func.sum(case((_G.state == "failed", 1), else_=0)), 0).label("failures"),
            func.coalesce(func.sum(case((_G.state == "canceled", 1), else_=0)), 0).label("canceled"),
            func.coalesce(func.sum(_G.images), 0).label("images"),
            func.coalesce(func.sum(_G.video_seconds), 0.0).label("video_seconds"),
            func.coalesce(func.sum(_G.cost_usd), 0.0).label("usd"),
            func.coalesce(func.sum(_G.credits), 0).label("credits"),
        )
        asked: Select[Any] = select(*figures) if group is None else select(group, *figures)
        asked = asked.where(_G.ended_at.is_not(None), _G.simulated == simulated)
        if caller is not None:
            asked = asked.where(_G.caller == caller)
        if since is not None:
            asked = asked.where(_G.ended_at >= since)
        if until is not None:
            asked = asked.where(_G.ended_at < until)
        return self._all(asked if group is None else asked.group_by(group).order_by(group))

    def _one(self, asked: Select[Any]) -> Row | None:
        with self._reading() as connection:
            found = connection.execute(asked).mappings().one_or_none()
            return None if found is None else dict(found)

    def _all(self, asked: Select[Any]) -> Sequence[Row]:
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(asked).mappings()]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerDown(
                f"The ledger cannot be read: {getattr(error, 'orig', None) or error}."
            ) from error
