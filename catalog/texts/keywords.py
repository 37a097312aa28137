"""Where the schemas inside a JSON Schema (Draft 2020-12) stand, and to what they apply."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
IN_PLACE: Final = ("not", "if", "then", "else")
IN_PLACE_MAPS: Final = ("dependentSchemas",)
"""Keywords with schemas that apply to the same value as the schema around them."""

LISTS: Final = (*IN_PLACE_LISTS, "prefixItems")
MAPS: Final = (*IN_PLACE_MAPS, "properties", "patternProperties", "$defs", "definitions")
SINGLE: Final = (
    *IN_PLACE, "items", "additionalProperties", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema",
)  # fmt: skip
"""Keywords with a list of schemas, with schemas by name, and with one schema."""

Place = tuple[str | int, ...]
"""The way from the root of a JSON value to a part of it."""


def parts(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """The schemas directly inside a schema, with the way to each."""
    for keyword in SINGLE:
        if keyword in schema:
            yield (keyword,), schema[keyword]
    for keyword in LISTS:
        if isinstance(schema.get(keyword), list):
            yield from (((keyword, index), each) for index, each in enumerate(schema[keyword]))
    for keyword in MAPS:
        if isinstance(schema.get(keyword), Mapping):
            yield from (((keyword, name), each) for name, each in schema[keyword].items())


def in_place(schema: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """The schemas directly inside a schema that apply to the same value. References are not followed."""
    for place, each in parts(schema):
        if place[0] in (*IN_PLACE_LISTS, *IN_PLACE, *IN_PLACE_MAPS):
            yield place, each


def walk(schema: Any, place: Place = ()) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every schema in a document that is an object, the outer ones first."""
    if isinstance(schema, Mapping):
        yield place, schema
        for inner, each in parts(schema):
            yield from walk(each, place + inner)


class References:
    """The local references of one document: `#`, `#/$defs/name`, `#anchor`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._anchors = {
            each["$anchor"]: each for _, each in walk(document) if isinstance(each.get("$anchor"), str)
        }

    def target(self, reference: str) -> Any:
        """The part of the document that a reference leads to, None if there is none."""
        fragment = reference.removeprefix("#")
        if not reference.startswith("#"):
            return None
        if not fragment.startswith("/"):
            return self._anchors.get(fragment) if fragment else self._document
        found: Any = self._document
        for step in fragment.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping):
                found = found.get(name)
            elif isinstance(found, list) and name.isascii() and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found


def shown(place: Place) -> str:
    """The way to a part as in the paths of problems: `.properties.names.items`, `.anyOf[0]`; empty for the root."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in place)
