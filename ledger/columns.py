"""The columns of a table, derived from the fields of a record."""

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, Text

from ledger.column_types import DEFAULTS, JsonList
from ledger.records import AttemptRecord, Failure, PlanRecord

NESTED: Final[Mapping[str, type]] = {"error": Failure, "plan": PlanRecord}
"""Fields that are records themselves: a column for each of their fields, named after both."""

_TYPES: Final[Mapping[Any, Any]] = {
    str: Text, Literal: Text, bool: Boolean, int: Integer, float: Float, bytes: LargeBinary, tuple: JsonList,
}  # fmt: skip
"""The type of the column for the type of a field."""

_SEQUENCE: Final = BigInteger().with_variant(Integer, "sqlite")
"""Each write of a row takes a number in PostgreSQL, also if the row exists."""


def columns_of(
    record: type, *key: str, prefix: str = "", all_optional: bool = False
) -> Iterator[Column[Any]]:
    """A column for each field of a record, in their order. It may be NULL if the field may be None."""
    for field, kind in get_type_hints(record).items():
        is_optional = NoneType in get_args(kind)
        if is_optional:
            kind = next(each for each in get_args(kind) if each is not NoneType)
        if field in NESTED:
            yield from columns_of(kind, prefix=f"{field}_", all_optional=is_optional)
        elif kind != tuple[AttemptRecord, ...]:  # they have a table of their own
            name = f"{prefix}{field}"
            nullable = (is_optional or all_optional) and name not in key
            column_type = _SEQUENCE if name == "seq" else _TYPES[get_origin(kind) or kind]
            default = None if nullable else DEFAULTS.get(name)
            yield Column(
                name, column_type, primary_key=name in key, nullable=nullable, server_default=default
            )
