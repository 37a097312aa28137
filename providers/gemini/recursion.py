"""Makes recursion in a copy such that Gemini takes it: a reference that leads back to its own definition may stand only
in an optional property (SDK google-genai 3.6.1, `response_json_schema`).

So a required property around such a reference becomes optional, and a reference outside of any property becomes a
schema with only the type and the title of the definition.
"""

from collections.abc import Callable
from typing import Any

from providers.gemini.copied import Schema, name_of, names_in, parts

Describe = Callable[[Schema, str], object]
"""Describes a rule in a schema of the copy."""


def break_cycles(definitions: dict[str, Schema], describe: Describe) -> None:
    """Change these definitions, by name, where they lead back to themselves."""
    below = {name: {*names_in(body)} for name, body in definitions.items()}
    reachable = {name: _reached(name, below) for name in definitions}
    for name, body in definitions.items():
        cyclic = {each for each in below[name] if name in reachable[each] or each == name}
        _Breaker(definitions, cyclic, describe).visit(body, owner=None, key="", is_optional=False)


class _Breaker:
    """Breaks the cycles of one definition. Its references to the `cyclic` ones lead back to it."""

    def __init__(self, definitions: dict[str, Schema], cyclic: set[str], describe: Describe) -> None:
        self._definitions = definitions
        self._cyclic = cyclic
        self._describe = describe

    def visit(self, schema: Any, *, owner: Schema | None, key: str, is_optional: bool) -> None:
        """Visit a schema inside the property `key` of `owner`, which is None outside of properties. It `is_optional` if
        it is inside of any optional property."""
        if not isinstance(schema, dict):
            return
        if "$ref" in schema and name_of(schema) in self._cyclic and not is_optional:
            if owner is None:
                self._replace(schema)
                return
            owner["required"].remove(key)
            if not owner["required"]:
                del owner["required"]
            self._describe(owner, f'required ["{key}"]')
            return
        for name, each in schema.get("properties", {}).items():
            is_free = is_optional or name not in schema.get("required", ())
            self.visit(each, owner=schema, key=name, is_optional=is_free)
        for each in parts(schema):
            is_free = is_optional or (owner is not None and key not in owner.get("required", ()))
            self.visit(each, owner=owner, key=key, is_optional=is_free)

    def _replace(self, reference: Schema) -> None:
        name = name_of(reference)
        target = self._definitions[name]
        del reference["$ref"]
        reference |= {each: target[each] for each in ("type", "title") if each in target}
        self._describe(reference, f"as {name}")


def _reached(name: str, below: dict[str, set[str]]) -> set[str]:
    """The definitions that this one leads to, in any number of steps."""
    found: set[str] = set()
    left = [name]
    while left:
        more = below[left.pop()] - found
        found |= more
        left += more
    return found
