"""The schemas of answers: the refusals of the API, and its OpenAPI form as JSON Schema.

`responseJsonSchema` refuses a reference to another document, names beside `$ref` other than `$…`, recursion outside of
optional properties, and, with the bare "invalid argument", schemas with a sum of `maxItems` above 960
(python-genai#2170) and those that nest too deep.
"""

import json
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from simulator.gemini import refusals

MOST_ITEMS = 960
_DEEPEST = 40
_MOST_CHARACTERS = 256 * 1024

TOO_MANY_STATES = (
    "The specified schema produces a constraint that has too many states for serving. Typical causes of this error are "
    "schemas with lots of text (for example, very long property or enum names), schemas with long array length limits "
    "(especially when nested), or schemas using complex value matchers (for example, integers or numbers with "
    "minimum/maximum bounds or strings with complex formats like date-time)"
)


def check(schema: Any) -> None:
    """Check a `responseJsonSchema`.

    Raises:
        Refused: 400.
    """
    if not isinstance(schema, dict):
        raise refusals.of(400)
    message = _problem(json.dumps(schema))
    if message is not None:
        raise refusals.of(400, message)


@lru_cache(maxsize=256)
def _problem(text: str) -> str | None:
    """The refusal of a schema, in the words of the API; "" for the bare message. None if the API accepts it."""
    schema = json.loads(text)
    if len(text) > _MOST_CHARACTERS or _depth(schema) > _DEEPEST:
        return TOO_MANY_STATES
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"Invalid JSON schema: {error.message}"
    items = 0
    for place in _places(schema):
        reference = place.get("$ref")
        if isinstance(reference, str):
            if not reference.startswith("#") or resolve(schema, reference) is None:
                return f"Invalid JSON schema: unsupported reference {reference!r}"
            if any(not name.startswith("$") for name in place):
                return "Invalid JSON schema: no other fields can be set beside $ref"
        most = place.get("maxItems", 0)
        items += most if isinstance(most, int) else 0
    return "" if items > MOST_ITEMS or Recursion(schema).is_endless() else None


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


class Recursion:
    """Looks for a recursion that no optional property ends: a place that needs itself."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._entered: set[str] = set()
        self._ending: set[str] = set()

    def is_endless(self) -> bool:
        """Whether there is one."""
        return self._needs_itself(self._root)

    def _needs_itself(self, place: Any) -> bool:
        if not isinstance(place, dict):
            return False
        reference = place.get("$ref")
        if isinstance(reference, str):
            return self._follow(reference)
        known, required = place.get("properties", {}), place.get("required", ())
        needed = [each for name, each in known.items() if name in required]
        if place.get("minItems", 0):
            needed.append(place.get("items"))
        choices: list[Any] = place.get("anyOf") or place.get("oneOf") or []
        return any(map(self._needs_itself, needed)) or (
            bool(choices) and all(map(self._needs_itself, choices))
        )

    def _follow(self, reference: str) -> bool:
        if reference in self._ending:
            return False
        if reference in self._entered:
            return True
        self._entered.add(reference)
        found = self._needs_itself(resolve(self._root, reference))
        self._entered.discard(reference)
        if not found:
            self._ending.add(reference)
        return found
