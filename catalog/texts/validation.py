"""Reads an answer in JSON and validates it against the schema of its caller.

The text must be exactly one JSON value (RFC 8259), without NaN, repeated keys, and unpaired surrogates. It is not
repaired. Each violation has its path and its rule, below `data`, as the answer shows the value.

References and alternatives can make a validation exponential in the depth of the value, so its work is counted before:
see `_Work`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Never

from catalog.texts import validator
from catalog.texts.keywords import References, in_place, shown
from catalog.texts.schema_check import depth_of

MAX_DEPTH: Final = 64
"""Levels of lists and objects in an answer."""

MAX_VIOLATIONS: Final = 20

MAX_APPLIED: Final = 1_000_000
"""How many schemas may be applied to parts of one answer. The validator applies tens of millions a second."""

MAX_ALTERNATIVES: Final = 10_000
"""How many of them may be applied inside of alternatives for errors to be listed: they are costly to list there, up to
a tenth of a millisecond each."""

ROOT: Final = "data"
"""The path of the whole answer."""

_SHOWN: Final = 200
"""Characters of a rule or message."""

_LETTERS: Final = 1_000
"""Characters of a text that count as one more schema, for each pattern."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Violation:
    """A part of an answer that breaks a rule of the schema. `rule` is a keyword with its value, such as `maxItems 3`,
    or `json`."""

    path: str
    rule: str
    message: str

    def as_json(self) -> dict[str, str]:
        return {"path": self.path, "rule": self.rule, "message": self.message}


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """The value of an answer, and how it breaks its schema. `value` is None if the text is not JSON."""

    value: Any
    violations: tuple[Violation, ...] = ()

    @property
    def is_valid(self) -> bool:
        return not self.violations


class _NotJSON(ValueError):
    """The text is not one JSON value, for the reason in the message."""


class Answers:
    """Reads answers that must fit one schema, which `schema_check.schema_problems` has accepted. Without a schema any
    JSON fits. Raises ValueError for a schema that is not valid."""

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        self._schema = {} if schema is None else schema
        self._references = References(self._schema)
        self._validator = validator.compiled(self._schema)

    def read(self, text: str) -> ReadAnswer:
        """The value of the text, and at most MAX_VIOLATIONS violations, by path below `data`."""
        try:
            value = parse(text)
        except _NotJSON as error:
            return ReadAnswer(None, (Violation(ROOT, "json", str(error)),))
        return ReadAnswer(value, tuple(self.check(value)))

    def check(self, value: Any) -> Iterator[Violation]:
        """How a JSON value breaks the schema: at most MAX_VIOLATIONS violations, by path below `data`."""
        work = _Work(self._references)
        try:
            work.count(self._schema, value)
        except (_TooMuch, RecursionError):
            yield Violation(ROOT, "depth", "is nested too deeply for its schema to be checked")
            return
        if self._validator.is_valid(value):
            return
        if work.alternatives > MAX_ALTERNATIVES:
            yield Violation(ROOT, "schema", "does not fit the schema, in too many ways to list them")
            return
        for error, _ in zip(self._validator.iter_errors(value), range(MAX_VIOLATIONS), strict=False):
            path = ROOT + shown(tuple(error.instance_path))
            yield Violation(path, *_rule(error.kind.name, error.kind.value))


