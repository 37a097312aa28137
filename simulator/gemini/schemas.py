"""The schemas of answers: what the API refuses, and its OpenAPI form as JSON Schema.

`responseJsonSchema` refuses a reference to another document, names beside `$ref` other than `$…`, recursion outside of
optional properties, and, with the bare "invalid argument", schemas whose `maxItems` sum to more than 960
(python-genai#2170) or that nest too deep.
"""

import json
from typing import Any

from simulator.gemini import refusals

MOST_ITEMS = 960
_DEEPEST = 40
_MOST_CHARACTERS = 256 * 1024


def check(schema: Any) -> None:
    """Check a `responseJsonSchema`.

    Raises:
        Refused: 400.
    """
    if not isinstance(schema, dict):
        raise refusals.of(400)
    if _depth(schema) > _DEEPEST or len(json.dumps(schema)) > _MOST_CHARACTERS:
        raise refusals.of(
            400,
            "The specified schema produces a constraint that has too many states for serving. Typical causes of this "
            "error are schemas with lots of text (for example, very long property or enum names), schemas with long "
            "array length limits (especially when nested), or schemas using complex value matchers (for example, "
            "integers or numbers with minimum/maximum bounds or strings with complex formats like date-time)",
        )
    items = 0
    for place in _places(schema):
        reference = place.get("$ref")
        if reference is not None:
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise refusals.of(400, f"Invalid JSON schema: unsupported reference {reference!r}")
            if any(not name.startswith("$") for name in place):
                raise refusals.of(400, "Invalid JSON schema: no other fields can be set beside $ref")
        most = place.get("maxItems", 0)
        items += most if isinstance(most, int) else 0
    if items > MOST_ITEMS or _endless(schema, schema, ()):
        raise refusals.of(400)


def resolve(root: Any, reference: str) -> Any:
    """The place in `root` that a reference names, or None."""
    place = root
    for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return None
    return place


def from_openapi(schema: Any) -> Any:
    """A `responseSchema` as JSON Schema: types in lower case, `nullable` as a type."""
    if isinstance(schema, list):
        return [from_openapi(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: {key: from_openapi(each) for key, each in value.items()}
        if name == "properties" and isinstance(value, dict)
        else from_openapi(value)
        for name, value in schema.items()
        if name != "nullable"
    }
    kind = found.get("type")
    if isinstance(kind, str):
        found["type"] = [kind.lower(), "null"] if schema.get("nullable") else kind.lower()
    return found


def _places(schema: Any) -> list[dict[str, Any]]:
    """All objects in a schema; of examples and constants as well, which hardly matters."""
    found, left = [], [schema]
    while left:
        place = left.pop()
        if isinstance(place, dict):
            found.append(place)
            left += place.values()
        elif isinstance(place, list):
            left += place
    return found


def _depth(value: Any) -> int:
    deepest, left = 0, [(value, 1)]
    while left:
        place, depth = left.pop()
        deepest = max(deepest, depth)
        inner = place.values() if isinstance(place, dict) else place if isinstance(place, list) else ()
        if depth <= _DEEPEST * 4:
            left += [(each, depth + 1) for each in inner]
    return deepest


def _endless(root: Any, place: Any, path: tuple[str, ...]) -> bool:
    """Whether a place needs itself: a recursion that no optional property ends."""
    if not isinstance(place, dict):
        return False
    reference = place.get("$ref")
    if reference is not None:
        return reference in path or _endless(root, resolve(root, reference), (*path, reference))
    needed = [each for name, each in place.get("properties", {}).items() if name in place.get("required", ())]
    if place.get("minItems", 0):
        needed.append(place.get("items"))
    choices: list[Any] = place.get("anyOf") or place.get("oneOf") or []
    return any(_endless(root, each, path) for each in needed) or (
        bool(choices) and all(_endless(root, each, path) for each in choices)
    )
