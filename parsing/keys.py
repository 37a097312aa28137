"""Parses the bodies of the routes of named keys.

An unknown field is an error, since a misspelt limit must never mean none.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from catalog.model import KINDS, TIERS
from catalog.registry import Registry
from catalog.targets import Target, is_model_name
from contract.states import iso8601
from errors import Problem
from ledger.access_records import Role
from parsing.pairs import bounded
from parsing.validation import did_you_mean, read_fields, refuse, refuse_if_any
from settings.fields import MAX_CONCURRENT_LIMIT, MAX_REQUESTS_PER_MINUTE

LONGEST_NAME: Final = 100
MOST_MODELS: Final = 100
MOST_QUEUED: Final = 1_000_000
LARGEST_BUDGET: Final = 1_000_000_000.0
LONGEST_GRACE: Final = 30 * 86_400

_EVERY_OF_OWNER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}/\*")

_NOT_SHOWN: Final = frozenset({"Cc", "Cf", "Cs"})
"""Unicode's categories of characters that are not shown themselves: controls, format characters, which can reverse the
text around them, and lone surrogates."""

_JOINERS: Final = frozenset("\u200c\u200d")
"""Format characters that names in Persian, and emoji, are written with."""


def _plain(text: str) -> str:
    if any(unicodedata.category(each) in _NOT_SHOWN for each in text if each not in _JOINERS):
        raise ValueError("must not have control or format characters")
    if text != text.strip():
        raise ValueError("must not begin or end with a space")
    return text


def _pairs(pairs: dict[str, str]) -> dict[str, str]:
    for name, value in bounded(pairs).items():
        _plain(name), _plain(value)
    return pairs


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and "T" in text.upper():
            iso8601(moment.timestamp())  # in UTC it may be beyond the last year
            return text
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a date and time with an offset (RFC 3339), such as 2027-01-31T00:00:00Z")


Pairs = Annotated[dict[str, str], AfterValidator(_pairs)]
"""At most 16 names with a text each."""

_Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_plain)]
_Period = Literal["day", "week", "month"]


class KeyFields(BaseModel):
    """The body of `POST /keys`. Two keys may have the same name."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    name: _Name = Field(description="For people, 1 to 100 characters. Two keys may have the same name.")
    role: Role = Field(
        "caller",
        description="`admin` may do everything; `caller` generates, and sees and cancels its own work; `viewer` sees "
        "everything and changes nothing; `metrics` may only read `GET /metrics`.",
    )
    max_concurrent: Annotated[int, Field(ge=1, le=MAX_CONCURRENT_LIMIT)] | None = Field(
        None, description="Predictions in flight at once. More work waits."
    )
    requests_per_minute: Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)] | None = Field(
        None, description="Creations in any 60 seconds. More work waits."
    )
    max_queued: Annotated[int, Field(ge=1, le=MOST_QUEUED)] | None = Field(
        None, description="Generations that may wait at once. More are refused with 429."
    )
    budget_usd: Annotated[float, Field(ge=0, le=LARGEST_BUDGET)] | None = Field(
        None, description="USD that may be spent in each `budget_period`, which it needs."
    )
    budget_period: _Period | None = Field(
        None, description="A calendar period in UTC. A week begins on Monday."
    )
    models: Annotated[list[str], Field(min_length=1, max_length=MOST_MODELS)] | None = Field(
        None,
        description="What it may run: names and aliases of models, `owner/*`, kinds, tiers. null for all models.",
    )
    safety: Literal["on", "off"] | None = Field(
        None, description="`off` leaves its prompts unchecked by the rules and the service of the operator."
    )
    tags: Pairs | None = Field(
        None, description="At most 16 names of 64 characters with texts of 512 characters."
    )
    expires_at: Annotated[str, AfterValidator(_moment)] | None = Field(
        None, description="From then on it is refused (RFC 3339). null for never."
    )


class KeyChanges(KeyFields):
    """The body of `PATCH /keys/{id}`. A field that it does not name stays as it is, and null ends a limit."""

    name: _Name = Field(default_factory=str, description="For people, 1 to 100 characters.")


class RotateFields(BaseModel):
    """The body of `POST /keys/{id}/rotate`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    grace_seconds: Annotated[float, Field(ge=0, le=LONGEST_GRACE)] = Field(
        0.0, description="For so long the old text of the key is accepted, too."
    )


def parse_key(body: Any, registry: Registry, now: float) -> dict[str, Any]:
    """The fields of a new key, as those of an `ApiKeyRecord`, except for `tags`, which are a dictionary. Raises
    InvalidRequest with all problems."""
    problems: list[Problem] = []
    fields = read_fields(KeyFields, body, problems)
    return _as_record(fields, registry, now, problems)


def parse_changes(body: Any, registry: Registry, now: float) -> dict[str, Any]:
    """The fields to change, as `parse_key`. Raises InvalidRequest with all problems."""
    problems: list[Problem] = []
    fields = read_fields(KeyChanges, body, problems)
    if fields and not fields.model_fields_set:
        problems.append(Problem("body", "must name a field to change"))
    return _as_record(fields, registry, now, problems)


def parse_rotation(body: Any) -> float:
    """For how many seconds the old text is accepted, too. Raises InvalidRequest."""
    problems: list[Problem] = []
    fields = read_fields(RotateFields, body, problems)
    if fields is None:
        refuse(problems)
    return fields.grace_seconds


def budget_problems(fields: Mapping[str, Any]) -> list[Problem]:
    """The problem of a budget without a period, or of a period without a budget."""
    usd, period = fields.get("budget_usd"), fields.get("budget_period")
    if usd is not None and period is None:
        return [Problem("budget_period", "is required with budget_usd: day, week or month")]
    if usd is None and period is not None:
        return [Problem("budget_usd", "is required with budget_period")]
    return []


def _as_record(
    fields: KeyFields | None, registry: Registry, now: float, problems: list[Problem]
) -> dict[str, Any]:
    if fields is None:
        refuse(problems)
    found = fields.model_dump(exclude_unset=isinstance(fields, KeyChanges))
    if not isinstance(fields, KeyChanges):
        problems += budget_problems(found)
    for index, name in enumerate(found.get("models") or ()):
        if not _may_name_models(name, registry):
            known = [*KINDS, *TIERS, *(each for model in registry.models for each in model.names)]
            reason = "is no model, kind or tier known here; " + (
                did_you_mean(name, known) or "send owner/name for one that is not declared"
            )
            problems.append(Problem(f"models[{index}]", reason, name))
    if "models" in found:
        found["models"] = tuple(dict.fromkeys(found["models"] or ()))
    if "tags" in found:
        found["tags"] = found["tags"] or {}
    if found.get("expires_at") is not None:
        found["expires_at"] = datetime.fromisoformat(fields.expires_at or "").timestamp()
        if found["expires_at"] <= now:
            problems.append(Problem("expires_at", "must be in the future", fields.expires_at))
    refuse_if_any(problems)
    return found


def _may_name_models(text: str, registry: Registry) -> bool:
    target = Target.parse(text)
    return (
        registry.find(text) is not None
        or text in {*KINDS, *TIERS}
        or is_model_name(target.name)
        or target.deployment is not None
        or _EVERY_OF_OWNER.fullmatch(text) is not None
    )
