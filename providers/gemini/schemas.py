"""The copy of a caller's JSON Schema that is sent to Gemini as `responseJsonSchema`.

Gemini reads only some keywords (SDK google-genai 3.6.1, `response_json_schema`), ignores the others, and refuses some
uses of those that it reads. So the copy has only what it reads, and describes the rest in words to the model. The copy
may allow more than the original, and never less: an answer that fits the original fits the copy. Answers are validated
against the original (`catalog/texts/validation.py`).

The schema must be one in which `catalog/texts/schema_check.py` finds no problems.
"""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from catalog.plain_schema import is_number
from providers.gemini.copied import Schema, names_in, schemas_in
from providers.gemini.flat_schemas import Flat, Flattener, rule
from providers.gemini.recursion import break_cycles

READABLE: Final = frozenset(
    {
        "$defs", "$ref", "type", "format", "title", "description", "enum", "items", "prefixItems", "minItems",
        "maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties", "required",
        "propertyOrdering",
    }
)  # fmt: skip
"""The keywords of a copy. Gemini also reads `$id`, `$anchor`, and `oneOf` as `anyOf`, which a copy does not need."""

MOST_ITEMS: Final = 960
"""The most that all `maxItems` of a schema may sum up to. Gemini refuses larger sums with an error that does not
name the cause; the figure is from googleapis/python-genai#2170."""

_DESCRIBED: Final = (
    "not", "if", "then", "else", "dependentSchemas", "dependentRequired", "patternProperties", "propertyNames",
    "unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains", "uniqueItems",
    "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "multipleOf", "contentEncoding",
    "contentMediaType", "default", "examples",
)  # fmt: skip
"""The keywords that are only described, in the order in which they are."""

_KEPT: Final = 16
"""Copies that are kept. A call needs its copy for each bound of its tokens and for its body, and most callers send many
calls with one schema."""


