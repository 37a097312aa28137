"""Models in the shape of OpenAI's `GET /v1/models`."""

from typing import Any

from catalog.model import Model


def entry(model: Model) -> dict[str, Any]:
    """One model, with a few facts of ours beside OpenAI's. There is no date of its making, so `created` is 0."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.name.partition("/")[0],
        "aliases": list(model.aliases),
        "kind": model.kind,
        "price": model.price.as_json() if model.price else None,
    }
