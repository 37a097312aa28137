"""Published schemas: the OpenAPI document of a version, applied to inputs as Replicate and Cog apply it.

A document describes the inputs in `components.schemas.Input` and the output in `Output`. Choices stand in schemas of
their own, to which an input refers by `allOf`; here references are replaced and `allOf` is merged.

Inputs are checked with the tolerances that Replicate has: names that the document lacks are ignored, null means that
an optional input is not given, and a text that is exactly a number, `true` or `false` becomes one where the type says
so. If all choices have another type than the declared one, no value could be right, so any is taken.

Anyone can publish a document. So a bounded number of its schemas is read, also if they contain each other, and the rest
can be anything.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

Property = Mapping[str, Any]

_MOST_SCHEMAS = 20_000
"""The most schemas that are read of one document, with their keywords. Published ones have a hundredth."""

_DEEPEST = 64
_WHOLE = re.compile(r"[+-]?\d{1,300}")


class Schema:
    """The inputs and the output of a version.

    Args:
        document: The OpenAPI document, as published. One without `Input` takes any input.
        rules: Constraints in JSON Schema that the model has and its document lacks.
        prefix: `Training` for the schemas `TrainingInput` and `TrainingOutput` of a version that can be trained.

    Attributes:
        document: The OpenAPI document.
        inputs: The schema of each input, without references.
        required: The names of the required inputs.
        output: The schema of the output, without references. Empty if it can be anything.
    """

    def __init__(
        self, document: Mapping[str, Any], rules: Mapping[str, Any] | None = None, *, prefix: str = ""
    ) -> None:
        self.document = document
        resolver = _Resolver(_schemas(document))
        described = resolver.named(f"{prefix}Input")
        self.inputs: Mapping[str, Property] = described.get("properties", {})
        self.required: tuple[str, ...] = tuple(described.get("required", ()))
        self.output: Property = resolver.named(f"{prefix}Output")
        self._rules = dict(rules or {})

    @cached_property
    def training(self) -> "Schema | None":
        """The inputs and the output of its trainings. None if the version cannot be trained."""
        is_trainable = "TrainingInput" in _schemas(self.document)
        return Schema(self.document, prefix="Training") if is_trainable else None

    @cached_property
    def secrets(self) -> frozenset[str]:
        """The names of the inputs whose values must not be shown."""
        return frozenset(
            name
            for name, each in self.inputs.items()
            if each.get("x-cog-secret") or each.get("format") == "password"
        )

    @property
    def streams(self) -> bool:
        """Whether its output comes in pieces."""
        return self.output.get("x-cog-array-type") == "iterator"

    def default(self, name: str) -> Any:
        """The default of the input `name`, or None."""
        return self.inputs.get(name, {}).get("default")

    def value(self, inputs: Mapping[str, Any], *names: str) -> Any:
        """The value of the first of these inputs that is given or has a default, as the model gets it."""
        for name in names:
            given = _coerced(inputs.get(name), self.inputs.get(name, {}))
            if (found := self.default(name) if given is None else given) is not None:
                return found
        return None

    def coerced(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """`inputs` as the model gets them."""
        return {
            name: _coerced(value, self.inputs.get(name, {}))
            for name, value in inputs.items()
            if value is not None or name in self.required
        }

    def errors(self, inputs: Any) -> list[ValidationError]:
        """All errors of `inputs`, which can be any JSON value."""
        return list(self._validator.iter_errors(self.coerced(inputs) if isinstance(inputs, dict) else inputs))

    @cached_property
    def _validator(self) -> Draft202012Validator:
        properties = {name: _json_schema(each) for name, each in self.inputs.items()}
        schema = {"type": "object", "properties": properties, "required": list(self.required)}
        return Draft202012Validator(schema | self._rules)


def id_of(name: str, document: Mapping[str, Any]) -> str:
    """An id for the version of the model `name` with this document: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([name, document], sort_keys=True).encode()).hexdigest()


