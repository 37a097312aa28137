"""The OpenAPI 3.1 document, assembled from the declarations that validate.

Request schemas are the registry's and the parser's own; the error answers are the error tree. Only what the service
answers on success is written down (`schemas.py`), and a test holds real answers against it. Why no framework does
this: docs/decisions/0006-openapi-from-declarations.md.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import models
from auth import ADMIN_HEADER, USER_HEADER
from errors import every_error
from intake.parsing import MAX_BATCH_ITEMS
from intake.shapes import BatchFields, Limits, OwnFields
from references import LARGEST
from registry import KINDS, TIERS, Model
from schemas import JSON, an_object, answers, ref

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


@cache
def openapi_document(version: str) -> JSON:
    """The document, ready to be served."""
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": _DRAFT,
        "info": {
            "title": "Replicate Concurrent Generation",
            "version": version,
            "description": "One door between a team and its Replicate account: every parameter checked before "
            "anything is spent, the whole allowance used and never more, each picture paid for once.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "admin": {"type": "apiKey", "in": "header", "name": ADMIN_HEADER},
                "user": {"type": "apiKey", "in": "header", "name": USER_HEADER},
            },
        },
    }


def _paths() -> JSON:
    spending: list[JSON] = [{"admin": []}, {"user": []}]
    spent = ("401", "402", "422", "429", "500", "503")
    return {
        "/generate": {
            "post": _operation(
                "generate", "Generate one picture or video", "GenerationRequest", "Generation",
                security=spending, errors=("400", "413", "415", *spent), forms=True,
            )
        },
        "/generate-batch": {
            "post": _operation(
                "generateBatch", "Generate many, results in input order; or only tell how it would go",
                "BatchRequest", "BatchOrPlan", security=spending,
                errors=("400", "401", "413", "415", "429", "500", "503"), ndjson=True, forms=True,
            )
        },
        "/configure": {
            "post": _operation(
                "configure", "Change the limits, live", "Limits", "Configured",
                security=[{"admin": []}], errors=("400", "401", "403", "413", "415", "500"),
            )
        },
        "/models": {
            "get": _operation(
                "listModels", "The models and what they take", None, "Models", errors=("400",),
                parameters=[_query("kind", KINDS), _query("tier", TIERS)],
            )
        },
        "/files/{generation}/{name}": {"get": _file()},
        "/status": {"get": _operation("status", "Live figures of the gate", None, "Status")},
        "/health": {
            "get": _operation("health", "Whether the service takes work", None, "Health", errors=("503",))
        },
        "/openapi.json": {"get": _operation("openapi", "This document", None, "AnyObject")},
        "/docs": {
            "get": {
                "operationId": "docs",
                "summary": "A page to read and try the API",
                "responses": {"200": {"description": "HTML", "content": {"text/html": {}}}},
            }
        },
    }  # fmt: skip


def _operation(
    operation: str,
    summary: str,
    request: str | None,
    answer: str,
    *,
    security: list[JSON] | None = None,
    errors: Iterable[str] = (),
    ndjson: bool = False,
    forms: bool = False,
    parameters: Iterable[JSON] = (),
) -> JSON:
    content: JSON = {"application/json": {"schema": ref(answer)}}
    if ndjson:
        content["application/x-ndjson"] = {"schema": {"anyOf": [ref("BatchItem"), ref("BatchSummary")]}}
    described: JSON = {
        "operationId": operation,
        "summary": summary,
        "security": security or [],
        "parameters": [
            {
                "name": "X-Request-ID", "in": "header", "required": False,
                "description": "Echoed and logged; made when absent.",
                "schema": {"type": "string", "maxLength": 200},
            },
            *parameters,
        ],
        "responses": {
            "200": {"description": "Done", "content": content},
            **{status: _error_response(status) for status in errors},
        },
    }  # fmt: skip
    if request:
        taken: JSON = {"application/json": {"schema": ref(request)}}
        if forms:
            taken["multipart/form-data"] = {"schema": ref("Form")}
        described["requestBody"] = {"required": True, "content": taken}
    return described


def _query(name: str, choices: Iterable[str]) -> JSON:
    return {
        "name": name, "in": "query", "required": False, "explode": True,
        "schema": {"type": "array", "items": {"enum": list(choices)}},
    }  # fmt: skip


def _file() -> JSON:
    text = {"type": "string"}
    described = _operation(
        "file", "A kept output, whole or in part", None, "AnyObject", errors=("404", "416", "429")
    )
    described["parameters"] += [
        {"name": "generation", "in": "path", "required": True, "schema": text},
        {"name": "name", "in": "path", "required": True, "schema": text},
        {"name": "Range", "in": "header", "required": False, "schema": text},
        {"name": "name", "in": "query", "required": False, "schema": text, "description": "What it is saved as."},
    ]  # fmt: skip
    described["responses"] |= {
        "200": {"description": "The file", "content": {"image/*": {}, "video/*": {}}},
        "206": {"description": "The part that was asked for", "content": {"image/*": {}, "video/*": {}}},
        "304": {"description": "It is what If-None-Match says"},
    }
    return described


def _error_response(status: str) -> JSON:
    codes = [error for error in every_error() if str(error.status) == status]
    response: JSON = {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in codes),
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    if status in {"429", "503"}:
        seconds = {"schema": {"type": "integer"}, "description": "Seconds"}
        response["headers"] = {"Retry-After": seconds}
    return response


def _schemas() -> JSON:
    every = models.MODELS.values()
    requests = {_schema_name(model): _request_schema(model) for model in every}
    return {
        "GenerationRequest": {"oneOf": [*(ref(name) for name in requests), ref("WithFallback")]},
        "BatchRequest": {"oneOf": [ref("BatchOfPrompts"), ref("BatchOfRequests")]},
        "BatchOfPrompts": {
            "oneOf": [_prompts_schema(schema) for schema in (*requests.values(), _with_fallback())],
            "description": "One model and many prompts; what they share stands beside them.",
        },
        "BatchOfRequests": an_object(
            {
                "requests": {
                    "type": "array", "items": ref("GenerationRequest"),
                    "minItems": 1, "maxItems": MAX_BATCH_ITEMS,
                },
                **_properties(BatchFields),
            },
            required=["requests"], additionalProperties=False,
            description="Whole requests, models mixed.",
        ),
        **requests,
        "WithFallback": _with_fallback(),
        "Form": _form(),
        "Limits": an_object(
            _properties(Limits), required=[], additionalProperties=False,
            anyOf=[{"required": [name], "properties": {name: {"type": "integer"}}} for name in Limits.model_fields],
        ),
        **answers(),
    }  # fmt: skip


def _request_schema(model: Model) -> JSON:
    schema = model.input_schema
    own = _properties(OwnFields)
    own["model_name"] = {"enum": list(model.names), "description": f"{model.name}, or an alias."}
    own["fallback"] = {"const": False, "default": False}
    return {
        **schema,
        "title": _schema_name(model),
        "properties": {**own, **schema["properties"]},
        "required": ["model_name", *schema["required"]],
        "examples": [model.as_json()["example"]],
    }


def _with_fallback() -> JSON:
    every = models.MODELS.values()
    own = _properties(OwnFields)
    own["model_name"] = {"enum": [name for model in every for name in model.names]}
    own["fallback"] = {
        "anyOf": [{"const": True}, {"type": "array", "items": {"enum": own["model_name"]["enum"]}}],
        "description": own["fallback"]["description"],
    }
    return an_object(
        {**own, "prompt": next(iter(every)).input_schema["properties"]["prompt"]},
        required=["model_name", "prompt", "fallback"],
        description="Beside these, parameters of the model and of any other that it may fall back to; and reference "
        "images under any of their names, one or several.",
    )


def _form() -> JSON:
    return {
        "type": "object",
        "description": "The fields of the JSON body, one a part: text, or JSON where no text is expected. A file is a "
        "reference image, in the part that is called like its parameter, or `requests[0].input_image`. PNG, JPEG, "
        f"WebP or GIF, up to {LARGEST // 1_000_000} MB each.",
        "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "string", "format": "binary"}]},
    }


def _prompts_schema(request: JSON) -> JSON:
    properties = {**request["properties"], **_properties(BatchFields)}
    many = {"minItems": 1, "maxItems": MAX_BATCH_ITEMS}
    properties["prompts"] = {"type": "array", "items": properties.pop("prompt"), **many}
    file_name = properties.pop("file_name")["anyOf"][0]
    properties["file_names"] = {
        "anyOf": [{"type": "array", "items": file_name, "uniqueItems": True, **many}, {"type": "null"}],
        "description": "What each picture is called when it is downloaded.",
    }
    rest = {name: value for name, value in request.items() if name not in {"title", "examples"}}
    required = [name for name in request["required"] if name != "prompt"]
    return {**rest, "properties": properties, "required": [*required, "prompts"]}


def _properties(shape: Any) -> JSON:
    properties: JSON = shape.model_json_schema()["properties"]
    return properties


def _schema_name(model: Model) -> str:
    return model.inputs.__name__
