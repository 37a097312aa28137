"""Reads Replicate's facts of models, versions and deployments.

Reading is lenient, as of any answer (`answers.py`): what cannot be used is left out. But without a usable name no
model can run, and a schema is used whole or not at all, since half of one would refuse inputs that are right. Instead
of a schema that is too large or nested too deeply, the facts have the reason, and the model still runs.

Facts: Replicate's OpenAPI document (`models.get`, `models.versions.get` and `.list`, `deployments.get`, `search`).
`is_official` is there since 2025. `latest_version` is null for a model without versions, and `openapi_schema` may be
null. Schemas have up to 100 kB.
"""

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from catalog.targets import is_model_name, is_version
from contract.states import iso8601
from providers.connections import Lost
from providers.models import ListedVersion, ModelFacts, PublishedSchema
from providers.redaction import Redaction
from providers.replicate.answers import moment

MAX_SCHEMA: Final = 512 * 1024
"""The most bytes of a schema, as JSON."""

MAX_EXAMPLE: Final = 64 * 1024
"""The most bytes of an example's input. A longer one is left out."""

_COG_VERSION: Final = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
_ITERATORS_SINCE: Final = (0, 3, 9)
_LONGEST_DESCRIPTION: Final = 2_000
_MOST_FOUND: Final = 100
_DEEPEST: Final = 50
"""The depth of nested lists and objects in a schema. Published ones have up to 12."""


class _TooDeep(Exception):
    """The value is nested too deep."""


def read_model(answer: Any, redact: Redaction) -> ModelFacts:
    """A model with its latest version. Raises Lost if it has no usable name."""
    model = _object(answer)
    version = model.get("latest_version")
    version = version if isinstance(version, dict) else {}
    name = _name_of(model)
    return _facts(model, name, redact, version=_version(version), schema=_schema(version, redact))


def read_version(answer: Any, name: str, redact: Redaction) -> ModelFacts:
    """A version of the model `name`. Raises Lost if it has no usable id."""
    version = _object(answer)
    identity = _version(version)
    if identity is None:
        raise Lost("the answer is no version")
    return ModelFacts(name, identity, _schema(version, redact))


def read_versions(answer: Any) -> list[ListedVersion]:
    """The versions on a page, in their order. Those that cannot be used are left out. Raises Lost if it is no page."""
    items = _object(answer).get("results")
    if not isinstance(items, list):
        raise Lost("the answer is no list of versions")
    usable = (each for each in items if isinstance(each, dict) and _version(each) is not None)
    return [_listed(each) for each in islice(usable, _MOST_FOUND)]


def _listed(version: Mapping[str, Any]) -> ListedVersion:
    created_at = moment(version.get("created_at"))
    return ListedVersion(version["id"], None if created_at is None else iso8601(created_at.timestamp()))


def read_deployment(answer: Any) -> ModelFacts:
    """A deployment. Raises Lost if it has no usable name."""
    deployment = _object(answer)
    name = f"deployments/{_name_of(deployment)}"
    release = deployment.get("current_release")
    release = release if isinstance(release, dict) else {}
    model, version = release.get("model"), _version(release, "version")
    is_usable = isinstance(model, str) and is_model_name(model) and version is not None
    return ModelFacts(
        name, version, release=(str(model), str(version)) if is_usable else None, is_private=True
    )


def read_search(answer: Any, redact: Redaction) -> list[ModelFacts]:
    """The models of a search, without their schemas and examples. Those that cannot be used are left out."""
    items = _object(answer).get("models")
    found = (item.get("model") for item in items if isinstance(item, dict)) if isinstance(items, list) else ()
    usable = (each for each in found if isinstance(each, dict) and _has_name(each))
    return [_searched(each, redact) for each in islice(usable, _MOST_FOUND)]


def _searched(model: Mapping[str, Any], redact: Redaction) -> ModelFacts:
    version = model.get("latest_version")
    shown = {**model, "default_example": None}
    return _facts(
        shown, _name_of(model), redact, version=_version(version if isinstance(version, dict) else {})
    )