def document(
    inputs: Mapping[str, Property], output: Property, *, required: Sequence[str] = ("prompt",)
) -> dict[str, Any]:
    """The OpenAPI document that Replicate would publish for these inputs."""
    choices: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for order, (name, schema) in enumerate(inputs.items()):
        shown = {key: value for key, value in schema.items() if key not in ("enum", "type")}
        if "enum" in schema:
            kept = {key: schema[key] for key in ("enum", "type") if key in schema}
            choices[name] = kept | {"title": name, "description": "An enumeration."}
            shown["allOf"] = [{"$ref": f"#/components/schemas/{name}"}]
        else:
            shown |= {key: schema[key] for key in ("type",) if key in schema}
            shown |= {"title": name.replace("_", " ").title()}
        properties[name] = shown | {"x-order": order}
    fields = {"type": "object", "title": "Input", "required": list(required), "properties": properties}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {},
        "components": {"schemas": {"Input": fields, "Output": {**output, "title": "Output"}} | choices},
    }


def is_file(form: Property) -> bool:
    """Whether a schema is that of a file, which inputs and outputs have as an address."""
    return form.get("type") == "string" and form.get("format") == "uri"


def _schemas(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The named schemas of a document."""
    components = document.get("components")
    schemas = components.get("schemas") if isinstance(components, Mapping) else None
    return schemas if isinstance(schemas, Mapping) else {}


class _Resolver:
    """Replaces references to the schemas of one document, and merges `allOf`."""

    def __init__(self, schemas: Mapping[str, Any]) -> None:
        self._schemas = schemas
        self._left = _MOST_SCHEMAS

    def named(self, name: str, within: tuple[str, ...] = (), depth: int = _DEEPEST) -> dict[str, Any]:
        """The schema `name`; empty if it is missing or refers to itself."""
        return {} if name in within else self.of(self._schemas.get(name), (*within, name), depth)

    def of(self, schema: Any, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        """A schema of the document, which is nested in the named schemas `within`. `depth` is how deep it may be nested
        itself. Empty if it is too deep, or if too many were read before."""
        if not isinstance(schema, Mapping) or depth <= 0 or self._left <= 0:
            return {}
        self._left -= 1 + len(schema)
        below = depth - 1
        flat: dict[str, Any] = {}
        for part in schema.get("allOf") or ():
            flat |= self.of(part, within, below)
        if "$ref" in schema:
            flat |= self.named(str(schema["$ref"]).rpartition("/")[2], within, below)
        own = {name: value for name, value in schema.items() if name not in ("allOf", "$ref")}
        if isinstance(own.get("properties"), Mapping):
            own["properties"] = {
                name: self.of(each, within, below) for name, each in own["properties"].items()
            }
        if "items" in own:
            own["items"] = self.of(own["items"], within, below)
        for union in ("anyOf", "oneOf"):
            if isinstance(own.get(union), list):
                own[union] = [self.of(each, within, below) for each in own[union]]
        return flat | own


def _coerced(value: Any, schema: Property) -> Any:
    """`value` as Cog passes it on: a text becomes a number or a truth value where the type says so."""
    if isinstance(value, list):
        return [_coerced(each, schema.get("items", {})) for each in value]
    choices = schema.get("enum", ())
    if not isinstance(value, str) or value in choices:
        return value
    match schema.get("type"):
        case "integer" if _WHOLE.fullmatch(value):
            return int(value)
        case "number":
            return _number(value)
        case "boolean":
            return {"true": True, "false": False}.get(value.lower(), value)
    return value


def _number(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _json_schema(schema: Property) -> dict[str, Any]:
    """The constraints of an OpenAPI schema in JSON Schema, where null stands in the type."""
    made = {name: value for name, value in schema.items() if name != "nullable"}
    if "items" in made:
        made["items"] = _json_schema(made["items"])
    for union in ("anyOf", "oneOf"):
        if union in made:
            made[union] = [_json_schema(each) for each in made[union]]
    if "enum" in made and not any(_is_of(each, made.get("type")) for each in made["enum"]):
        del made["enum"], made["type"]
    if schema.get("nullable"):
        for name in {"type", "enum"} & made.keys():
            held = made[name] if isinstance(made[name], list) else [made[name]]
            made[name] = [*held, "null" if name == "type" else None]
    return made


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _is_of(value: Any, kind: Any) -> bool:
    return not isinstance(kind, str) or isinstance(value, _TYPES.get(kind, (object,)))
