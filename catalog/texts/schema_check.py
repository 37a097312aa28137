"""Checks the JSON Schema (Draft 2020-12) of an answer before the call is sent.

A schema is refused if it is not valid, refers to anything outside itself, or could make its check expensive: by size,
depth, patterns, or references that lead back to themselves for the same value. Recursion into parts of a value is fine.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from catalog.texts import validator
from catalog.texts.keywords import Place, References, in_place, shown, walk
from errors import ABSENT, Problem

MAX_BYTES: Final = 100_000
MAX_DEPTH: Final = 64
"""Levels of JSON. A level of objects in the answer takes two: `properties` and the schema below it."""

MAX_PATTERNS: Final = 100
MAX_PATTERN_LENGTH: Final = 1_000

MAX_IN_PLACE: Final = 500
"""How many schemas may apply to one value at once, through `$ref`, `allOf`, `anyOf` and the like."""

MAX_PROBLEMS: Final = 50

_FIELD: Final = "json_schema"

_DRAFTS: Final = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/schema",
)
"""What `$schema` may be. Generators of schemas write it by habit; all are read as Draft 2020-12."""

_NOT_SUPPORTED: Final = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary")


def schema_problems(schema: Any) -> list[Problem]:
    """All problems of a schema, at most MAX_PROBLEMS, by path below `json_schema`. A schema with none can be used by
    `validation.Answers` and in a call."""
    if not isinstance(schema, dict):
        return [Problem(_FIELD, "must be an object with a JSON Schema", schema)]
    problem = _size_problem(schema)
    if problem is not None:
        return [Problem(_FIELD, problem)]
    found = [*_problems_of_draft(schema), *_problems_of_parts(schema)]
    if not found:
        found = [*_problems_in_place(schema)]
    if not found and not _is_compiled(schema):
        found = [((), "is not a JSON Schema that can be checked", ABSENT)]
    unique = {
        (place, message): Problem(_FIELD + shown(place), message, given) for place, message, given in found
    }
    return list(unique.values())[:MAX_PROBLEMS]


_Found = tuple[Place, str, Any]


def _size_problem(schema: Mapping[str, Any]) -> str | None:
    if depth_of(schema, MAX_DEPTH) > MAX_DEPTH:
        return f"must have at most {MAX_DEPTH} levels of JSON"
    try:
        size = len(json.dumps(schema, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, UnicodeEncodeError):
        return "must be JSON, without NaN, infinite numbers and unpaired surrogates"
    return f"must have at most {MAX_BYTES} bytes as JSON; it has {size}" if size > MAX_BYTES else None


def depth_of(value: Any, most: int) -> int:
    """The levels of lists and objects in a JSON value. Counting stops at one more than `most`."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level and depth <= most:
        depth += 1
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
    return depth


def _problems_of_draft(schema: Mapping[str, Any]) -> Iterator[_Found]:
    draft = schema.get("$schema")
    if draft is not None and (not isinstance(draft, str) or draft.removesuffix("#") not in _DRAFTS):
        yield ("$schema",), f"must be {_DRAFTS[0]}", draft
    for error in validator.errors_of({name: each for name, each in schema.items() if name != "$schema"}):
        place = tuple(error.instance_path)
        yield place, _words(error.kind.name, error.message), error.instance


def _words(kind: str, message: str) -> str:
    if kind == "anyOf":  # only of `type`
        return "must be a type of JSON, or a list of different ones"
    if kind in {"enum", "uniqueItems", "minItems", "pattern", "format", "minimum", "exclusiveMinimum"}:
        return f"is not valid in Draft 2020-12 ({kind})"
    return f"is not valid in Draft 2020-12: {message.rpartition(' is not ')[2][:200]} is expected"


def _problems_of_parts(schema: Mapping[str, Any]) -> Iterator[_Found]:
    references = References(schema)
    parts = [*walk(schema)]
    known = {id(each) for _, each in parts}
    anchors: set[str] = set()
    patterns = 0
    for place, part in parts:
        for keyword in _NOT_SUPPORTED:
            if keyword in part:
                yield (*place, keyword), "is not supported", ABSENT
        if "$id" in part and place:
            yield (*place, "$id"), "is supported only in the root", part["$id"]
        if isinstance(anchor := part.get("$anchor"), str):
            if anchor in anchors:
                yield (*place, "$anchor"), "must be unique", anchor
            anchors.add(anchor)
        if "$ref" in part:
            yield from _problems_of_reference((*place, "$ref"), part["$ref"], references, known)
        for where, pattern in _patterns(place, part):
            patterns += 1
            yield from _problems_of_pattern(where, pattern) if patterns <= MAX_PATTERNS else ()
    if patterns > MAX_PATTERNS:
        yield (), f"must have at most {MAX_PATTERNS} patterns; it has {patterns}", ABSENT


def _problems_of_reference(
    place: Place, reference: Any, references: References, known: set[int]
) -> Iterator[_Found]:
    if not isinstance(reference, str):
        return  # a problem that the schema of the draft has found
    if not reference.startswith("#"):
        yield place, "must lead to a part of this schema: # and what follows it", reference
        return
    target = references.target(reference)
    if id(target) not in known and not isinstance(target, bool):
        yield place, "leads to no schema in this document", reference


def _patterns(place: Place, part: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    if isinstance(part.get("pattern"), str):
        yield (*place, "pattern"), part["pattern"]
    if isinstance(part.get("patternProperties"), Mapping):
        yield from (((*place, "patternProperties", name), name) for name in part["patternProperties"])


def _problems_of_pattern(place: Place, pattern: str) -> Iterator[_Found]:
    if len(pattern) > MAX_PATTERN_LENGTH:
        yield place, f"must have at most {MAX_PATTERN_LENGTH} characters", pattern
    elif not validator.is_pattern(pattern):
        yield (
            place,
            "must be a regular expression of moderate size, without look-around and back-references",
            pattern,
        )


def _problems_in_place(schema: Mapping[str, Any]) -> Iterator[_Found]:
    """Schemas that apply to one value without end, or too many at once."""
    references = References(schema)
    places = {id(part): place for place, part in walk(schema)}
    sizes: dict[int, int | None] = {}

    def size(part: Mapping[str, Any]) -> Iterator[_Found]:
        """Set the number of schemas that apply to a value with this one, None while it is being counted."""
        sizes[id(part)] = None
        total = 1
        for inner, each in _applied(part, references):
            if id(each) not in sizes:
                yield from size(each)
            if (counted := sizes[id(each)]) is None:
                yield places[id(part)] + inner, "leads back to itself for the same value", ABSENT
                counted = 1
            total += counted
        if "unevaluatedProperties" in part or "unevaluatedItems" in part:
            total *= 2  # the parts are applied once more to see what they evaluate
        sizes[id(part)] = total

    for place, part in walk(schema):
        if id(part) not in sizes:
            try:
                yield from size(part)
            except RecursionError:
                yield place, "refers to other schemas through too many levels", ABSENT
                return
        if (sizes[id(part)] or 0) > MAX_IN_PLACE:
            yield place, f"applies more than {MAX_IN_PLACE} schemas to one value", ABSENT
            return


def _applied(part: Mapping[str, Any], references: References) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The schemas that apply to the same value as this one, also by reference."""
    if "$ref" in part and isinstance(target := references.target(part["$ref"]), Mapping):
        yield ("$ref",), target
    yield from ((inner, each) for inner, each in in_place(part) if isinstance(each, Mapping))


def _is_compiled(schema: Mapping[str, Any]) -> bool:
    try:
        validator.compiled(schema)
    except ValueError:
        return False
    return True
