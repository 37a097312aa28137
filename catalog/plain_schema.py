"""Normalizes the JSON Schemas that Replicate publishes: references are resolved, `allOf` is merged, null is taken out
of the type, and each constraint is written in one way.

How Replicate writes schemas: github.com/replicate/cog, docs/python.md; the form is OpenAPI 3.0.2's.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

_NOTES = {"title", "description", "example", "examples", "externalDocs", "$comment", "x-order"}
_COMBINED = ("$ref", "allOf", "anyOf", "oneOf")

_SAYS_NOTHING = {
    ("default", "null"), ("nullable", "false"), ("deprecated", "false"), ("readOnly", "false"), ("items", "{}"),
    ("writeOnly", "false"), ("uniqueItems", "false"), ("minItems", "0"), ("minLength", "0"),
    ("exclusiveMinimum", "false"), ("exclusiveMaximum", "false"), ("additionalProperties", "true"),
}  # fmt: skip
"""Keywords with values that mean the same as no keyword."""

_MAY_SAY_NOTHING = {keyword for keyword, _ in _SAYS_NOTHING}

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


_MOST_REFERRED: Final = 30_000
"""The most that the references of one document may add, in nodes of JSON. A few references that each use another twice
make millions. No published schema that was read adds more than two thousand."""

_LONGEST_POINTER: Final = 1_000
"""Characters of a reference. A longer one leads nowhere."""

_NODE: Final = 32
"""Characters of a text that count as one more node."""


class NoInputs(ValueError):
    """The document does not describe the inputs of a model."""


class PlainSchemas:
    """The schemas of one document, each as one flat dict of the keywords that constrain it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._targets: dict[str, Schema] = {}
        self._sizes: dict[str, int] = {}
        self._left = _MOST_REFERRED

    def inputs(
        self, where: str = "#/components/schemas/Input"
    ) -> tuple[dict[str, Schema], list[str], Schema]:
        """The inputs by name, the names of the required inputs, and the constraints on all inputs together. Raises
        NoInputs."""
        rest = self.of(referred(self._document, where))
        inputs, required = rest.pop("properties", None), rest.pop("required", [])
        if not isinstance(inputs, Mapping) or not isinstance(required, list):
            raise NoInputs(
                "it does not describe its inputs (components.schemas.Input: properties, required)."
            )
        names = [name for name in required if isinstance(name, str)]
        described = {name: self.of(schema) for name, schema in inputs.items()}
        return described | {name: {} for name in names if name not in described}, names, rest

    def of(self, schema: Any) -> Schema:
        """One schema of the document. An unknown keyword stays as it is."""
        if not isinstance(schema, Mapping):
            return {} if schema is True else {"schema": schema}
        plain = {key: value for key, value in schema.items() if key not in _NOTES and key not in _COMBINED}
        if "items" in plain:
            plain["items"] = self.of(plain["items"])
        for keyword in (each for each in _COMBINED if each in schema):
            self._combine(plain, keyword, schema[keyword])
        return _tidy(plain)

    def _combine(self, plain: Schema, keyword: str, value: Any) -> None:
        if keyword != "$ref" and not isinstance(value, list):
            plain[keyword] = value
            return
        parts = [self._target(value)] if keyword == "$ref" else [self.of(part) for part in value]
        if keyword in ("anyOf", "oneOf"):
            if {"type": "null"} in parts:
                plain["nullable"] = True
                parts = [part for part in parts if part != {"type": "null"}]
            if len(parts) > 1:
                plain[keyword] = sorted(parts, key=canonical)
                return
        for part in parts:  # none in an empty `anyOf`, such as Replicate writes into items
            _merge(plain, part)

    def _target(self, pointer: Any) -> Schema:
        """The schema that a `$ref` points at. If there is none, if the reference is circular, or if all references
        together make too large a schema, the `$ref` itself."""
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            return {"$ref": pointer}
        if pointer not in self._targets:
            self._targets[pointer] = {"$ref": pointer}
            if (found := referred(self._document, pointer)) is not None:
                self._targets[pointer] = self.of(found)
                self._sizes[pointer] = _size(self._targets[pointer])
        self._left -= self._sizes.get(pointer, 0)
        return self._targets[pointer] if self._left >= 0 else {"$ref": pointer}


def referred(document: Mapping[str, Any], pointer: str) -> Any:
    """The part of the document to which a JSON pointer leads (RFC 6901), None if there is none."""
    if len(pointer) > _LONGEST_POINTER:
        return None
    found: Any = document
    for name in pointer.removeprefix("#").split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _size(value: Any) -> int:
    """The number of nodes of a JSON value. Long texts count as several."""
    if isinstance(value, str):
        return 1 + len(value) // _NODE
    if isinstance(value, dict):
        return 1 + sum(len(name) // _NODE + _size(each) for name, each in value.items())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _are_equal(one: Any, other: Any) -> bool:
    """Whether these JSON values have the same canonical text. It takes no longer than to read the smaller one."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return len(one) == len(other) and all(
            name in other and _are_equal(each, other[name]) for name, each in one.items()
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def canonical(value: Any) -> str:
    """One text for each JSON value: 3 is 3.0, and neither is "3"."""
    return json.dumps(_with_whole_numbers(value), sort_keys=True)


def whole(value: Any) -> Any:
    """A whole float as an integer; any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_number(value: Any) -> bool:
    """Whether it is a number of JSON, which no boolean is."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _with_whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(each) for each in value]
    return whole(value)


def _merge(plain: Schema, part: Mapping[str, Any]) -> None:
    """Add the keywords of a part. A second, different value is kept under another name, so that it is reported, except
    for a default, of which the first counts."""
    for keyword, value in part.items():
        if not _are_equal(plain.setdefault(keyword, value), value) and keyword != "default":
            plain[f"{keyword} (another)"] = value


def _tidy(plain: Schema) -> Schema:
    """Write null, a single choice, exclusive bounds and the type of choices in one way."""
    if "const" in plain and "enum" not in plain:
        plain["enum"] = [plain.pop("const")]
    for keyword, null in (("type", "null"), ("enum", None)):
        values = plain.get(keyword)
        if isinstance(values, list) and null in values and len(values) > 1:
            plain |= {keyword: [value for value in values if value != null], "nullable": True}
    kinds, choices = plain.get("type"), plain.get("enum")
    if isinstance(choices, list) and kinds is None:
        kinds = list({_TYPES.get(type(choice)) for choice in choices} - {None})
    if isinstance(kinds, list) and len(kinds) == 1:
        plain["type"] = kinds[0]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if plain.get(exclusive) is True and bound in plain:  # as OpenAPI 3.0 has it
            plain[exclusive] = plain.pop(bound)
    return {
        key: value
        for key, value in plain.items()
        if key not in _MAY_SAY_NOTHING or (key, canonical(value)) not in _SAYS_NOTHING
    }
