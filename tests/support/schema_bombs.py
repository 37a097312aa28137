"""Published documents of at most half a megabyte that would take minutes, or no end, to read in full."""

from collections.abc import Callable, Mapping
from typing import Any

Document = dict[str, Any]


def _document(inputs: Mapping[str, Any], output: Any, **schemas: Any) -> Document:
    entry = {"type": "object", "properties": inputs}
    return {"components": {"schemas": {"Input": entry, "Output": output, **schemas}}}


def _to(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _doubled(keyword: str) -> Document:
    """Each of forty schemas has the next one twice."""

    def twice(following: Any) -> Any:
        return {keyword: {"a": following, "b": following} if keyword == "properties" else [following] * 2}

    schemas = {f"A{n}": twice(_to(f"A{n + 1}")) for n in range(40)}
    return _document({"a": _to("A0")}, _to("A0"), **schemas, A40={"type": "string"})


def _circle(keyword: str, around: Callable[[Any], Any]) -> Document:
    schemas = {"A": {keyword: around(_to("B"))}, "B": {keyword: around(_to("A"))}}
    return _document({"a": _to("A"), "b": {"type": "integer"}}, _to("A"), **schemas)


def _chain() -> Document:
    schemas = {f"A{n}": {"type": "array", "items": _to(f"A{n + 1}")} for n in range(5_000)}
    return _document({"a": _to("A0")}, _to("A0"), **schemas)


def _large_texts() -> Document:
    """Thousands of references to a large text."""
    return _document({"a": {"anyOf": [_to("Text")] * 4_000}}, {}, Text={"default": "x" * 200_000})


def _large_text_compared() -> Document:
    """Thousands of small values, each of which is compared with a large one."""
    parts: list[Any] = [{"default": ["x"] * 40_000}, *[_to("One")] * 4_000]
    return _document({"a": {"allOf": parts}}, {}, One={"default": 1})


def _many_properties(output: Any) -> Document:
    properties: dict[str, Any] = {f"p{n}": {} for n in range(20_000)}
    return _document({"a": {"type": "string"}}, output, Many={"type": "object", "properties": properties})


def _many_keywords() -> Document:
    keywords = {f"x{n}": 1 for n in range(20_000)}
    return _document({"a": {"type": "string"}}, {"allOf": [_to("Many")] * 4_000}, Many=keywords)


def _growing_properties() -> Document:
    parts: list[Any] = [{"properties": {f"{n}-{m}": {} for m in range(12)}} for n in range(1_500)]
    return _document({"a": {"type": "string"}}, {"allOf": parts})


def _many_types() -> Document:
    document = _many_properties(_to("Many"))
    document["components"]["schemas"]["Many"]["type"] = ["object"] * 20_000
    return document


def _many_nulls() -> Document:
    options = {"Nulls": {"anyOf": [{"type": "null"}] * 15_000}}
    return _document({"a": {"type": "string"}}, {"anyOf": [_to("Nulls")] * 2_000}, **options)


def _long_pointers() -> Document:
    return _document(
        {"a": {"type": "string"}}, {"allOf": [_to("Long")] * 2_000}, Long={"$ref": "#" + "/" * 200_000}
    )


BOMBS: Mapping[str, Document] = {
    **{f"doubled by {each}": _doubled(each) for each in ("anyOf", "oneOf", "allOf", "properties")},
    "a circle of allOf": _circle("allOf", lambda each: [each]),
    "a circle of anyOf": _circle("anyOf", lambda each: [each, {"type": "string"}]),
    "a circle of items": _circle("items", lambda each: each),
    "a circle of properties": _circle("properties", lambda each: {"a": each, "b": each}),
    "a circle of references": _circle("$ref", lambda each: each["$ref"]),
    "a chain": _chain(),
    "large texts": _large_texts(),
    "a large text compared": _large_text_compared(),
    "many properties": _many_properties({"allOf": [_to("Many")] * 4_000}),
    "many properties in options": _many_properties({"anyOf": [_to("Many")] * 4_000}),
    "growing properties": _growing_properties(),
    "many keywords": _many_keywords(),
    "many types": _many_types(),
    "many nulls": _many_nulls(),
    "long pointers": _long_pointers(),
}
