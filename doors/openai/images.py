"""Puts the pictures of `/v1/images/edits` into the inputs that the model has for them."""

from collections.abc import Mapping
from typing import Any, Final

from catalog.model import Model
from errors import Problem

IMAGE: Final = "image"
MASK: Final = "mask"

_MASKS: Final = ("mask", "mask_image", "image_mask", "inpaint_mask")
_USUAL: Final = (
    "image",
    "input_image",
    "image_input",
    "input_images",
    "images",
    "image_prompt",
    "reference_images",
)
"""Inputs that take pictures at models without declared references, the likeliest first."""


def put_images(model: Model, body: dict[str, Any], problems: list[Problem], *, falls_back: bool) -> None:
    """Move `image` (or `images`) and `mask` into the inputs of the model. Problems are added. If the request
    `falls_back` to other models, pictures that this model does not take are left for them."""
    images = _listed(body.pop(IMAGE, None)) + _listed(body.pop("images", None))
    _put_mask(model, body, problems)
    name = _input_for_images(model)
    if not images:
        if name is None or name not in body:
            problems.append(Problem(IMAGE, "is required: one picture or several"))
        return
    if name is None or len(images) > _most(model, name):
        if falls_back:
            body[name or IMAGE] = images
        else:
            why = f"takes at most {_most(model, name)}" if name else "takes no pictures"
            problems.append(Problem(IMAGE, f"is not possible so: {model.short_name} {why}"))
        return
    body[name] = images if model.inputs[name].is_list else images[0]


def became_of_images(model: Model | None, given: Mapping[str, Any]) -> str | None:
    """The input of the model that `put_images` moves the pictures of this body into; None if it has none."""
    has_some = given.get(IMAGE) is not None or given.get("images") is not None
    return _input_for_images(model) if model is not None and has_some else None


def _put_mask(model: Model, body: dict[str, Any], problems: list[Problem]) -> None:
    masks = _listed(body.pop(MASK, None))
    if not masks:
        return
    name = next((each for each in _MASKS if each in model.inputs), None)
    if name is None:
        problems.append(Problem(MASK, f"is not taken by {model.short_name}"))
    elif len(masks) > 1:
        problems.append(Problem(MASK, "must be one picture"))
    else:
        body[name] = masks[0]


def _input_for_images(model: Model) -> str | None:
    if model.references is not None:
        return model.references.parameter
    takers = [name for name in model.inputs if model.inputs.holds_files(name) and name not in _MASKS]
    return next((name for name in _USUAL if name in takers), takers[0] if takers else None)


def _most(model: Model, name: str) -> int:
    if model.references is not None:
        return model.most_references
    taken = model.inputs[name]
    return (taken.most_items or 1000) if taken.is_list else 1


def _listed(value: Any) -> list[Any]:
    """Pictures as a list of their addresses or files. OpenAI's JSON has each as `{"image_url": …}`, too."""
    if value is None:
        return []
    return [address_of(each) for each in value] if isinstance(value, list) else [address_of(value)]


def address_of(value: Any) -> Any:
    """The address in OpenAI's `{"image_url": …}`, or in a value that is one."""
    if isinstance(value, Mapping):
        address = value.get("image_url", value)
        return address.get("url", address) if isinstance(address, Mapping) else address
    return value
