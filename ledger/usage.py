"""Usage: the figures of `GET /usage` as sums over records, and their groups."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.callers import ADMIN
from ledger import DAY, METADATA, TAG, date_of
from ledger.money_records import UsageRecord
from ledger.records import CALL_COUNTS, GenerationRecord
from ledger.tables import FIGURES


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What usage shows of a named key. `tags` is a JSON object of texts."""

    name: str
    tags: str


Groups = tuple[Any, ...]
"""The values of the groups of a row, as the ledger has them: for keys and their tags the id of the caller."""


def usage_of(record: GenerationRecord) -> UsageRecord:
    """What one generation adds to the usage of its day."""
    return UsageRecord(
        day=int((record.ended_at or 0.0) // DAY),
        caller_id=record.caller_id,
        model=record.model,
        simulated=record.simulated,
        generations=1,
        succeeded=int(record.state == "succeeded"),
        failures=int(record.state == "failed"),
        canceled=int(record.state == "canceled"),
        images=record.images,
        video_seconds=record.video_seconds,
        usd=record.cost_usd,
        credits=record.credits,
        **{name: getattr(record, name) for name in CALL_COUNTS},
        trainings=int(record.is_training),
        training_usd=record.cost_usd if record.is_training else 0.0,
    )


def figures(records: Sequence[UsageRecord]) -> dict[str, Any]:
    """The sum of each figure."""
    return rounded({name: sum(getattr(each, name) for each in records) for name in FIGURES})


def rounded(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Sums without the digits that depend on the order in which a database adds floats."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in sums.items()}


def groups_of(record: UsageRecord, metadata: str | None, by: Sequence[str]) -> Groups:
    """The values of the groups for one generation, or for deleted ones, which have no `metadata`."""
    kept = json.loads(metadata or "{}")
    plain = {"model": record.model, "day": record.day}
    return tuple(
        kept.get(each.removeprefix(METADATA))
        if each.startswith(METADATA)
        else plain.get(each, record.caller_id)
        for each in by
    )


def needs_keys(by: Sequence[str]) -> bool:
    """Whether these groups show facts of keys."""
    return any(each == "key" or each.startswith(TAG) for each in by)


def grouped(
    by: Sequence[str], rows: Iterable[tuple[Groups, Mapping[str, Any]]], keys: Mapping[str, KeyFacts]
) -> list[dict[str, Any]]:
    """A row for each group, in order, with what it has in all `rows`. What has no value is the last."""
    sums: defaultdict[Groups, dict[str, Any]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    tags = {key_id: json.loads(key.tags) for key_id, key in keys.items()}
    for values, row in rows:
        place = tuple(
            tags.get(value, {}).get(each.removeprefix(TAG)) if each.startswith(TAG) else value
            for each, value in zip(by, values, strict=True)
        )
        total = sums[place]
        for name in FIGURES:
            total[name] += row[name]
    ordered = sorted(
        sums, key=lambda place: [(value is None, "" if value is None else value) for value in place]
    )
    return [
        {each: _shown(each, value, keys) for each, value in zip(by, place, strict=True)}
        | rounded(sums[place])
        for place in ordered
    ]


def _shown(group: str, value: Any, keys: Mapping[str, KeyFacts]) -> Any:
    if group == "day":
        return date_of(value)
    if group != "key":
        return value
    key = keys.get(value)
    return {"id": value, "name": key.name if key else value if value == ADMIN else None}
