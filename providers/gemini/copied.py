"""Walks the copies of JSON Schemas that are sent to Gemini: schemas inside schemas, and references to definitions."""

from collections.abc import Iterator
from typing import Any, Final

Schema = dict[str, Any]

_PREFIX: Final = "#/$defs/"


def reference_to(name: str) -> Schema:
    """A schema that refers to this definition."""
    return {"$ref": f"{_PREFIX}{name}"}


def name_of(reference: Schema) -> str:
    """The name of the definition to which a schema with a `$ref` leads."""
    return str(reference["$ref"]).removeprefix(_PREFIX)


def names_in(schema: Any) -> Iterator[str]:
    """The names of the definitions to which the references in a schema lead."""
    return (name_of(each) for each in schemas_in(schema) if "$ref" in each)


def schemas_in(schema: Any) -> Iterator[Schema]:
    """Every schema in a copy, the outer ones first. A boolean has none."""
    if not isinstance(schema, dict):
        return
    yield schema
    for each in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *parts(schema)):
        yield from schemas_in(each)


def parts(schema: Schema) -> Iterator[Any]:
    """The schemas directly inside a schema, other than properties and definitions."""
    yield from (*schema.get("prefixItems", ()), *schema.get("anyOf", ()))
    yield from (schema[name] for name in ("items", "additionalProperties") if name in schema)
