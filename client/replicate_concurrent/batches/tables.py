"""Rows as they stand in a file or a list: `.txt`, `.csv`, `.tsv`, `.jsonl`, standard input, texts and mappings.

A line of a `.txt` is a prompt, word for word. A `.csv` or `.tsv` has its columns in the first line, and an empty cell
counts as left out. A line of a `.jsonl` is an object, or a text, which is a prompt.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

FORMATS: Final = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""The format of a file by its ending."""

_LONGEST_CELL: Final = 16 * 1024 * 1024
"""Characters. A `data:` URI of an image is a cell, too."""


class TableError(ValueError):
    """A file of rows that cannot be read. The message names the file and the line."""


@dataclass(frozen=True)
class Entry:
    """A row: its values by column, and its `place` for people, such as `prompts.csv line 3`. `typed` is false if all
    values are texts, as in a table. `columns` are all names of the table, also those without a value here."""

    place: str
    values: Mapping[str, Any]
    typed: bool
    columns: frozenset[str]


def read(path: str | Path, *, form: str | None = None, stdin: TextIO | None = None) -> list[Entry]:
    """The rows of a file, or of `stdin` if the path is `-`. `form` is one of the values of `FORMATS`; without it the
    ending decides, and for `stdin` the first letter.

    Raises:
        TableError: If the file cannot be read as that.
    """
    if str(path) == "-":
        if stdin is None:
            raise TableError("there is no standard input")
        text, name = stdin.read().removeprefix("\ufeff"), "standard input"
        form = form or ("jsonl" if text.lstrip()[:1] == "{" else "txt")
    else:
        path = Path(path)
        form, name = form or FORMATS.get(path.suffix.lower()), path.name or str(path)
        if form is None:
            raise TableError(f"{name}: its ending must be one of {', '.join(FORMATS)}, or name its format")
        text = _text(path)
    entries = list(_entries(text, form, name))
    if not entries:
        raise TableError(f"{name} has no rows")
    for entry in entries:
        _check_letters(entry)
    return entries


def of(items: Iterable[str | Mapping[str, Any]]) -> list[Entry]:
    """The rows of a list of prompts, or of mappings from parameters to values."""
    return [_typed(item, f"item {number}") for number, item in enumerate(items, 1)]


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise TableError(f"{path}: {reason.strerror or reason}") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        raise TableError(f"{path.name} line {line}: is not UTF-8; save the file as UTF-8") from None


def _entries(text: str, form: str, name: str) -> Iterator[Entry]:
    if form in ("csv", "tsv"):
        yield from _table(text, name, separator="\t" if form == "tsv" else _separator(text))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            place = f"{name} line {number}"
            if form == "txt":
                yield Entry(place, {"prompt": stripped}, typed=True, columns=frozenset())
            else:
                yield _typed(_json(stripped, place), place)


def _table(text: str, name: str, *, separator: str) -> Iterator[Entry]:
    csv.field_size_limit(_LONGEST_CELL)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = [column.strip() for column in next(lines, [])]
        if len({*columns, ""}) != len(columns) + 1:
            raise TableError(f"{name} line 1: each column needs a name of its own")
        begins = lines.line_num + 1
        for cells in lines:
            place, begins = f"{name} line {begins}", lines.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                raise TableError(f"{place}: has {len(cells)} cells for {len(columns)} columns")
            values = {column: cell for column, cell in zip(columns, cells, strict=False) if cell.strip()}
            yield Entry(place, values, typed=False, columns=frozenset(columns))
    except csv.Error as reason:
        raise TableError(f"{name} line {lines.line_num}: {reason}") from None


def _check_letters(entry: Entry) -> None:
    """Raise TableError for half a surrogate pair, such as `\\ud83d` alone in JSON, which no request can have."""
    try:
        json.dumps(entry.values, ensure_ascii=False).encode()
    except UnicodeEncodeError as reason:
        letter = reason.object[reason.start]
        raise TableError(f"{entry.place}: has {letter!r}, which is half a character") from None


def _separator(text: str) -> str:
    """A comma, or a semicolon, which spreadsheets write where the comma is the decimal sign."""
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as reason:
        raise TableError(f"{place}: is not JSON ({reason})") from None


def _no_number(name: str) -> None:
    """Python reads NaN and Infinity, which no request may have."""
    raise ValueError(f"{name} is no number")


def _typed(item: object, place: str) -> Entry:
    if isinstance(item, str):
        return Entry(place, {"prompt": item}, typed=True, columns=frozenset())
    if not isinstance(item, Mapping) or not all(isinstance(name, str) for name in item):
        raise TableError(f"{place}: must be a text or an object with the parameters")
    return Entry(place, dict(item), typed=True, columns=frozenset(item))
