"""Finds the files among the parameters of a body: reference images, and the files of models that take any."""

from collections.abc import Callable
from functools import partial
from typing import Any

from catalog.inputs import Input, Inputs
from catalog.references import NAMES
from parsing.context import ParseContext
from parsing.params import INPUT

Change = Callable[[str, Input | None, str], Any]
"""Returns what replaces a text: by the path of its field, its input, and the text itself. A reference image by the name
of another model has no input."""


def with_changed_files(body: Any, context: ParseContext, change: Change) -> Any:
    """The body with the texts changed where files are taken, also in the `requests` or `inputs` of a batch."""
    if not isinstance(body, dict):
        return body
    own = _inputs_of(body, context)
    body = _changed("", body, own, change)
    if isinstance(requests := body.get("requests"), list):
        items = [
            _changed(f"requests[{index}].", each, _inputs_of(each, context), change)
            for index, each in enumerate(requests)
        ]
        body = body | {"requests": items}
    if isinstance(inputs := body.get("inputs"), list):
        items = [_changed(f"inputs[{index}].", each, own, change) for index, each in enumerate(inputs)]
        body = body | {"inputs": items}
    return body


def _inputs_of(request: Any, context: ParseContext) -> Inputs | None:
    name = request.get("model_name") if isinstance(request, dict) else None
    model = context.find(name) if isinstance(name, str) else None
    return None if model is None else model.inputs


def _changed(prefix: str, fields: Any, inputs: Inputs | None, change: Change) -> Any:
    """The parameters of a request with their files changed. A declared model, or none, may also have reference images
    by the names of other models."""
    if not isinstance(fields, dict):
        return fields
    if isinstance(inside := fields.get(INPUT), dict):
        fields = fields | {INPUT: _changed(f"{prefix}{INPUT}.", inside, inputs, change)}
    takers: dict[str, Input | None] = {}
    if inputs is None or not inputs.lenient:
        takers = dict.fromkeys(NAMES)
    if inputs is not None:
        takers |= {name: inputs[name] for name in fields if inputs.holds_files(name)}
    return fields | {
        name: _each(fields[name], partial(change, f"{prefix}{name}", taker))
        for name, taker in takers.items()
        if name in fields
    }


def _each(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, list):
        return [change(each) if isinstance(each, str) else each for each in value]
    return change(value) if isinstance(value, str) else value
