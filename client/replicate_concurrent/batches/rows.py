"""From the rows of a table to the items of a batch: columns become parameters, `{column}` in a prompt its value.

A row is recognised in a later run by its `digest`, which covers all that is sent, the content of local files included.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from replicate_concurrent import filenames
from replicate_concurrent.batches.tables import Entry, TableError
from replicate_concurrent.schemas import branches, inputs, is_address, items, takes_file

MODEL: Final = ("model_name", "model")

SERVICE_FIELDS: Final[Mapping[str, Any]] = {
    "timeout": {"type": "number"},
    "start_timeout": {"type": "number"},
    "max_cost_usd": {"type": "number"},
    "fallback": {"type": ["boolean", "array"]},
    "placeholder": {"type": "boolean"},
    "preset": {"type": "string"},
    "file_name": {"type": "string"},
    "webhook": {"type": "string"},
    "metadata": {"type": "object"},
}
"""Fields of an item that are none of its model, with the schemas of their values."""

_PLACEHOLDER: Final = re.compile(r"\{\{([^\W\d]\w*)\}\}|\{([^\W\d][\w \-]*)\}")
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?")
_WHOLE: Final = re.compile(r"[+-]?\d+")
_BOOLEANS: Final = {"true": True, "yes": True, "false": False, "no": False}
_BITS: Final = {"1": True, "0": False}
"""Booleans as spreadsheets write them, unless the schema takes a number or a text, too."""


@dataclass(frozen=True)
class Row:
    """An item of a batch. `index` counts from 1; `place` is its row for people; `request` the item as the API takes it,
    with local files as `Path`; `values` what names of files may use."""

    index: int
    place: str
    request: Mapping[str, Any]
    digest: str
    values: Mapping[str, object] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Shape:
    """How rows become items: the parameters of all (`common`, texts if `typed` is false), the template of the names of
    files, and the schema of each model's inputs by its name, as `GET /models/{name}` has it."""

    common: Mapping[str, Any]
    name: str
    schemas: Mapping[str, Mapping[str, Any]]
    prompt: str | None = None
    """A prompt for all rows, with `{column}`, or with `{prompt}` for the one of the row."""
    typed: bool = True
    directory: Path = field(default_factory=Path)
    """Relative paths of local files in rows begin here, or else in the working directory, as those of `common` do."""


def models(entries: Iterable[Entry], common: Mapping[str, Any]) -> list[str]:
    """The names of the models that the rows name, each once, in their order.

    Raises:
        TableError: If a row names none.
    """
    found: dict[str, None] = {}
    for entry in entries:
        name = _model({**common, **entry.values})
        if name is None:
            raise TableError(f"{entry.place}: no model; name one with -m, or in a column `model`")
        found[name] = None
    return list(found)


def made(entries: Iterable[Entry], shape: Shape) -> list[Row]:
    """The rows, in order.

    Raises:
        TableError: If a row lacks what it needs. The message has up to five of all mistakes.
    """
    filed = set(filenames.used(shape.name))
    rows: list[Row] = []
    mistakes: list[str] = []
    seen: Counter[str] = Counter()
    for index, entry in enumerate(entries, 1):
        try:
            request, values = _item(entry, shape, filed)
        except TableError as reason:
            mistakes.append(str(reason))
            continue
        digest = _digest(request)
        seen[digest] += 1
        if seen[digest] > 1:  # an equal row is an item of its own
            digest = f"{digest}-{seen[digest]}"
        rows.append(Row(index, entry.place, request, digest, {**values, "index": index}))
    if mistakes:
        more = f"\n(and {len(mistakes) - 5} more)" if len(mistakes) > 5 else ""
        raise TableError("\n".join(mistakes[:5]) + more)
    return rows


