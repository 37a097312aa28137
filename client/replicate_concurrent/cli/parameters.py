"""The parameters of a model for people, from their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

_LONGEST: Final = 160
"""Letters of a description in a table."""


def described(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The name, type, default and description of each parameter, the required ones first."""
    required = set(schema.get("required") or ())
    inputs: Mapping[str, Mapping[str, Any]] = schema.get("properties") or {}
    for name, each in sorted(inputs.items(), key=lambda item: item[0] not in required):
        default = "required" if name in required else _value(each.get("default"))
        yield name, kind(each), default, _shortened(_description(each))


def kind(schema: Mapping[str, Any]) -> str:
    """The type of a value: its choices, or its range."""
    branches = [each for each in _branches(schema) if each.get("type") != "null"]
    return " or ".join(dict.fromkeys(text for text in map(_kind, branches) if text)) or "any"


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(_value(each) for each in schema["enum"])
    named = schema.get("type", "")
    text = "/".join(each for each in named if each != "null") if isinstance(named, list) else str(named)
    if schema.get("format") == "uri":
        return "file or URL"
    if text == "array" and isinstance(schema.get("items"), Mapping):
        return f"list of {kind(schema['items'])}"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None and abs(most) < 2**53:
        return f"{text} {least} to {most}"
    return text


def _branches(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    nested = [each for name in ("anyOf", "oneOf") for each in schema.get(name) or ()]
    return [branch for each in nested for branch in _branches(each)] or [schema]


def _description(schema: Mapping[str, Any]) -> str:
    found = (each.get("description") for each in [schema, *_branches(schema)])
    return next((" ".join(str(text).split()) for text in found if text), "")


def _value(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
