"""Random JSON Schemas (Draft 2020-12) and JSON values that often fit them."""

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "c", "ab", "x-y"])
TEXTS = st.sampled_from(["", "a", "b", "ab", "abc", "é", "2026-11-28", "😀"])
NUMBERS = st.one_of(st.integers(-3, 6), st.sampled_from([0.5, 2.0, -1.5, 1e20]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
INSTANCES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)

TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])

DEFINED = ("one", "two", "three")

ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        "title": TEXTS,
        "description": TEXTS,
        "default": SCALARS,
        "examples": st.lists(SCALARS, max_size=2),
        "format": st.sampled_from(["date", "email"]),
        "x-note": TEXTS,
        "$comment": TEXTS,
    },
)

PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
        "enum": st.lists(INSTANCES, max_size=4, unique_by=repr),
        "const": SCALARS,
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.integers(1, 3),
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(0, 3),
        "pattern": st.sampled_from(["^a", "b$", "^[a-z]*$"]),
        "minItems": st.integers(0, 3),
        "maxItems": st.integers(0, 4),
        "uniqueItems": st.booleans(),
        "minProperties": st.integers(0, 2),
        "maxProperties": st.integers(0, 4),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=1), max_size=1),
    },
)


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas with these schemas inside. References lead to `DEFINED`."""
    lists = st.lists(inner, min_size=1, max_size=3)
    maps = st.dictionaries(NAMES, inner, max_size=3)
    nested = st.fixed_dictionaries(
        {},
        optional={
            "properties": maps,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=2),
            "additionalProperties": inner,
            "propertyNames": inner,
            "unevaluatedProperties": inner,
            "items": inner,
            "prefixItems": lists,
            "contains": inner,
            "unevaluatedItems": inner,
            "allOf": lists,
            "anyOf": lists,
            "oneOf": lists,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentSchemas": st.dictionaries(NAMES, inner, max_size=1),
        },
    )
    return st.builds(
        lambda *parts: {k: v for part in parts for k, v in part.items()}, PLAIN, nested, ANNOTATIONS
    )


FLAT = st.one_of(st.booleans(), st.builds(lambda one, two: {**one, **two}, PLAIN, ANNOTATIONS))
NESTED = st.recursive(FLAT, deeper, max_leaves=6)


def referring(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas, some of which are references to definitions, which may lead back to themselves."""
    reference = st.builds(
        lambda name, beside: {"$ref": f"#/$defs/{name}", **beside}, st.sampled_from(DEFINED), ANNOTATIONS
    )
    root = st.builds(lambda beside: {"$ref": "#", **beside}, ANNOTATIONS)
    return st.one_of(inner, reference, root)


WITH_REFERENCES = st.recursive(referring(FLAT), deeper, max_leaves=6)

SCHEMAS = NESTED.filter(lambda each: isinstance(each, dict))
"""Schemas without references."""

REFERRING = st.builds(
    lambda schema, properties, items: {**schema, "properties": properties, "items": items},
    WITH_REFERENCES.filter(lambda each: isinstance(each, dict)),
    st.dictionaries(NAMES, referring(FLAT), min_size=1, max_size=3),
    referring(FLAT),
)

DOCUMENTS = st.builds(
    lambda root, defs: {**root, "$defs": defs},
    REFERRING,
    st.fixed_dictionaries(dict.fromkeys(DEFINED, st.one_of(REFERRING, FLAT))),
)
"""Schemas with references, some of which `schema_check` refuses."""
