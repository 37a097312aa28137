"""A call of the old library as a request to the service.

`FALLBACK_MODELS` say which models may run. The service adapts the parameters to each, leaves out those that a model
does not have, and moves reference images to the parameter of the model that takes them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicate_batch_process.catalogue import Models

log = logging.getLogger(__package__)

IMAGES = ("input_image", "image", "start_image", "reference_image", "image_input")
"""The parameters that count as reference images in the rules."""

EDITED = "input_image"
"""The parameter for an image that is to be edited."""

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
    models: Models,
    rules: Rules,
) -> tuple[str, dict[str, Any]]:
    """The model to begin with, and the other fields of `POST /generate`. `extension` is that of the file: `.png`.

    Raises ValueError for a model that the service does not have, and FileNotFoundError for a local file.
    """
    name = models.full_name(model_name)
    params = {each: value for each, value in params.items() if value is not None}
    first = _first(name, params, models, rules)
    kept = _known(_renamed(first, params, models), first, models)
    order = _order(first, rules)
    own = models.params(first)
    foreign = [each for each in IMAGES if each in kept and each not in own]
    decided = not foreign or (_count(params) == 1 and "reference_image" in rules.get(name, {}))
    return first, {
        "prompt": prompt,
        **_format(extension, own),
        **{each: _value(each, value, first, models) for each, value in kept.items()},
        "fallback": order if decided else True,  # the service knows which model takes these images
        "placeholder": bool(order) and models.kind(first) == "image",
    }


def _first(name: str, params: Mapping[str, Any], models: Models, rules: Rules) -> str:
    """The model to begin with, by the rules for reference images and unsupported parameters."""
    rule, supported = rules.get(name, {}), models.params(name)
    has_image = any(each in params for each in IMAGES)
    allowed = {*supported, *SERVICE, *(IMAGES if models.image_parameter(name) else ())}
    strange = params.keys() - allowed
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


def _renamed(first: str, params: Mapping[str, Any], models: Models) -> dict[str, Any]:
    """The parameters, with a reference image under the name of its purpose.

    A model of videos, or one that edits, takes any image as its own. For others, `input_image` leads to a model that
    edits.
    """
    own, meant = models.params(first), models.image_parameter(first)
    foreign = [each for each in IMAGES if each in params and each not in own]
    if _count(params) != 1 or not (models.kind(first) == "video" or meant == EDITED):
        foreign, meant = [each for each in foreign if each == "reference_image"], EDITED
    names = {} if meant is None or meant in params else dict.fromkeys(foreign, meant)
    return {names.get(each, each): value for each, value in params.items()}


def _count(params: Mapping[str, Any]) -> int:
    """The number of reference images."""
    images = [params[each] for each in IMAGES if each in params]
    return sum(len(each) if isinstance(each, (list, tuple)) else 1 for each in images)


def _known(params: Mapping[str, Any], first: str, models: Models) -> dict[str, Any]:
    """The parameters that any model has. The service leaves those out that the model itself does not have."""
    known = models.known_params().union(models.params(first), SERVICE)
    for each in params:
        if each not in known:
            log.warning("%s: no model has the parameter %s, so it is left out", first, each)
    return {each: value for each, value in params.items() if each in known}


def _format(extension: str, own: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The output format that fits the extension of the file, if the model has it."""
    options = own.get("output_format", {}).get("options", ())
    fitting = [each for each in _FORMATS.get(extension.lower(), ()) if each in options]
    return {"output_format": fitting[0]} if fitting else {}


def _value(name: str, value: Any, first: str, models: Models) -> Any:
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
