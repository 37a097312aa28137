"""The models of the door: those that make images and the text models, in the shape of OpenAI's `GET /v1/models`."""

from collections.abc import Callable, Mapping
from typing import Any

from catalog.model import Model
from errors import Problem
from parsing.validation import refuse_if_any


def may_make_images(model: Model) -> bool:
    """Whether it makes images, or its published schema does not say what it makes."""
    return model.kind in {"image", None}


def refuse_others(body: Mapping[str, Any], find: Callable[[str], Model | None]) -> None:
    """Raises InvalidRequest if a renamed body names a model that makes no images, also as a fallback. `find` returns
    the model of a name."""
    fallback = body.get("fallback")
    listed = fallback if isinstance(fallback, list) else []
    names = {"model": body.get("model_name"), **{f"fallback[{n}]": each for n, each in enumerate(listed)}}
    found = {field: find(name) for field, name in names.items() if isinstance(name, str)}
    refuse_if_any(
        [
            Problem(field, f"makes {model.kind}, and this route makes images only", names[field])
            for field, model in found.items()
            if model is not None and not may_make_images(model)
        ]
    )


def entry(model: Model) -> dict[str, Any]:
    """One model, with a few facts of ours beside OpenAI's. There is no date of its making, so `created` is 0. A text
    model has no `price` of a call: `GET /models` has those of its tokens."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.provider if model.kind == "text" else model.name.partition("/")[0],
        "aliases": list(model.aliases),
        "kind": model.kind,
        "price": model.price.as_json() if model.price else None,
    }