def _facts(
    model: Mapping[str, Any],
    name: str,
    redact: Redaction,
    *,
    version: str | None,
    schema: PublishedSchema | None = None,
) -> ModelFacts:
    is_official, description, run_count = (
        model.get(each) for each in ("is_official", "description", "run_count")
    )
    is_count = isinstance(run_count, int) and 0 <= run_count < 2**53
    return ModelFacts(
        name,
        version,
        schema,
        is_official=is_official if isinstance(is_official, bool) else None,
        is_private=model.get("visibility") == "private",
        description=redact(description)[:_LONGEST_DESCRIPTION] if isinstance(description, str) else "",
        example=_example(model.get("default_example"), redact),
        run_count=run_count if is_count else None,
    )


def _object(answer: Any) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise Lost("the answer is no object")
    return answer


def _has_name(model: Mapping[str, Any]) -> bool:
    owner, name = model.get("owner"), model.get("name")
    return isinstance(owner, str) and isinstance(name, str) and is_model_name(f"{owner}/{name}")


def _name_of(model: Mapping[str, Any]) -> str:
    if not _has_name(model):
        raise Lost("the answer has no usable name")
    return f"{model['owner']}/{model['name']}"


def _version(version: Mapping[str, Any], name: str = "id") -> str | None:
    identity = version.get(name)
    return identity if isinstance(identity, str) and is_version(identity) else None


def _schema(version: Mapping[str, Any], redact: Redaction) -> PublishedSchema | None:
    schema = version.get("openapi_schema")
    if not isinstance(schema, dict) or not schema:
        return None
    if _size(schema) > MAX_SCHEMA:
        return f"it is larger than {MAX_SCHEMA // 1024} kB."
    try:
        cleaned: dict[str, Any] = _cleaned(schema, redact, _DEEPEST)
    except _TooDeep:
        return f"it is nested deeper than {_DEEPEST} levels."
    return _with_iterator(cleaned) if _has_no_iterators(version.get("cog_version")) else cleaned


def _has_no_iterators(cog_version: Any) -> bool:
    """Whether schemas of this version of Cog do not mark lists that are iterators: outputs that grow. The official
    client also reads their lists as iterators (`replicate/schema.py`, 1.0.7)."""
    found = _COG_VERSION.match(cog_version) if isinstance(cog_version, str) else None
    return found is not None and tuple(map(int, found.groups())) < _ITERATORS_SINCE


def _with_iterator(schema: dict[str, Any]) -> dict[str, Any]:
    """A document whose output is an iterator if it is a list."""
    components = schema.get("components")
    schemas = components.get("schemas") if isinstance(components, dict) else None
    output = schemas.get("Output") if isinstance(schemas, dict) else None
    if isinstance(output, dict) and output.get("type") == "array":
        output.setdefault("x-cog-array-type", "iterator")
    return schema


def _example(prediction: Any, redact: Redaction) -> Mapping[str, Any] | None:
    sent = prediction.get("input") if isinstance(prediction, dict) else None
    if not isinstance(sent, dict) or _size(sent) > MAX_EXAMPLE:
        return None
    try:
        cleaned: dict[str, Any] = _cleaned(sent, redact, _DEEPEST)
    except _TooDeep:
        return None
    return cleaned


def _size(value: Any) -> int:
    """Bytes as JSON. The value was parsed from JSON, so it is not nested too deep to be written again."""
    try:
        return len(json.dumps(value))
    except (RecursionError, ValueError):
        return MAX_SCHEMA + 1


def _cleaned(value: Any, redact: Redaction, depth: int) -> Any:
    """A JSON value with redacted texts, and without numbers that JSON does not have. Raises _TooDeep."""
    if isinstance(value, str):
        return redact(value)
    if not isinstance(value, dict | list):
        return value
    if not depth:
        raise _TooDeep
    if isinstance(value, list):
        return [_cleaned(each, redact, depth - 1) for each in value if _is_json(each)]
    return {redact(name): _cleaned(each, redact, depth - 1) for name, each in value.items() if _is_json(each)}


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
