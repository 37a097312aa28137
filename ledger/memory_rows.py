"""The rows of a ledger in memory."""

from collections.abc import Mapping
from typing import TypeVar, cast

from ledger.claims import ReplaceValue
from ledger.records import MetaRecord, Record
from ledger.tables import Key

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

    def metas(self, prefix: str) -> Mapping[str, bytes]:
        return {each.name: each.value for each in self.all(MetaRecord) if each.name.startswith(prefix)}

    def replaced(self, claim: ReplaceValue) -> bool:
        """Make the claim, and return whether it was made."""
        if self.meta(claim.name) not in {None, claim.before}:
            return False
        self.rows[MetaRecord][claim.name,] = MetaRecord(claim.name, claim.value)
        return True
