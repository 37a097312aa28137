"""What a run has to do: by the manifest, and for new rows by the service's own forecast. No money is spent here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import add, gt
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import quote

from replicate_concurrent.batches.manifest import Manifest
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.batches.summary import Outcome
from replicate_concurrent.client import Client
from replicate_concurrent.errors import InvalidRequest
from replicate_concurrent.operations.sending import json_of
from replicate_concurrent.results import Plan, plan

_KEYS: Final = 300
"""Bytes that the key of an item and its metadata add."""

_UNKNOWN: Final = 8 * 1024 * 1024
"""The bytes for which a file counts that is not on disk, such as an image of PIL."""

_OF_JSON: Final = (str, int, float, dict, type(None))

_SLOWNESS: Final = {"": 0, "immediate": 1, "window": 2, "queue": 3}
"""The strategies in order. One of a newer service comes after them."""

_ROUNDING: Final = 1e-6
"""USD by which a sum of prices may be off."""

_FIELD: Final = re.compile(r"requests\[(\d+)\]\.?(.*)")
_UNSENT: Final = "https://example.com/a-local-file.png"
"""What stands for a local file in a forecast, which needs none."""


@dataclass(frozen=True)
class Limits:
    """What one request may have: rows, bytes of JSON, local files, and their bytes. By default a service accepts 10,000
    rows, 16 MiB of JSON, 500 parts of a form, and 320 MiB of files."""

    rows: int = 10_000
    text: int = 12 * 1024 * 1024
    files: int = 450
    file_bytes: int = 256 * 1024 * 1024


class HasRequest(Protocol):
    """A row of any kind: the item as the API takes it."""

    @property
    def request(self) -> Mapping[str, Any]: ...


Item = TypeVar("Item", bound=HasRequest)


class RowsRefused(ValueError):
    """The service would refuse rows. The message names each with its mistake."""


@dataclass(frozen=True)
class Standing:
    """How the rows stand before a run. `open` were begun in an earlier run, and how they ended is not known here."""

    done: tuple[Outcome, ...]
    failed: tuple[Outcome, ...]
    open: tuple[Outcome, ...]
    new: tuple[Row, ...]
    orphans: int
    """Rows of earlier runs that are not in the input any more, and whose results are not known here."""


@dataclass(frozen=True)
class Forecast:
    """The forecast for new rows. `seconds` and `usd` are estimates, `bound_usd` is the most that they may cost, without
    the `unbounded` rows, of which that is not known."""

    total: int = 0
    strategy: str = ""
    seconds: float = 0.0
    usd: float = 0.0
    bound_usd: float = 0.0
    unbounded: int = 0
    plans: tuple[Plan, ...] = ()


def standing(rows: Sequence[Row], manifest: Manifest, directory: Path, *, retry_failed: bool) -> Standing:
    """How the rows stand, by the manifest and the files in the directory."""
    known = manifest.latest()
    done, failed, opened, new = [], [], [], []
    for row in rows:
        line = known.get(row.digest)
        outcome = Outcome(row, line)
        if line is None or (line.has_failed and retry_failed):
            new.append(row)
        elif line.has_failed and not line.may_appear:
            failed.append(outcome)
        elif line.is_done and all((directory / name).is_file() for name in line.files):
            done.append(outcome)
        else:
            opened.append(outcome)
    present = {row.digest for row in rows}
    orphans = sum(line.status is None for digest, line in known.items() if digest not in present)
    return Standing(tuple(done), tuple(failed), tuple(opened), tuple(new), orphans)


def schemas(client: Client, models: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The JSON Schema of the inputs of each model. Raises ApiError, such as NotFound for an unknown model."""
    found = {}
    for name in models:
        body = json_of(client.request("GET", model_path(name)))
        found[name] = body.get("input_schema") or {}
    return found


def model_path(name: str) -> str:
    """The route of a model."""
    return f"/models/{quote(name, safe='/:')}"


def forecast(client: Client, rows: Sequence[Row], options: Mapping[str, Any]) -> Forecast:
    """What the service expects of these rows.

    Raises:
        RowsRefused: If it would refuse rows, or if all together may cost more than the `max_cost_usd` of these options,
            which it compares with each request.
    """
    plans = []
    for chunk in chunks(rows):
        body = {"requests": [_unsent(row.request) for row in chunk], "dry_run": True, **options}
        try:
            plans.append(plan(json_of(client.request("POST", "/generate-batch", json=body))))
        except InvalidRequest as error:
            raise RowsRefused(explained(error, chunk)) from error
    strategies = [each.strategy for each in plans]
    found = Forecast(
        total=sum(each.total for each in plans),
        strategy=max(strategies, key=lambda each: _SLOWNESS.get(each, len(_SLOWNESS)), default=""),
        seconds=sum(each.estimated_seconds or 0.0 for each in plans),
        usd=sum(each.estimated_cost_usd or 0.0 for each in plans),
        bound_usd=sum(each.cost_bound_usd or 0.0 for each in plans),
        unbounded=sum(each.total for each in plans if each.cost_bound_usd is None),
        plans=tuple(plans),
    )
    limit = options.get("max_cost_usd")
    if limit is not None and found.bound_usd > limit + _ROUNDING:
        raise RowsRefused(f"All rows may cost {found.bound_usd:.4g} USD, above the limit of {limit:g} USD.")
    return found


def explained(error: InvalidRequest, rows: Sequence[Row]) -> str:
    """The mistakes with the places of their rows in the input."""
    lines = []
    for problem in error.fields:
        match = _FIELD.fullmatch(problem.field)
        if match and int(match[1]) < len(rows):
            field = f"{match[2]} " if match[2] else ""
            lines.append(f"{rows[int(match[1])].place}: {field}{problem.message}")
        else:
            lines.append(f"{problem.field}: {problem.message}")
    return "\n".join(lines) or error.detail


def chunks(rows: Sequence[Item], limits: Limits = Limits()) -> Iterator[list[Item]]:
    """The rows in as few requests as the limits allow, each with one row at least."""
    chunk: list[Item] = []
    sizes: tuple[int, ...] = (0, 0, 0, 0)
    for row in rows:
        own = _sizes(row)
        sums = tuple(map(add, sizes, own))
        if chunk and any(map(gt, sums, astuple(limits))):
            yield chunk
            chunk, sums = [], own
        chunk.append(row)
        sizes = sums
    if chunk:
        yield chunk


def _sizes(row: HasRequest) -> tuple[int, ...]:
    """What a row adds to each of `Limits`."""
    sizes = [_size(each) for each in _leaves(row.request) if not isinstance(each, _OF_JSON)]
    return 1, len(json.dumps(row.request, default=_named)) + _KEYS, len(sizes), sum(sizes)


def _leaves(value: Any) -> Iterator[Any]:
    """The values in lists and objects."""
    if isinstance(value, (Mapping, list)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)
    else:
        yield value


def _size(file: object) -> int:
    return file.stat().st_size if isinstance(file, Path) else _UNKNOWN


def _named(file: object) -> str:
    return str(file) if isinstance(file, Path) else ""


def _unsent(value: Any) -> Any:
    """The value with an address in place of each local file."""
    if isinstance(value, Mapping):
        return {name: _unsent(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_unsent(each) for each in value]
    return _UNSENT if isinstance(value, Path) else value
