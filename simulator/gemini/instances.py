"""Makes instances of a JSON Schema: values that it accepts, repeatable by a seed.

Known are type, enum, const, properties, required, additionalProperties, minProperties, items, prefixItems, minItems,
maxItems, uniqueItems, minimum, maximum and their exclusive forms, multipleOf, minLength, maxLength, format, simple
patterns, $ref, anyOf, oneOf and allOf. Optional properties of inner objects come half of the time, and not at all once
they nest deep, so that recursion ends.
"""

import math
import random
import re
from typing import Any

from simulator.gemini import refusals, schemas
from simulator.gemini.texts import words

MOST_VALUES = 20_000
_DEEP = 6
_FORMATS = {
    "date": "2026-11-28",
    "time": "12:30:00Z",
    "date-time": "2026-11-28T12:30:00Z",
    "duration": "PT5M",
    "email": "ada@example.com",
    "uri": "https://example.com/ada",
    "url": "https://example.com/ada",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


class Instances:
    """Makes instances of one schema."""

    def __init__(self, schema: Any, *, seed: int) -> None:
        self._root = schema
        self._made = 0
        self._chance = random.Random(seed)  # noqa: S311 - filler, not secrets

    def make(self) -> Any:
        """An instance.

        Raises:
            Refused: 400, if every instance has too many values.
        """
        return self._value(self._root, 0)

    def _value(self, schema: Any, depth: int) -> Any:
        self._made += 1
        if self._made > MOST_VALUES:
            raise refusals.of(400, schemas.TOO_MANY_STATES)
        schema = self._flat(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._chance.choice(schema["enum"])
        kind = schema.get("type") or _guessed(schema)
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return self._chance.random() < 0.5
            case "null":
                return None
            case _:
                return self._text(schema)

    def _flat(self, schema: Any) -> dict[str, Any]:
        """A schema without references and choices at its top."""
        for _ in range(20):
            if not isinstance(schema, dict):
                return {"type": "string"}
            if "$ref" in schema:
                rest = {name: each for name, each in schema.items() if name != "$ref"}
                found = schemas.resolve(self._root, schema["$ref"])
                schema = _merged(found if isinstance(found, dict) else {}, rest)
            elif schema.get("allOf"):
                rest = {name: each for name, each in schema.items() if name != "allOf"}
                for each in schema["allOf"]:
                    rest = _merged(rest, self._flat(each))
                schema = rest
            elif choices := schema.get("anyOf") or schema.get("oneOf"):
                rest = {name: each for name, each in schema.items() if name not in ("anyOf", "oneOf")}
                plain = [each for each in choices if isinstance(each, dict) and each.get("type") != "null"]
                schema = _merged(rest, self._chance.choice(plain or [{"type": "null"}]))
            else:
                return schema
        return {"type": "null"}

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        known, required = schema.get("properties", {}), schema.get("required", [])
        optional = [name for name in known if name not in required]
        if depth >= _DEEP:
            optional = []
        chosen = {*required, *(name for name in optional if depth == 0 or self._chance.random() < 0.5)}
        order = [*(name for name in known if name in chosen), *(n for n in required if n not in known)]
        found = {name: self._value(known.get(name, {}), depth + 1) for name in order}
        other = schema.get("additionalProperties")
        missing = schema.get("minProperties", 0) - len(found)
        for number in range(max(missing, 1 if isinstance(other, dict) and not known else 0)):
            found[f"key{number + 1}"] = self._value(other if isinstance(other, dict) else {}, depth + 1)
        return found

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = [self._value(each, depth + 1) for each in schema.get("prefixItems", ())]
        inner = schema.get("items", {})
        least = max(schema.get("minItems", 0), len(first))
        usual = least if depth >= _DEEP or inner is False else max(least, self._chance.randint(1, 3))
        amount = min(usual, schema.get("maxItems", usual))
        found = first[:amount]
        for _ in range(50 * (amount + 1)):
            if len(found) >= amount:
                break
            value = self._value(inner, depth + 1)
            if not schema.get("uniqueItems") or value not in found:
                found.append(value)
        return found

    def _number(self, schema: dict[str, Any], *, whole: bool) -> int | float:
        step = schema.get("multipleOf", 1 if whole else 0.25)
        least, most = schema.get("minimum"), schema.get("maximum")
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        low = max([each for each in (least, above) if each is not None], default=None)
        high = min([each for each in (most, below) if each is not None], default=None)
        if low is None:
            low = 0 if high is None or high >= 0 else high - 100 * step
        if high is None:
            high = max(low, 0) + 100 * step
        first = math.ceil(low / step) + (
            1 if above is not None and math.ceil(low / step) * step <= above else 0
        )
        last = math.floor(high / step) - (
            1 if below is not None and math.floor(high / step) * step >= below else 0
        )
        if first > last:
            return (low + high) / 2 if not whole else math.ceil(low)
        value = self._chance.randint(first, last) * step
        return int(value) if whole else value

    def _text(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            return _matching(pattern, self._chance, least)
        found = words(self._chance, self._chance.randint(2, 6))
        while len(found) < least:
            found += " " + words(self._chance, 4)
        return found if most is None else found[:most]


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both schemas as one: properties and required names are joined, of the rest the second decides."""
    found = {**first, **second}
    if "properties" in first and "properties" in second:
        found["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        found["required"] = [*first["required"], *second["required"]]
    return found


def _guessed(schema: dict[str, Any]) -> str:
    if "properties" in schema or "additionalProperties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "minimum" in schema or "maximum" in schema or "multipleOf" in schema:
        return "number"
    return "string"


_PIECE = re.compile(r"(\\.|\[\^?\]?[^\]]*\]|\.|[^\\\[\].*+?{}()|^$])(\{(\d+)(?:,\d*)?\}|[*+?])?")
_CLASSES = {r"\d": "0123456789", r"\w": "abcdefghij", r"\s": " ", ".": "abcdefghij"}


def _matching(pattern: str, chance: random.Random, least: int) -> str:
    """A text that a simple pattern accepts: classes and letters with counts. Of others, plain words."""
    inner, found, end = pattern.removeprefix("^").removesuffix("$"), "", 0
    for piece in _PIECE.finditer(inner):
        if piece.start() != end:
            return words(chance, 3)
        end = piece.end()
        letter, count, number = piece.groups()
        amount = int(number) if number else 1 if count in (None, "+") else 0
        found += "".join(chance.choice(_letters(letter)) for _ in range(amount))
        if count in ("*", "+") and len(found) < least:
            found += "".join(chance.choice(_letters(letter)) for _ in range(least - len(found)))
    return found if end == len(inner) else words(chance, 3)


def _letters(piece: str) -> str:
    if piece in _CLASSES:
        return _CLASSES[piece]
    if piece.startswith("["):
        accepts = re.compile(piece)
        return "".join(letter for letter in map(chr, range(33, 127)) if accepts.match(letter)) or " "
    return piece[-1]
