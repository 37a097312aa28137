"""Reads the rows of models that were looked up.

It keeps the rows that it read last, as a cache of the ledger, in which other processes write, too. A fresh row is used
without another query: until it is stale, no process looks its model up again for this reader (`published_models.py`).
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

from auth import Caller
from contract.callers import account_of
from generations.archive import Archive
from ledger.model_records import ModelRecord
from providers.models import ModelFacts


class ModelRows:
    """At most `most` rows are kept, by reader and name. A row may be used while it `is_fresh`. Use it on the
    loop."""

    def __init__(
        self, archive: Archive, *, simulated: bool, is_fresh: Callable[[ModelRecord], bool], most: int
    ) -> None:
        self._archive = archive
        self._simulated = simulated
        self._is_fresh = is_fresh
        self._most = most
        self._kept: OrderedDict[tuple[str, str], ModelRecord] = OrderedDict()

    async def latest(self, readers: Sequence[str], name: str) -> ModelRecord | None:
        """The latest row of this name that one of these readers may see. Raises LedgerDown."""
        kept = [
            each for reader in readers if (each := self._kept.get((reader, name))) and self._is_fresh(each)
        ]
        if kept:
            return self._used(max(kept, key=lambda each: each.looked_up_at))
        rows = await self._archive.read(
            lambda queries: queries.known_model(readers, name, simulated=self._simulated)
        )
        if not rows or rows[0].missing:
            return next(iter(rows), None)
        return self._used(rows[0])

    def drop(self, reader: str, name: str) -> None:
        """Forget a row that is deleted from the ledger."""
        self._kept.pop((reader, name), None)

    def clear(self) -> None:
        """Forget all rows."""
        self._kept.clear()

    def _used(self, row: ModelRecord) -> ModelRecord:
        self._kept[row.reader, row.name] = row
        self._kept.move_to_end((row.reader, row.name))
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return row


def reader_of(caller: Caller) -> str:
    """The reader to whom the answers for this caller belong: its account, or the caller if that is not known. It is the
    same in every process."""
    return account_of(caller.turn) if caller.is_proven else caller.id


def readers_of(caller: Caller) -> Sequence[str]:
    """The readers whose answers this caller may know."""
    return list(dict.fromkeys(["", reader_of(caller), caller.account]))


def with_facts(row: ModelRecord, facts: ModelFacts) -> ModelRecord:
    """The row with the facts that Replicate shows of the model."""
    model, version = facts.release or (facts.name, facts.version)
    versions = [astuple(each) for each in facts.versions] or None
    more = {"model": model, "example": facts.example, "run_count": facts.run_count, "versions": versions}
    return replace(
        row,
        reader=row.reader if facts.is_private else "",
        version=version,
        is_official=facts.is_official,
        # Half of a surrogate pair cannot be written.
        description=facts.description.encode(errors="replace").decode(),
        facts=json.dumps({name: value for name, value in more.items() if value is not None}),
    )
