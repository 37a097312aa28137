"""Types and functions of columns that each database writes in its own way."""

import json
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Integer, Text, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

from ledger import DAY
from ledger.records import CALL_COUNTS

DEFAULTS: Final = {
    "warnings": text("'[]'"), "has_secrets": text("false"), "started": text("false"),
    **dict.fromkeys((*CALL_COUNTS, "trainings", "training_usd"), text("0")),
}  # fmt: skip
"""The values of columns in rows of processes that do not know them, which an upgrade leaves beside this one."""


class JsonList(UserDefinedType[tuple[Any, ...]]):
    """A JSON list, read as a tuple. Most lists are empty, so those are not parsed."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"

    def result_processor(self, _dialect: Any, _type: Any) -> Callable[[str | None], tuple[Any, ...] | None]:
        return lambda text: () if text == "[]" else None if text is None else tuple(json.loads(text))


@compiles(JsonList, "postgresql")
def _text(_list: JsonList, _compiler: Any, **_: Any) -> str:
    return "TEXT"  # PostgreSQL compares no JSON


class DayOf(FunctionElement[int]):
    """The day of a moment (UTC, counted from 1970)."""

    name = "day_of"
    type = Integer()
    inherit_cache = True


class JsonText(FunctionElement[str]):
    """The text of this name in a column of JSON objects of texts. NULL if it has none."""

    name = "json_text"
    type = Text()
    inherit_cache = True


class MembersOf(FunctionElement[Any]):
    """The names and values of a column of JSON objects of texts, as rows with `key` and `value`."""

    name = "members_of"
    inherit_cache = True


@compiles(MembersOf)
def _json_each(found: MembersOf, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(found.clauses, **options)})"


@compiles(MembersOf, "postgresql")
def _json_each_text(found: MembersOf, compiler: Any, **options: Any) -> str:
    return f"json_each_text(CAST({compiler.process(found.clauses, **options)} AS JSON))"


@compiles(JsonText)
def _json_text(found: JsonText, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(each, **options) for each in found.clauses)
    return f"(SELECT value FROM json_each({column}) WHERE key = {name})"  # noqa: S608 - both are compiled


@compiles(JsonText, "postgresql")
def _json_member(found: JsonText, compiler: Any, **options: Any) -> str:
    column, name = (compiler.process(each, **options) for each in found.clauses)
    return f"(CAST({column} AS JSON) ->> CAST({name} AS TEXT))"


@compiles(DayOf)
def _day(moment: DayOf, compiler: Any, **options: Any) -> str:
    return f"CAST({compiler.process(moment.clauses, **options)} / {DAY} AS INTEGER)"


@compiles(DayOf, "postgresql")
def _floored_day(moment: DayOf, compiler: Any, **options: Any) -> str:
    return f"CAST(floor({compiler.process(moment.clauses, **options)} / {DAY}) AS INTEGER)"  # a CAST rounds