def sent_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The copy to send, which must not be changed: calls with the same schema share it."""
    return _sent(json.dumps(schema))


@lru_cache(_KEPT)
def _sent(text: str) -> Mapping[str, Any]:
    copies = _Copies(json.loads(text))
    root, definitions = copies.made()
    break_cycles(definitions, copies.describe)
    _thin([root, *definitions.values()], copies)
    copies.write_descriptions()
    return {**root, "$defs": definitions} if definitions else root


class _Copies:
    """Copies of the schemas of one document, and the rules to describe in each."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._flattener = Flattener(document)
        self._rules: list[tuple[Schema, str]] = []

    def made(self) -> tuple[Schema, dict[str, Schema]]:
        """The root, and every definition that is used."""
        root = self._copy(self._document, frozenset({id(self._document)}), alone=False)
        definitions: dict[str, Schema] = {}
        used = [*names_in(root)]
        while used:
            name = used.pop()
            if name not in definitions:
                target = self._flattener.targets[name]
                definitions[name] = self._copy(target, frozenset({id(target)}), alone=False)
                used += names_in(definitions[name])
        return root, definitions

    def describe(self, schema: Schema, text: str) -> None:
        """Describe this rule in a schema of the copy."""
        self._rules.append((schema, text))

    def write_descriptions(self) -> None:
        """Add the rules to the descriptions."""
        by_schema: dict[int, tuple[Schema, list[str]]] = {}
        for schema, text in self._rules:
            by_schema.setdefault(id(schema), (schema, []))[1].append(text)
        for schema, texts in by_schema.values():
            rules = f"Rules: {'; '.join(dict.fromkeys(texts))}."
            schema["description"] = f"{schema['description']} {rules}" if schema.get("description") else rules

    def _copy(self, schema: Any, merged: frozenset[int], *, alone: bool = True) -> Schema:
        flat = self._flattener.flat(schema, merged, alone=alone)
        own = flat.keywords
        if "$ref" in own:
            return own
        copy: Schema = {name: own[name] for name in ("title", "description", "type", "format") if name in own}
        copy |= _bounds(own)
        self._copy_list(copy, flat)
        self._copy_object(copy, flat)
        self._copy_alternatives(copy, flat)
        self._copy_choices(copy, flat)
        for text in (*flat.rules, *(rule(name, own[name]) for name in _DESCRIBED if name in own)):
            self.describe(copy, text)
        for name, kind in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if name in own and (own.get("type") != "integer" or kind not in copy):
                self.describe(copy, rule(name, own[name]))
        return copy

    def _copy_list(self, copy: Schema, flat: Flat) -> None:
        own = flat.keywords
        for name in ("minItems", "maxItems"):
            if name in own:
                copy[name] = int(own[name])
        first = own.get("prefixItems", [])
        if first:
            copy["prefixItems"] = [self._copy(each, flat.merged) for each in first]
        items = own.get("items", True)
        if items is False:
            copy["maxItems"] = min(len(first), copy.get("maxItems", len(first)))
        elif items is not True:
            copy["items"] = self._copy(items, flat.merged)

    def _copy_object(self, copy: Schema, flat: Flat) -> None:
        own = flat.keywords
        properties = {name: each for name, each in own.get("properties", {}).items() if each is not False}
        if properties:
            copy["properties"] = {name: self._copy(each, flat.merged) for name, each in properties.items()}
        required = own.get("required", [])
        if known := [name for name in required if name in properties]:
            copy["required"] = known
        if others := [name for name in required if name not in properties]:
            self.describe(copy, rule("required", others))
        order = own.get("propertyOrdering")
        if isinstance(order, list):
            copy["propertyOrdering"] = [
                name for name in order if isinstance(name, str) and name in properties
            ]
        if "additionalProperties" in own:
            self._copy_others(copy, flat)

    def _copy_others(self, copy: Schema, flat: Flat) -> None:
        """The schema of the properties that are not named. Those with names that fit a pattern have no other place."""
        others = flat.keywords["additionalProperties"]
        patterns = [*flat.keywords.get("patternProperties", {}).values()]
        allowed = [each for each in [*patterns, others] if each is not False]
        if True in allowed or not allowed:
            copy["additionalProperties"] = bool(allowed)
        else:
            copies = [self._copy(each, flat.merged) for each in allowed]
            copy["additionalProperties"] = copies[0] if len(copies) == 1 else {"anyOf": copies}

    def _copy_alternatives(self, copy: Schema, flat: Flat) -> None:
        own = flat.keywords
        keyword = "anyOf" if "anyOf" in own else "oneOf"
        possible = [each for each in own.get(keyword, []) if each is not False]
        if possible:
            copy["anyOf"] = [self._copy(each, flat.merged) for each in possible]
        if "anyOf" in own and "oneOf" in own:
            self.describe(copy, rule("oneOf", own["oneOf"]))

    def _copy_choices(self, copy: Schema, flat: Flat) -> None:
        """Gemini's `enum` has texts and numbers. Null becomes an alternative, and other choices are described."""
        own = flat.keywords
        if "const" in own and "enum" in own:
            self.describe(copy, rule("enum", own["enum"]))
        values = [own["const"]] if "const" in own else own.get("enum", [])
        if not values:
            return
        plain = [each for each in values if isinstance(each, str) or is_number(each)]
        is_nullable = len(plain) == len(values) - 1 and None in values
        if plain and is_nullable and "anyOf" not in copy:
            copy["anyOf"] = [{**_kind_without_null(copy.pop("type", [])), "enum": plain}, {"type": "null"}]
            return
        if len(plain) == len(values):
            copy["enum"] = plain
        else:
            self.describe(copy, rule("one of", values))
        if "type" not in copy:
            copy |= _kind(sorted({_KINDS[type(each)] for each in values}))


_KINDS: Final = {
    str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array", type(None): "null",
}  # fmt: skip


def _kind(kinds: list[str]) -> Schema:
    return {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}


def _kind_without_null(kinds: str | list[str]) -> Schema:
    return _kind([each for each in ([kinds] if isinstance(kinds, str) else kinds) if each != "null"])


def _bounds(own: Mapping[str, Any]) -> Schema:
    """`minimum` and `maximum`. Exclusive bounds become inclusive: exactly for integers, else as wide."""
    is_integer = own.get("type") == "integer"
    low, high = own.get("exclusiveMinimum"), own.get("exclusiveMaximum")
    if is_integer:
        low = None if low is None else math.floor(low) + 1
        high = None if high is None else math.ceil(high) - 1
    lows = [each for each in (own.get("minimum"), low) if each is not None]
    highs = [each for each in (own.get("maximum"), high) if each is not None]
    return ({"minimum": max(lows)} if lows else {}) | ({"maximum": min(highs)} if highs else {})


def _thin(schemas: list[Schema], copies: _Copies) -> None:
    """Replace `maxItems` by descriptions, the largest first, until the rest sums up to at most MOST_ITEMS."""
    bounded = [each for schema in schemas for each in schemas_in(schema) if "maxItems" in each]
    total = sum(each["maxItems"] for each in bounded)
    for each in sorted(bounded, key=lambda it: it["maxItems"], reverse=True):
        if total <= MOST_ITEMS:
            return
        total -= each["maxItems"]
        copies.describe(each, rule("maxItems", each.pop("maxItems")))
