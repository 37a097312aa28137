"""Texts that are paths of local files, where a model takes a file: they become `Path`, which is sent as that file."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from replicate_concurrent.errors import ApiError
from replicate_concurrent.operations.references import LISTS, Payload, payload
from replicate_concurrent.operations.sending import Call, Service, json_of, send
from replicate_concurrent.operations.steps import Operation, do
from replicate_concurrent.schemas import Schema, inputs, is_address, items, takes_file

_NO_FILES: Final = ("prompt", "prompts", "model_name")
"""Parameters of any model that are texts, and are not looked for on the disk."""

Body = Mapping[str, Any]


def payload_with_files(service: Service, body: Body, *, deadline: float) -> Operation[Payload]:
    """The payload of a generation or batch, with its local files. A model is looked up only if a text among its
    parameters is the path of a file that exists. Raises as `payload` and `send`."""
    schemas: dict[str, Schema] = {}
    for name in (yield from do(_models_with_paths, body)):
        schemas[name] = yield from _schema(service, name, deadline)
    return (yield from do(payload, _replaced(body, schemas) if schemas else body))


def _schema(service: Service, name: str, deadline: float) -> Operation[Schema]:
    """The schema of the parameters of a model; an empty one if it is unknown, which the service then explains."""
    call = Call("GET", f"/models/{quote(name, safe='/:')}")
    try:
        return json_of((yield from send(service, call, deadline=deadline))).get("input_schema") or {}
    except ApiError:
        return {}


def _models_with_paths(body: Body) -> list[str]:
    """The names of the models with parameters of which a text is the path of a local file."""
    found: dict[str, None] = {}

    def look(values: Body, model: object) -> Body:
        texts = (text for name, value in values.items() if name not in _NO_FILES for text in _texts(value))
        if isinstance(model, str) and any(map(is_path, texts)):
            found[model] = None
        return values

    _each_request(body, None, look)
    return list(found)


def _replaced(body: Body, schemas: Mapping[str, Schema]) -> Body:
    def replace(values: Body, model: object) -> Body:
        known = inputs(schemas.get(str(model)) or {})
        return {name: _value(value, known.get(name) or {}) for name, value in values.items()}

    return _each_request(body, None, replace)


def _each_request(body: Body, model: object, change: Callable[[Body, object], Body]) -> Body:
    """The body with all parameters changed: its own, those in its `input`, and those of each item of a batch. `change`
    also gets the name of their model, which is `model` unless the body names one."""
    model = body.get("model_name", model)
    changed = dict(change(body, model))
    if isinstance(body.get("input"), Mapping):
        changed["input"] = change(body["input"], model)
    for name in LISTS:
        if isinstance(body.get(name), (list, tuple)):
            changed[name] = [
                _each_request(each, model, change) if isinstance(each, Mapping) else each
                for each in body[name]
            ]
    return changed


def _value(value: Any, schema: Schema) -> Any:
    if isinstance(value, (list, tuple)):
        return [_value(each, items(schema)) for each in value]
    return Path(value).expanduser() if takes_file(schema) and is_path(value) else value


def _texts(value: Any) -> list[Any]:
    return [text for each in value for text in _texts(each)] if isinstance(value, (list, tuple)) else [value]


def is_path(value: object) -> bool:
    """Whether it is a text that is the path of a local file."""
    # Not by `Path`, which raises an error for a text that is too long for a path.
    return isinstance(value, str) and not is_address(value) and os.path.isfile(os.path.expanduser(value))  # noqa: PTH111, PTH113