def _item(entry: Entry, shape: Shape, filed: set[str]) -> tuple[dict[str, Any], dict[str, object]]:
    """The request of a row, and the values for names of files."""
    schema = shape.schemas[_model({**shape.common, **entry.values}) or ""]
    own = _converted(entry.values, entry.typed, schema, _Files(entry.place, (shape.directory, Path())))
    common = _converted(shape.common, shape.typed, schema, _Files(entry.place, (Path(),)))
    request = {**common, **own}
    model = next(str(request.pop(name)).strip() for name in MODEL if request.get(name))
    for name in MODEL:
        request.pop(name, None)
    cells = {name: entry.values.get(name, "") for name in entry.columns - {"prompt"}}
    prompt, quoted = request.get("prompt", ""), set[str]()
    if entry.columns and isinstance(prompt, str):
        prompt, quoted = _filled(prompt, cells, entry.place)
    if shape.prompt is not None:
        prompt, more = _filled(shape.prompt, {**cells, "prompt": prompt}, entry.place)
        quoted |= more
    if prompt != "":
        request["prompt"] = prompt
    for name in (quoted | filed) & cells.keys():
        if name not in inputs(schema) and name not in SERVICE_FIELDS:
            request.pop(name, None)
    values = {"prompt": prompt, "slug": filenames.slug(str(prompt)), "model": model.rpartition("/")[2]}
    return {"model_name": model, **request}, {**cells, **values}


def _filled(text: str, cells: Mapping[str, Any], place: str) -> tuple[str, set[str]]:
    """The text with the values of columns in place of their names, and the names that it has."""
    pieces, end, quoted = [], 0, set()
    for match in _PLACEHOLDER.finditer(text):
        literal, name = match.groups()
        if literal is None and name not in cells:
            raise TableError(
                f"{place}: the prompt has {{{name}}}, which is no column (of: {', '.join(sorted(cells)) or 'none'}); "
                f"for the text itself write {{{{{name}}}}}"
            )
        pieces += [text[end : match.start()], f"{{{literal}}}" if literal else str(cells[name]).strip()]
        end = match.end()
        quoted.add(name)
    return "".join([*pieces, text[end:]]), quoted


@dataclass(frozen=True)
class _Files:
    """Where the local files of a row may be."""

    place: str
    directories: tuple[Path, ...]

    def found(self, value: Any, schema: Mapping[str, Any]) -> Any:
        """The value with `Path` in place of the path of a local file, where the schema has a file."""
        if isinstance(value, list):
            return [self.found(each, items(schema)) for each in value]
        if not isinstance(value, str) or not takes_file(schema) or is_address(value):
            return value
        paths = [directory / Path(value).expanduser() for directory in self.directories]
        if path := next((path for path in paths if path.is_file()), None):
            return path
        raise TableError(f"{self.place}: {value!r} is neither a URL nor a file")


def _converted(
    values: Mapping[str, Any], typed: bool, schema: Mapping[str, Any], files: _Files
) -> dict[str, Any]:
    """The values with the types of the model's schema. A typed one is changed only if it is the path of a file."""
    described, converted = inputs(schema), {}
    for name, value in values.items():
        own = described.get(name) or SERVICE_FIELDS.get(name) or {}
        if not typed and isinstance(value, str) and name not in MODEL and name != "prompt":
            value = from_text(value.strip(), own)
        if name == "input" and isinstance(value, Mapping):
            converted[name] = {
                key: files.found(each, described.get(key) or {}) for key, each in value.items()
            }
        else:
            converted[name] = files.found(value, own)
    return converted


def from_text(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that a text stands for, if the schema takes a number, a boolean, a list or an object. Any other text
    stays, and the service explains its mistake."""
    kinds = _kinds(schema)
    if "boolean" in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if "boolean" in kinds and text in _BITS and not kinds & {"number", "integer", "string"}:
        return _BITS[text]
    if kinds & {"number", "integer"} and _NUMBER.fullmatch(text):
        return int(text) if _WHOLE.fullmatch(text) else float(text)
    if kinds & {"array", "object"} and text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if "array" in kinds and "string" not in kinds:
        return [part.strip() for part in text.split("|")]
    return text


def _model(values: Mapping[str, Any]) -> str | None:
    return next((str(values[name]).strip() for name in MODEL if values.get(name)), None)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that the schema allows."""
    kinds: set[str] = set()
    for branch in branches(schema):
        named = branch.get("type", ())
        kinds |= {named} if isinstance(named, str) else set(named)
    return kinds - {"null"}


def _digest(request: Mapping[str, Any]) -> str:
    text = json.dumps(request, sort_keys=True, ensure_ascii=True, default=_content)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _content(value: object) -> str:
    """What stands for a local file in a digest."""
    if not isinstance(value, Path):
        raise TypeError(f"{type(value).__name__} is not JSON")
    facts = value.stat()
    return "file:" + _file_digest(value, facts.st_size, facts.st_mtime_ns)


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 - the key of the cache
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
