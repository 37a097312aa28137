"""Secret inputs of a request, which must not be written, logged or answered. A digest of a body may be written, so a
keyed hash takes the place of each secret in it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from catalog.model import Model
from parsing.context import ParseContext
from parsing.params import INPUT


def hidden(body: Any, context: ParseContext, keyed: Callable[[str], str]) -> Any:
    """The body of any route with each secret replaced by its `keyed` hash. The body itself if it has none."""
    if not isinstance(body, dict):
        return body

    def hide(fields: Any, model: Model | None) -> Any:
        if model is None or not isinstance(fields, Mapping):
            return fields
        kept = with_hashes(fields, context.secrets_in(model, fields), keyed)
        return kept | ({INPUT: hide(kept[INPUT], model)} if INPUT in kept else {})

    shared = _model_of(body, context)
    found = hide(body, shared)
    if isinstance(requests := found.get("requests"), list):
        found = found | {"requests": [hide(each, _model_of(each, context)) for each in requests]}
    if isinstance(inputs := found.get("inputs"), list):
        found = found | {"inputs": [hide(each, shared) for each in inputs]}
    return found


def with_hashes(
    fields: Mapping[str, Any], secrets: Collection[str], keyed: Callable[[str], str]
) -> dict[str, Any]:
    """The fields with the `keyed` hash of each of these secrets that is set."""
    return {
        name: keyed(str(value)) if name in secrets and value is not None else value
        for name, value in fields.items()
    }


def _model_of(request: Any, context: ParseContext) -> Model | None:
    name = request.get("model_name") if isinstance(request, dict) else None
    return context.find(name) if isinstance(name, str) else None
