"""A call of the old library as a request to the service.

`FALLBACK_MODELS` say which models may run. The service adapts the parameters to each, leaves out those that a model
does not have, and moves reference images to the parameter of the model that takes them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicate_batch_process.catalogue import ModelTable

log = logging.getLogger(__package__)

IMAGES = ("input_image", "image", "start_image", "reference_image", "image_input")
"""The parameters that count as reference images in the rules."""

SERVICE = ("max_cost_usd", "metadata", "start_timeout", "timeout")
"""The fields of the service that a call may have beside parameters of models."""

MOST_MODELS = 4
"""The models of one call: the first, and three that take over."""

_FORMATS = {".jpg": ("jpg", "jpeg"), ".jpeg": ("jpg", "jpeg"), ".png": ("png",), ".webp": ("webp",)}

Rules = Mapping[str, Mapping[str, Mapping[str, Any]]]


def translated(
    prompt: str,
    model_name: str,
    params: Mapping[str, Any],
    *,
    extension: str,
    models: ModelTable,
    rules: Rules,
) -> tuple[str, dict[str, Any]]:
    """The model to begin with, and the other fields of `POST /generate`. `extension` is that of the file: `.png`.

    Raises ValueError for a model that the service does not have, and FileNotFoundError for a local file.
    """
    name = models.find(model_name).get("name", model_name)
    params = {each: value for each, value in params.items() if value is not None}
    first = _first(name, params, models, rules)
    images = [each for each in IMAGES if each in params]
    kept = _known(_renamed(first, params, models), first, models)
    order = _order(first, rules)
    own = models.find(first)["supported_params"]
    decided = "reference_image" in rules.get(name, {}) or all(each in own for each in images)
    return first, {
        "prompt": prompt,
        **_format(extension, own),
        **{each: _value(each, value, first, models) for each, value in kept.items()},
        "fallback": order if decided else True,
        "placeholder": bool(order) and models.find(first)["model_type"] == "image",
    }


def _first(name: str, params: Mapping[str, Any], models: ModelTable, rules: Rules) -> str:
    """The model to begin with, by the rules for reference images and unsupported parameters."""
    rule, supported = rules.get(name, {}), models.find(name)["supported_params"]
    has_image = any(each in params for each in IMAGES)
    strange = [each for each in params if each not in supported and each not in SERVICE]
    for reason, applies in (("reference_image", has_image), ("parameter_invalidation", bool(strange))):
        if applies and reason in rule:
            log.info("%s: %s takes over (%s)", name, rule[reason]["fallback_model"], reason)
            return str(rule[reason]["fallback_model"])
    return name


def _order(first: str, rules: Rules) -> list[str]:
    """The models that take over after failures, in this order."""
    found = [first]
    while len(found) < MOST_MODELS and (rule := rules.get(found[-1], {}).get("fail")):
        if rule["fallback_model"] in found:
            break
        found.append(rule["fallback_model"])
    return found[1:]


def _renamed(first: str, params: Mapping[str, Any], models: ModelTable) -> dict[str, Any]:
    """The parameters, with reference images under a name that the service knows. Of a video, any image is the one that
    the model has; of a picture, `input_image` means that it is to be edited, and leads to a model that edits."""
    entry = models.find(first)
    own = entry["supported_params"]
    meant = entry.get("image_parameter") if entry["model_type"] == "video" else None
    names = {
        each: meant or ("input_image" if each == "reference_image" else each)
        for each in IMAGES
        if each in params and each not in own
    }
    return {names.get(each, each): value for each, value in params.items()}


def _known(params: Mapping[str, Any], first: str, models: ModelTable) -> dict[str, Any]:
    """The parameters that any model has. The service leaves those out that the model itself does not have."""
    known = set(models.find(first)["supported_params"]).union(SERVICE, *models.parameters())
    for each in params:
        if each not in known:
            log.warning("%s: no model has the parameter %s, so it is left out", first, each)
    return {each: value for each, value in params.items() if each in known}


def _format(extension: str, own: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The output format that fits the extension of the file, if the model has it."""
    options = own.get("output_format", {}).get("options", ())
    fitting = [each for each in _FORMATS.get(extension.lower(), ()) if each in options]
    return {"output_format": fitting[0]} if fitting else {}


def _value(name: str, value: Any, first: str, models: ModelTable) -> Any:
    """The value, with local files as paths, which are uploaded."""
    if not models.is_file(first, name):
        return value
    return [_file(name, each) for each in value] if isinstance(value, (list, tuple)) else _file(name, value)


def _file(name: str, value: Any) -> Any:
    if not isinstance(value, str) or value.lower().startswith(("http://", "https://", "data:")):
        return value
    path = Path(value).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no file {value}")
    return path
