"""Reads the JSON Schema of a model: the types and choices of its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_SCHEME: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.\-]+:")
"""How a URL or a `data:` URI begins. A drive of Windows has one letter."""


def inputs(schema: Schema) -> Mapping[str, Schema]:
    """The schema of each parameter by its name."""
    found: Mapping[str, Schema] = schema.get("properties") or {}
    return found


def branches(schema: Schema) -> list[Schema]:
    """The schema, and all that it allows or joins."""
    nested = [each for name in ("anyOf", "oneOf", "allOf") for each in schema.get(name) or ()]
    return [schema, *(branch for each in nested for branch in branches(each))]


def items(schema: Schema) -> Schema:
    """The schema of the items of a list."""
    return next((branch["items"] for branch in branches(schema) if branch.get("items")), {})


def takes_file(schema: Schema) -> bool:
    """Whether a parameter is a file, or the address of one."""
    return any(branch.get("format") == "uri" for branch in branches(schema))


def is_address(text: str) -> bool:
    """Whether a text is a URL or a `data:` URI, and so no path of a local file."""
    return _SCHEME.match(text) is not None
