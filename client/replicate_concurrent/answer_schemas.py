"""What an answer must fit: a JSON Schema as a dictionary, a dataclass, or a model class of pydantic.

Fields of a dataclass may be texts, numbers, booleans, lists, dictionaries with texts as keys, `Literal`, optional ones,
dataclasses, and `Any`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

_KINDS: Final[Mapping[Any, str]] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def json_schema(schema: Any) -> dict[str, Any]:
    """The JSON Schema of a dictionary, a dataclass or a pydantic class. Raises TypeError for anything else, and for a
    field of a type that has none."""
    if isinstance(schema, Mapping):
        return dict(schema)
    if callable(described := getattr(schema, "model_json_schema", None)):
        found: dict[str, Any] = described()
        return found
    if isinstance(schema, type) and is_dataclass(schema):
        return _of_class(schema, ())
    raise TypeError(f"schema must be a dict, a dataclass or a class of pydantic, got {schema!r}")


def built(schema: Any, data: Any) -> Any:
    """An instance of the class from the JSON of an answer; for a dictionary, the JSON itself."""
    if callable(validate := getattr(schema, "model_validate", None)):
        return validate(data)
    return _value(schema, data) if isinstance(schema, type) else data


def _of_class(kind: type, above: tuple[type, ...]) -> dict[str, Any]:
    if kind in above:
        raise TypeError(f"{kind.__name__} contains itself; pass a JSON Schema as a dict")
    hints = get_type_hints(kind)
    own = [each for each in _fields(kind) if each.init]
    return {
        "type": "object",
        "properties": {each.name: _of(hints[each.name], (*above, kind)) for each in own},
        "required": [each.name for each in own if _is_required(each)],
    }


def _of(kind: Any, above: tuple[type, ...]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind in _KINDS:
        return {"type": _KINDS[kind]}
    if kind is type(None):
        return {"type": "null"}
    if isinstance(kind, type) and is_dataclass(kind):
        return _of_class(kind, above)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(each, above) for each in arguments]}
    if kind is list or origin is list:
        return {"type": "array", **({"items": _of(arguments[0], above)} if arguments else {})}
    if kind is dict or (origin is dict and arguments[0] is str):
        return {"type": "object", **({"additionalProperties": _of(arguments[1], above)} if arguments else {})}
    raise TypeError(f"{kind!r} has no JSON Schema here; pass one as a dict")


def _value(kind: Any, data: Any) -> Any:
    """The data as a value of this type. It fits the schema already."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(data, Mapping):
        hints = get_type_hints(kind)
        known = [each.name for each in _fields(kind) if each.init and each.name in data]
        return kind(**{name: _value(hints[name], data[name]) for name in known})
    if origin in (Union, types.UnionType):
        inner = [each for each in arguments if each is not type(None)]
        return _value(inner[0], data) if len(inner) == 1 else data
    if origin is list and isinstance(data, list):
        return [_value(arguments[0], each) for each in data]
    if origin is dict and isinstance(data, Mapping):
        return {name: _value(arguments[1], each) for name, each in data.items()}
    return float(data) if kind is float and isinstance(data, int) else data


def _fields(kind: Any) -> tuple[Field[Any], ...]:
    return fields(kind)


def _is_required(own: Field[Any]) -> bool:
    return own.default is MISSING and own.default_factory is MISSING
