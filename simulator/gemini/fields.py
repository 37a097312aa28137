"""The fields of a request, by google-genai 3.6.1: which names exist, and which types their values have.

A name may be written in camelCase or in snake_case. All unknown names and wrong types are reported at once, as the real
API does, and the request is returned in camelCase.
"""

import re
from typing import Any

from simulator.gemini import refusals

ANY = object()
"""A value of any form, left as it is."""

Field = Any
"""A dict for an object, a list of one for a list, ANY, or the name of a type."""

_PART = {
    "text": "TYPE_STRING",
    "inlineData": {"mimeType": "TYPE_STRING", "data": "TYPE_STRING", "displayName": "TYPE_STRING"},
    "fileData": {"mimeType": "TYPE_STRING", "fileUri": "TYPE_STRING", "displayName": "TYPE_STRING"},
    "thought": "TYPE_BOOL",
    "thoughtSignature": "TYPE_STRING",
    "functionCall": ANY,
    "functionResponse": ANY,
    "executableCode": ANY,
    "codeExecutionResult": ANY,
    "videoMetadata": ANY,
    "mediaResolution": ANY,
    "partMetadata": ANY,
}
_CONTENT = {"role": "TYPE_STRING", "parts": [_PART]}
_CONFIG = {
    "temperature": "TYPE_FLOAT",
    "topP": "TYPE_FLOAT",
    "topK": "TYPE_FLOAT",
    "candidateCount": "TYPE_INT32",
    "maxOutputTokens": "TYPE_INT32",
    "stopSequences": ["TYPE_STRING"],
    "seed": "TYPE_INT32",
    "presencePenalty": "TYPE_FLOAT",
    "frequencyPenalty": "TYPE_FLOAT",
    "responseLogprobs": "TYPE_BOOL",
    "logprobs": "TYPE_INT32",
    "responseMimeType": "TYPE_STRING",
    "responseSchema": ANY,
    "responseJsonSchema": ANY,
    "responseModalities": ["TYPE_STRING"],
    "mediaResolution": "TYPE_STRING",
    "thinkingConfig": {
        "thinkingLevel": "TYPE_STRING",
        "thinkingBudget": "TYPE_INT32",
        "includeThoughts": "TYPE_BOOL",
    },
    "imageConfig": ANY,
    "speechConfig": ANY,
    "enableEnhancedCivicAnswers": "TYPE_BOOL",
}
GENERATE: Field = {
    "model": "TYPE_STRING",
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "safetySettings": [{"category": "TYPE_STRING", "threshold": "TYPE_STRING"}],
    "tools": ANY,
    "toolConfig": ANY,
    "cachedContent": "TYPE_STRING",
    "serviceTier": "TYPE_STRING",
    "continuationToken": "TYPE_STRING",
    "store": "TYPE_BOOL",
    "generationConfig": _CONFIG,
}
COUNT: Field = {"contents": [_CONTENT], "generateContentRequest": GENERATE}

_SCHEMA_NAMES = frozenset(
    [
        "type",
        "format",
        "title",
        "description",
        "nullable",
        "enum",
        "maxItems",
        "minItems",
        "properties",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "example",
        "anyOf",
        "propertyOrdering",
        "default",
        "items",
        "minimum",
        "maximum",
    ]
)


def read(body: Any, known: Field) -> dict[str, Any]:
    """`body` with its names in camelCase.

    Raises:
        Refused: 400 that names every unknown field and every value of a wrong type.
    """
    if not isinstance(body, dict):
        raise refusals.bad_fields([("", "Invalid JSON payload received. Expected an object.")])
    violations: list[tuple[str, str]] = []
    found = _value(body, known, "", violations)
    schema = found.get("generationConfig", {}).get("responseSchema")
    if schema is not None:
        _subset(schema, "generation_config.response_schema", violations)
    if violations:
        raise refusals.bad_fields(violations)
    return found  # type: ignore[no-any-return]


def _value(value: Any, known: Field, place: str, violations: list[tuple[str, str]]) -> Any:
    if known is ANY or value is None:
        return value
    if isinstance(known, list):
        many = value if isinstance(value, list) else [value]  # a lone object counts as a list of one
        return [_value(each, known[0], f"{place}[{n}]", violations) for n, each in enumerate(many)]
    if isinstance(known, dict):
        if not isinstance(value, dict):
            violations.append((place, f"Invalid value at '{place}' (TYPE_MESSAGE), {_shown(value)}"))
            return {}
        return _object(value, known, place, violations)
    if not _fits(value, known):
        violations.append((place, f"Invalid value at '{place}' ({known}), {_shown(value)}"))
    return value


def _object(
    value: dict[str, Any], known: dict[str, Field], place: str, violations: list[tuple[str, str]]
) -> dict[str, Any]:
    found = {}
    for name, each in value.items():
        camel = _camel(name)
        if camel not in known:
            violations.append(_unknown(name, place))
        elif each is not None:
            inner = f"{place}.{_snake(camel)}" if place else _snake(camel)
            found[camel] = _value(each, known[camel], inner, violations)
    return found


def _unknown(name: str, place: str) -> tuple[str, str]:
    where = f" at '{place}'" if place else ""
    return place, f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'


def _subset(schema: Any, place: str, violations: list[tuple[str, str]]) -> None:
    """`responseSchema` is a subset of OpenAPI: without `$ref`, `additionalProperties` and lists of types."""
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        camel = _camel(name)
        if camel not in _SCHEMA_NAMES:
            violations.append(_unknown(name, place))
        elif camel == "type" and isinstance(value, list):
            said = f"Invalid value at '{place}.type' (type.googleapis.com/google.ai.generativelanguage.v1beta.Type)"
            violations.append((f"{place}.type", f"{said}, {_shown(value)}"))
        elif camel == "properties" and isinstance(value, dict):
            for key, each in value.items():
                _subset(each, f"{place}.properties[{key}]", violations)
        elif camel in ("items", "anyOf"):
            for each in value if isinstance(value, list) else [value]:
                _subset(each, f"{place}.{_snake(camel)}", violations)


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "TYPE_STRING":
            return isinstance(value, str)
        case "TYPE_BOOL":
            return isinstance(value, bool)
        case "TYPE_INT32":
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            return whole and not isinstance(value, bool) and -(2**31) <= value < 2**31
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _camel(snake: str) -> str:
    return re.sub(r"_([a-z])", lambda letter: letter[1].upper(), snake)


def _snake(camel: str) -> str:
    return re.sub(r"([A-Z])", lambda letter: f"_{letter[1].lower()}", camel)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
