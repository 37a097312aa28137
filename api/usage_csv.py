"""Usage as comma-separated values, for spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet may read as a formula."""


def usage_as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `GET /usage` with a line of names before them. A key has two columns. A text that a spreadsheet might
    run gets an apostrophe in front."""
    flat = [dict(_columns(each)) for each in rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, flat[0].keys() if flat else ())
    writer.writeheader()
    writer.writerows({name: _safe(value) for name, value in each.items()} for each in flat)
    return text.getvalue()


def _columns(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in row.items():
        if isinstance(value, Mapping):
            found += [(f"{name}_{inner}", each) for inner, each in value.items()]
        else:
            found.append((name, value))
    return found


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