def parse(text: str) -> Any:
    """The JSON value that the whole text is. Raises ValueError with the reason."""
    if not text.strip():
        raise _NotJSON("is empty")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise _NotJSON(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise _NotJSON(f"has more than {MAX_DEPTH} levels") from None
    except _NotJSON:
        raise
    except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
        raise _NotJSON("has an integer that is too large") from None
    if depth_of(value, MAX_DEPTH) > MAX_DEPTH:
        raise _NotJSON(f"has more than {MAX_DEPTH} levels")
    if "\\u" in text and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise _NotJSON("contains an unpaired surrogate")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJSON(f"repeats the key {json.dumps(twice[:100])} in one object")
    return found


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotJSON(f"has the number {text[:40]}, which is too large")
    return number


def _constant(name: str) -> Never:
    raise _NotJSON(f"has {name}, which is not a JSON value")


class _TooMuch(Exception):
    """More than MAX_APPLIED schemas would be applied."""


class _Work:
    """Counts how many schemas a validation applies at most, and how many of them inside of alternatives. One count
    takes at most MAX_APPLIED steps, and usually as many as the value has parts."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._counted: dict[tuple[int, int], tuple[int, int]] = {}
        self.alternatives = 0

    def count(self, schema: Any, value: Any) -> None:
        """Raises _TooMuch, or RecursionError for schemas that apply each other in too many levels."""
        _, self.alternatives = self._count(schema, value)

    def _count(self, schema: Any, value: Any) -> tuple[int, int]:
        if not isinstance(schema, Mapping):
            return 1, 0
        key = (id(schema), id(value))
        if key not in self._counted:
            self._counted[key] = self._sum(schema, value)
        return self._counted[key]

    def _sum(self, schema: Mapping[str, Any], value: Any) -> tuple[int, int]:
        total, inside = 1 + len(schema.get("enum", ())), 0
        if "$ref" in schema:
            total, inside = _add(total, inside, self._count(self._references.target(schema["$ref"]), value))
        for place, each in in_place(schema):
            counted, deeper = self._count(each, value)
            total, inside = total + counted, inside + (counted if place[0] in {"anyOf", "oneOf"} else deeper)
        for each, part in _below(schema, value):
            total, inside = _add(total, inside, self._count(each, part))
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            total *= 2
        if total > MAX_APPLIED:
            raise _TooMuch
        return total, inside


def _add(total: int, inside: int, more: tuple[int, int]) -> tuple[int, int]:
    return total + more[0], inside + more[1]


def _below(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[Any, Any]]:
    """Each schema that may apply to a part of the value, with that part. `True` stands for the work of a pattern."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _below_object(schema, name, part)
    elif isinstance(value, list):
        first = schema.get("prefixItems", ())
        yield from zip(first, value, strict=False)
        for keyword, start in (("items", len(first)), ("contains", 0), ("unevaluatedItems", 0)):
            if keyword in schema:
                yield from ((schema[keyword], part) for part in value[start:])
    elif isinstance(value, str) and "pattern" in schema:
        yield from _matched(value)


def _below_object(schema: Mapping[str, Any], name: str, part: Any) -> Iterator[tuple[Any, Any]]:
    if name in (properties := schema.get("properties", {})):
        yield properties[name], part
    else:
        yield from ((schema[each], part) for each in _OTHERS if each in schema)
    if "propertyNames" in schema:
        yield schema["propertyNames"], name
    for each in schema.get("patternProperties", {}).values():
        yield from _matched(name)
        yield each, part


_OTHERS: Final = ("additionalProperties", "unevaluatedProperties")
"""Keywords for the properties that are not named."""


def _matched(text: str) -> Iterator[tuple[bool, None]]:
    yield from ((True, None) for _ in range(1 + len(text) // _LETTERS))


def _rule(keyword: str, limit: Any) -> tuple[str, str]:
    """The rule as a keyword with its value, and a sentence about it."""
    match keyword, limit:
        case "required", name:
            return f"required {name}"[:_SHOWN], f"must have {json.dumps(name)}"[:_SHOWN]
        case "type", [*types]:
            words = " or ".join(sorted(types))
            return f"type {words}", f"must be of the type {words}"
        case "falseSchema", _:
            return "false", "must be absent"
        case (("additionalProperties" | "unevaluatedProperties"), [*names]):
            return f"{keyword} false", f"must not have {', '.join(map(json.dumps, names))}"[:_SHOWN]
    if keyword in _SENTENCES:
        return keyword, _SENTENCES[keyword]
    rule = f"{keyword} {json.dumps(limit, ensure_ascii=False, default=str)}"[:_SHOWN]
    return rule, f"must fit {rule}"


_SENTENCES: Final = {
    "anyOf": "must fit one of the schemas of anyOf",
    "oneOf": "must fit exactly one of the schemas of oneOf",
    "not": "must not fit the schema of not",
    "uniqueItems": "must not have equal items",
    "contains": "must have items that fit the schema of contains",
    "propertyNames": "must have names that fit the schema of propertyNames",
}
