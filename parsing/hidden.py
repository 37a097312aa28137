"""Secret inputs of a request, which must not be written, logged or answered. A digest of a body may be written, so a
keyed hash takes the place of each secret in it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from parsing.context import ParseContext
from parsing.params import INPUT


def hidden(body: Any, context: ParseContext, keyed: Callable[[str], str]) -> Any:
    """The body of any route with each secret replaced by its `keyed` hash. The body itself if it has none."""
    if not isinstance(body, dict):
        return body
    shared = _secrets_of(body, context)
    found = _hidden(body, shared, keyed)
    if isinstance(requests := found.get("requests"), list):
        found = found | {"requests": [_hidden(each, _secrets_of(each, context), keyed) for each in requests]}
    if shared and isinstance(inputs := found.get("inputs"), list):
        found = found | {"inputs": [_hidden(each, shared, keyed) for each in inputs]}
    return found


def _secrets_of(request: Any, context: ParseContext) -> Collection[str]:
    name = request.get("model_name") if isinstance(request, dict) else None
    model = context.find(name) if isinstance(name, str) else None
    return () if model is None else model.inputs.secrets


def _hidden(fields: Any, names: Collection[str], keyed: Callable[[str], str]) -> Any:
    if not names or not isinstance(fields, Mapping):
        return fields
    kept = {name: keyed(str(value)) if name in names else value for name, value in fields.items()}
    return kept | ({INPUT: _hidden(kept[INPUT], names, keyed)} if INPUT in kept else {})
