"""Brings a JSON Schema into a flat form: without `allOf`, and without keywords beside a `$ref`.

Gemini reads no `allOf`, and no keyword beside a `$ref`. Generators of schemas write both, to describe a property that
has a model as its type. So such parts are merged into the schema around them. A merged schema may allow more than the
original, and never less: where two parts disagree about a keyword, the first counts, and the second is only described.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from catalog.texts.keywords import References
from providers.gemini.copied import reference_to

ROOT: Final = "root"
"""The name of the definition to which `#` leads."""

_MOST_MERGED: Final = 200
"""How many referenced schemas are merged into others in one document. Further references stand alone."""

_SHOWN: Final = 200
"""Characters of a rule in a description."""

_SILENT: Final = frozenset(
    {"$defs", "definitions", "$id", "$schema", "$anchor", "$comment", "deprecated", "readOnly", "writeOnly"}
)
"""Keywords that are not about a value."""

_DEFINITION: Final = re.compile(r"#/(?:\$defs|definitions)/([A-Za-z0-9_.-]{1,60})")

_ABOUT: Final = frozenset({"title", "description", "default", "examples"})
"""Keywords of which only the outer one counts."""

_LISTS: Final = ("prefixItems", "items")
_OTHERS: Final = ("patternProperties", "additionalProperties")
"""Keywords that depend on each other, so they are taken together."""


@dataclass(slots=True)
class Flat:
    """A flat schema: `keywords`, the `rules` that are only described, and the ids of all schemas merged into it."""

    keywords: dict[str, Any]
    rules: list[str] = field(default_factory=list)
    merged: frozenset[int] = frozenset()


class Flattener:
    """Flattens the schemas of one document. `targets` are the schemas that references lead to, by new name."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._references = References(document)
        self._names: dict[int, str] = {id(document): ROOT}
        self._left = _MOST_MERGED
        self.targets: dict[str, Any] = {ROOT: document}

    def flat(self, schema: Any, merged: frozenset[int], *, alone: bool = True) -> Flat:
        """The flat form of a schema inside of `merged` ones, which are not merged again. With `alone`, it may be a
        single `$ref`."""
        if not isinstance(schema, Mapping):
            return Flat({}, merged=merged)
        own = {name: each for name, each in schema.items() if name not in _SILENT}
        parts = own.pop("allOf", [])
        if "$ref" in own:
            parts = [{"$ref": own.pop("$ref")}, *parts]
        if alone and not own and len(parts) == 1 and isinstance(parts[0], Mapping) and "$ref" in parts[0]:
            name = self._name(parts[0]["$ref"])
            if name is not None and not parts[0].keys() - _SILENT - {"$ref"}:
                return Flat(reference_to(name), merged=merged)
        found = Flat(own, merged=merged)
        for each in parts:
            if not isinstance(each, Mapping) or not self._merge_part(found, each):
                break_off = alone and isinstance(each, Mapping) and "$ref" in each
                if break_off and (name := self._name(each["$ref"])) is not None:
                    return Flat(reference_to(name), merged=merged)
        return found

    def _merge_part(self, found: Flat, part: Mapping[str, Any]) -> bool:
        """Merge a part of `allOf`, or the target of a reference. Returns False for a reference that is not merged."""
        if "$ref" in part:
            target = self._references.target(part["$ref"])
            if id(target) in found.merged or self._left <= 0:
                return False
            self._left -= 1
            found.merged |= {id(target)}
            beside = {name: each for name, each in part.items() if name != "$ref"}
            for each in (beside, target):
                _merge(found, self.flat(each, found.merged, alone=False))
            return True
        _merge(found, self.flat(part, found.merged, alone=False))
        return True

    def _name(self, reference: str) -> str | None:
        """The name of the definition to which this reference leads in the copy, None for a boolean schema."""
        target = self._references.target(reference)
        if not isinstance(target, Mapping):
            return None
        if id(target) not in self._names:
            found = _DEFINITION.fullmatch(reference)
            name = found.group(1) if found else "part"
            while name in self.targets:
                name = f"{name}_{len(self.targets)}"
            self._names[id(target)] = name
            self.targets[name] = target
        return self._names[id(target)]


def _merge(into: Flat, part: Flat) -> None:
    """Merge a flat schema into another one, both of which apply to the same value."""
    own, more = into.keywords, dict(part.keywords)
    into.merged |= part.merged
    into.rules += part.rules
    _merge_objects(into, more)
    if any(name in own for name in _LISTS):
        for name in _LISTS:
            _move(more, into, name)
    for name, value in more.items():
        if name not in own:
            own[name] = value
        elif own[name] != value and name not in _ABOUT:
            into.rules.append(rule(name, value))


def _merge_objects(into: Flat, more: dict[str, Any]) -> None:
    """Merge, and take out of `more`, the keywords of objects that depend on each other."""
    own = into.keywords
    if "properties" in own and "properties" in more:
        both = {
            name: each
            for name, each in more["properties"].items()
            if own["properties"].get(name, each) != each
        }
        own["properties"] = {**more.pop("properties"), **own["properties"]}
        into.rules += [rule("properties", both)] if both else []
    if "required" in own and "required" in more:
        own["required"] = list(dict.fromkeys([*own["required"], *more.pop("required")]))
    if "additionalProperties" in more and "additionalProperties" not in own:
        _move(own, into, "patternProperties")
    elif any(name in own for name in _OTHERS):
        for name in _OTHERS:
            _move(more, into, name)


def _move(keywords: dict[str, Any], into: Flat, name: str) -> None:
    """Replace a keyword by its description."""
    if name in keywords:
        into.rules.append(rule(name, keywords.pop(name)))


def rule(keyword: str, value: Any) -> str:
    """A rule in a description: `maxLength 3`."""
    text = f"{keyword} {json.dumps(value, ensure_ascii=False)}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
