"""A body as it is meant: `null` for an optional field is not given, and a whole float is an integer.

Serializers write both. The rest of the parsing, the ledger and the comparison under an idempotency key see a body only
like this. Fields that the route or the model does not have are left, to be refused, and so are values inside lists.
"""

from collections.abc import Mapping
from typing import Any, Final

from catalog.registry import Registry
from parsing.shapes import BatchFields, OwnFields, SingleFields

OF_ONE: Final = frozenset(SingleFields.model_fields) - {"model_name"}
"""The optional fields of `POST /generate`, beside its model's."""

OF_AN_ITEM: Final = frozenset(OwnFields.model_fields) - {"model_name"}
"""The optional fields of each of the `requests` of a batch, likewise."""

OF_A_BATCH: Final = frozenset(BatchFields.model_fields)

OF_PROMPTS: Final = OF_AN_ITEM - {"file_name"} | OF_A_BATCH | {"file_names"}
"""The optional fields of a batch of prompts, beside its model's."""


def normalised(
    request: Mapping[str, Any], registry: Registry, *, own: frozenset[str] = OF_ONE
) -> dict[str, Any]:
    """One request, or the shared fields of a batch of prompts, with every field as it is meant. `own` are the
    optional fields of this service."""
    return {
        name: whole(value)
        for name, value in request.items()
        if value is not None or not (name in own or _is_taken(name, request, registry))
    }


def normalised_batch(body: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A batch in either form, likewise."""
    if "requests" not in body:
        return normalised(body, registry, own=OF_PROMPTS)
    batch = {
        name: whole(value) for name, value in body.items() if value is not None or name not in OF_A_BATCH
    }
    if isinstance(requests := batch["requests"], list):
        batch["requests"] = [
            normalised(each, registry, own=OF_AN_ITEM) if isinstance(each, dict) else each
            for each in requests
        ]
    return batch


def whole(value: Any) -> Any:
    """A whole float as an integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_taken(name: str, request: Mapping[str, Any], registry: Registry) -> bool:
    """Whether it is an optional parameter of the request's model, or of any where another may be tried."""
    if name == "prompt":
        return False
    named, fallback = request.get("model_name"), request.get("fallback")
    model = registry.find(named) if isinstance(named, str) else None
    if model is not None and (fallback is None or fallback is False):
        return name in model.inputs.model_fields
    return name in registry.takers or name in registry.reference_names
