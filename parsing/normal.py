"""A body as it is meant: `null` for an optional field is not given, and a whole float is an integer.

Serializers write both, and clients of several models and routes write `null` for fields that one of them does not
have. The rest of the parsing, the ledger and the comparison under an idempotency key see a body only like this. Unknown
fields are left, to be refused, and so are values inside lists.
"""

from collections.abc import Mapping
from typing import Any, Final

from catalog.registry import Registry
from parsing.shapes import BatchFields, SingleFields

OPTIONAL: Final = frozenset(
    {*SingleFields.model_fields, *BatchFields.model_fields, "prompts", "file_names", "requests"}
) - {"model_name"}
"""The optional fields of this service, whichever route takes them."""


def normalised(request: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """One request, or the shared fields of a batch, with every field as it is meant."""
    return {
        name: whole(value)
        for name, value in request.items()
        if value is not None or not _is_optional(name, registry)
    }


def normalised_batch(body: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A batch in either form, likewise."""
    batch = normalised(body, registry)
    if isinstance(requests := batch.get("requests"), list):
        batch["requests"] = [
            normalised(each, registry) if isinstance(each, dict) else each for each in requests
        ]
    return batch


def whole(value: Any) -> Any:
    """A whole float as an integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_optional(name: str, registry: Registry) -> bool:
    """Whether it is an optional field of the service, or a parameter of any model beside the prompt."""
    return name in OPTIONAL or (
        name != "prompt" and (name in registry.takers or name in registry.reference_names)
    )
