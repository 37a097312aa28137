"""Normalizes a body: drops optional fields that are `null`, and turns whole floats into integers.

Serializers write both, and clients write `null` for fields that a model or a route does not have. Parsing, the ledger
and the comparison under an idempotency key get only normalized bodies. Unknown fields stay, to be refused, and values
inside lists stay unchanged.
"""

from collections.abc import Mapping
from typing import Any, Final

from catalog.plain_schema import whole
from catalog.registry import Registry
from parsing.shapes import BatchFields, ItemFields, SingleFields

OPTIONAL: Final = frozenset(
    {
        *SingleFields.model_fields,
        *ItemFields.model_fields,
        *BatchFields.model_fields,
        "prompts",
        "file_names",
        "requests",
        "inputs",
    }
) - {"model_name"}
"""The optional fields of all routes."""


def normalised(request: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A request, or the shared fields of a batch, normalized."""
    return {
        name: whole(value)
        for name, value in request.items()
        if value is not None or not _is_optional(name, registry)
    }


def normalised_batch(body: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A batch of prompts or of requests, normalized."""
    batch = normalised(body, registry)
    if isinstance(requests := batch.get("requests"), list):
        batch["requests"] = [
            normalised(each, registry) if isinstance(each, dict) else each for each in requests
        ]
    return batch


def _is_optional(name: str, registry: Registry) -> bool:
    """Whether it is an optional field of the service, or a parameter of any model except `prompt`."""
    return name in OPTIONAL or (
        name != "prompt" and (name in registry.takers or name in registry.reference_names)
    )
