"""The OpenAPI 3.1 document, assembled from the declarations that validate.

The schemas of requests come from the registry and the parser, those of errors from the error tree. Only the routes
(`operations.py`) and their successful answers (`schemas.py`) are written by hand. A test compares both with real
answers. No framework does this: docs/decisions/0006-openapi-from-declarations.md gives the reasons.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from api.openapi import (
    chat_door,
    keys,
    lists,
    openai_door,
    replicate_door,
    semaphores,
    status,
    texts,
    trainings,
)
from api.openapi import models as models_of
from api.openapi.groups import grouped, tags
from api.openapi.operations import paths
from api.openapi.schemas import JSON, an_object, answers, ref
from auth import ADMIN_HEADER, KEY_HEADER, USER_HEADER
from catalog.model import Model, nullable
from catalog.presets import PRESETS, SHAPE_INPUTS, shaped
from catalog.references import LARGEST, NAMES
from network.public_http import MAX_URL_LENGTH
from parsing.batch import KEY, MAX_BATCH_ITEMS
from parsing.keys import KeyChanges, KeyFields, RotateFields
from parsing.normal import OPTIONAL
from parsing.semaphores import LeaseFields, SemaphoreFields
from parsing.shapes import BatchFields, ItemFields, SingleFields

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

_WEBHOOK = {
    "format": "uri",
    "pattern": rf"^\s*[Hh][Tt][Tt][Pp][Ss]://[^\u0000-\u001f\u007f\\]{{1,{MAX_URL_LENGTH - 8}}}$",
}
"""The form of a webhook's URL. `network/public_http.py` checks the host. Hosts that the operator allows may be called
by plain http, and so may this machine when Replicate is simulated."""


@lru_cache(maxsize=1)
def openapi_document(version: str, models: tuple[Model, ...], *, root: str = "") -> JSON:
    """The document of a service that has these models, ready to be served. `root` is the path of its routes."""
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": _DRAFT,
        "info": {
            "title": "Replicate Concurrent Generation",
            "version": version,
            "description": "Generates images and videos with one Replicate account for many callers. "
            "It checks each parameter before anything is spent, uses all of Replicate's limits without exceeding them, "
            "and pays for each image once.",
        },
        "servers": [{"url": root or "/"}],
        "tags": tags(),
        "paths": grouped({
            **paths(), **models_of.paths(), **semaphores.paths(), **status.paths(), **openai_door.paths(),
            **chat_door.paths(),
            **replicate_door.paths(), **keys.paths(), **lists.paths(), **texts.paths(), **trainings.paths(),
        }, models),
        "components": {
            "schemas": _schemas(models),
            "securitySchemes": {
                "admin": {
                    "type": "apiKey", "in": "header", "name": ADMIN_HEADER,
                    "description": "The admin key of the environment, or a named key of the role `admin`.",
                },
                "key": {
                    "type": "apiKey", "in": "header", "name": KEY_HEADER,
                    "description": "A named key (`rcg_…`), or the admin key of the environment.",
                },
                "user": {
                    "type": "apiKey", "in": "header", "name": USER_HEADER,
                    "description": "A user's own Replicate token (`r8_…`), which pays. Keys are accepted, too.",
                },
                "bearer": {
                    "type": "http", "scheme": "bearer",
                    "description": "A named key (`rcg_…`), the admin key, or a user's Replicate token (`r8_…`).",
                },
            },
        },
    }  # fmt: skip


def _schemas(models: tuple[Model, ...]) -> JSON:
    taken = {name for model in models for name in model.inputs}
    optional = OPTIONAL.union(NAMES, taken) - {"prompt"}
    requests = {schema_name(model): _with_nulls(_request_schema(model), optional) for model in models}
    with_fallback = _with_fallback(models)
    any_request: JSON = {"oneOf": [*(ref(name) for name in requests), ref("WithFallback")]}
    return {
        "GenerationRequest": {**any_request, "properties": {KEY: {"type": "null"}}},
        "BatchRequest": {"oneOf": [ref("BatchOfPrompts"), ref("BatchOfRequests")]},
        "BatchOfPrompts": {
            "oneOf": [
                _with_nulls(_prompts_schema(schema), optional)
                for schema in (*requests.values(), with_fallback)
            ],
            "description": "One model and many prompts. All other parameters apply to each prompt.",
        },
        "BatchOfRequests": _with_nulls(_requests_schema(any_request), optional),
        **requests,
        "WithFallback": with_fallback,
        "Form": _form(),
        "SemaphoreLimit": _body(SemaphoreFields), "LeaseTerms": _body(LeaseFields),
        **models_of.schemas(),
        "NewKey": _body(KeyFields, required=["name"]), "KeyChanges": _body(KeyChanges, required=[], minProperties=1),
        "Rotation": _body(RotateFields, required=[]),
        **keys.schemas(),
        **semaphores.schemas(),
        **openai_door.schemas(),
        **chat_door.schemas(),
        **texts.schemas(),
        **trainings.schemas(),
        **replicate_door.schemas(),
        **status.schemas(),
        **answers(),
    }  # fmt: skip


def _body(shape: Any, **more: Any) -> JSON:
    """The schema of a body, whose fields are all required unless `more` names those that are."""
    return an_object(_properties(shape), additionalProperties=False, **more)


def _request_schema(model: Model) -> JSON:
    schema = model.input_schema
    own = _own_properties()
    own["model_name"] = {"enum": list(model.names), "description": f"{model.name}, or an alias."}
    own["fallback"] = {"enum": [False, None], "default": False}
    own["preset"]["anyOf"] = [{"enum": [*(each for each in PRESETS if shaped(model, each)), None]}]
    alone = [name for name in SHAPE_INPUTS if name in model.inputs]
    return {
        **schema,
        "allOf": [*schema.get("allOf", ()), _without_beside("preset", alone)],
        "title": schema_name(model),
        "properties": {**own, **schema["properties"]},
        "required": ["model_name", *schema["required"]],
        "examples": [model.as_json()["example"]],
    }


def _without_beside(name: str, others: Sequence[str]) -> JSON:
    """That these others are null, if the input of this name is given."""
    return {
        "if": {"required": [name], "properties": {name: {"not": {"type": "null"}}}},
        "then": {"properties": {other: {"type": "null"} for other in others}},
    }


def _with_nulls(schema: JSON, optional: frozenset[str]) -> JSON:
    """The schema, but null also for each of the optional fields that it does not have."""
    others = "|".join(sorted(optional - schema["properties"].keys()))
    return {**schema, "patternProperties": {f"^({others})$": {"type": "null"}}}


def _with_fallback(models: tuple[Model, ...]) -> JSON:
    own = _own_properties()
    own["model_name"] = {"enum": [name for model in models for name in model.names]}
    own["fallback"] = {
        "anyOf": [{"const": True}, {"type": "array", "items": {"enum": own["model_name"]["enum"]}}],
        "description": own["fallback"]["description"],
    }
    return an_object(
        {**own, "prompt": models[0].input_schema["properties"]["prompt"]},
        required=["model_name", "prompt", "fallback"],
        description="Further fields are the parameters of the model and of its possible fallbacks, and reference "
        "images under any of the models' names for them, one or several.",
    )


def _form() -> JSON:
    return {
        "type": "object",
        "description": "The fields of the JSON body, one per part: text, or JSON for other types. A file is a "
        "reference image; its part is named after the parameter, or `requests[0].input_image` in a batch. PNG, JPEG, "
        f"WebP or GIF, up to {LARGEST // 1_000_000} MB each. An empty part counts as absent, except for free text.",
        "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "string", "format": "binary"}]},
    }


def _requests_schema(any_request: JSON) -> JSON:
    beside = {name: {"type": "null"} for name in ("dry_run", "external_semaphore_id")}
    items = {**any_request, "properties": beside}
    return an_object(
        {
            "requests": {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_BATCH_ITEMS},
            **_properties(BatchFields),
        },
        required=["requests"],
        additionalProperties=False,
        description="A list of complete requests, each for any model.",
    )


def _prompts_schema(request: JSON) -> JSON:
    properties = {**request["properties"], **_properties(BatchFields)}
    del properties[KEY]
    many = {"minItems": 1, "maxItems": MAX_BATCH_ITEMS}
    properties["prompts"] = {"type": "array", "items": properties.pop("prompt"), **many}
    file_name = properties.pop("file_name")["anyOf"][0]
    properties["file_names"] = {
        "anyOf": [{"type": "array", "items": file_name, "uniqueItems": True, **many}, {"type": "null"}],
        "description": "The file names of the outputs when downloaded, one per prompt.",
    }
    rest = {name: value for name, value in request.items() if name not in {"title", "examples"}}
    required = [name for name in request["required"] if name != "prompt"]
    return {**rest, "properties": properties, "required": [*required, "prompts"]}


def _own_properties() -> JSON:
    """The service's own fields of `/generate` and of the items of a batch. Each of both lacks some."""
    return {**_properties(SingleFields), KEY: _properties(ItemFields)[KEY]}


def _properties(shape: Any) -> JSON:
    properties: JSON = nullable(shape.model_json_schema())["properties"]
    if "webhook" in properties:
        properties["webhook"]["anyOf"][0] |= _WEBHOOK
    return properties


def schema_name(model: Model) -> str:
    return "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", model.short_name))
