"""The OpenAPI 3.1 document, assembled from the declarations that validate.

Request schemas are the registry's and the parser's own; the error answers are the error tree. Only what
the service answers on success is written here, and a test holds real answers against it. Why no framework does
this: docs/decisions/0006-openapi-from-declarations.md.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import models
from auth import ADMIN_HEADER, USER_HEADER
from errors import ServiceError, every_error
from parsing import MAX_BATCH_ITEMS, BatchFields, Limits, OwnFields

JSON = dict[str, Any]

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
                "generate", "Generate one picture", "GenerationRequest", "Generation",
                security=spending, errors=("400", "413", "415", *spent),
            )
        },
        "/generate-batch": {
            "post": _operation(
                "generateBatch", "Generate many, results in input order", "BatchRequest", "Batch",
                security=spending, errors=("400", "401", "413", "415", "429", "500", "503"), ndjson=True,
            )
        },
        "/configure": {
            "post": _operation(
                "configure", "Change the limits, live", "Limits", "Configured",
                security=[{"admin": []}], errors=("400", "401", "403", "413", "415", "500"),
            )
        },
        "/models": {"get": _operation("listModels", "The models and what they take", None, "Models")},
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
) -> JSON:
    content: JSON = {"application/json": {"schema": _ref(answer)}}
    if ndjson:
        content["application/x-ndjson"] = {"schema": {"anyOf": [_ref("BatchItem"), _ref("BatchSummary")]}}
    described: JSON = {
        "operationId": operation,
        "summary": summary,
        "security": security or [],
        "parameters": [
            {
                "name": "X-Request-ID", "in": "header", "required": False,
                "description": "Echoed and logged; made when absent.",
                "schema": {"type": "string", "maxLength": 200},
            }
        ],
        "responses": {
            "200": {"description": "Done", "content": content},
            **{status: _error_response(status) for status in errors},
        },
    }  # fmt: skip
    if request:
        schema = {"required": True, "content": {"application/json": {"schema": _ref(request)}}}
        described["requestBody"] = schema
    return described


def _error_response(status: str) -> JSON:
    codes = [error for error in every_error() if str(error.status) == status]
    response: JSON = {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in codes),
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }
    if status in {"429", "503"}:
        seconds = {"schema": {"type": "integer"}, "description": "Seconds"}
        response["headers"] = {"Retry-After": seconds}
    return response


def _schemas() -> JSON:
    every = models.MODELS.values()
    requests = {_schema_name(model): _request_schema(model) for model in every}
    return {
        "GenerationRequest": {"oneOf": [_ref(name) for name in requests]},
        "BatchRequest": {"oneOf": [_ref("BatchOfPrompts"), _ref("BatchOfRequests")]},
        "BatchOfPrompts": {
            "oneOf": [_prompts_schema(schema) for schema in requests.values()],
            "description": "One model and many prompts; what they share stands beside them.",
        },
        "BatchOfRequests": _object(
            {
                "requests": {
                    "type": "array", "items": _ref("GenerationRequest"),
                    "minItems": 1, "maxItems": MAX_BATCH_ITEMS,
                },
                **_properties(BatchFields),
            },
            required=["requests"], additionalProperties=False,
            description="Whole requests, models mixed.",
        ),
        **requests,
        "Limits": _object(
            _properties(Limits), required=[], additionalProperties=False,
            anyOf=[{"required": [name], "properties": {name: {"type": "integer"}}} for name in Limits.model_fields],
        ),
        **_answers(),
    }  # fmt: skip


def _request_schema(model: models.Model) -> JSON:
    schema = model.input_schema
    own = _properties(OwnFields)
    own["model_name"] = {"enum": list(model.names), "description": f"{model.name}, or an alias."}
    return {
        **schema,
        "title": _schema_name(model),
        "properties": {**own, **schema["properties"]},
        "required": ["model_name", *schema["required"]],
        "examples": [model.as_json()["example"]],
    }


def _prompts_schema(request: JSON) -> JSON:
    properties = {**request["properties"], **_properties(BatchFields)}
    prompt = properties.pop("prompt")
    properties["prompts"] = {
        "type": "array", "items": prompt, "minItems": 1, "maxItems": MAX_BATCH_ITEMS
    }  # fmt: skip
    rest = {name: value for name, value in request.items() if name not in {"title", "examples"}}
    return {**rest, "properties": properties, "required": ["model_name", "prompts"]}


def _answers() -> JSON:
    text, number, count = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
    yes_no = {"type": "boolean"}
    timing = _object({"queued": number, "predicting": number, "total": number}, description="Seconds.")
    told: JSON = {
        "success": yes_no, "id": text, "status": {"enum": ["succeeded", "failed", "canceled"]},
        "model_name": text, "requested_model": text, "prompt": text,
        "prediction_id": {"type": ["string", "null"]}, "attempts": count, "timing": timing, "simulated": yes_no,
    }  # fmt: skip
    made: JSON = {
        "output": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1},
        "count": count,
        "cost_usd": number,
    }
    error = _object(
        {"code": _codes(), "detail": text, "retryable": yes_no, "errors": _problems()},
        required=["code", "detail", "retryable"],
    )
    summary = {"success": yes_no, "id": text, "total": count, "succeeded": count, "failed": count}
    figures = dict.fromkeys(
        (
            "concurrent_limit", "current_concurrent", "available_slots", "waiting",
            "requests_per_minute_limit", "current_rate_per_minute",
        ),
        count,
    )  # fmt: skip
    concurrency = _object({**figures, "paused_seconds": number})
    return {
        "Generation": _object({**told, **made}),
        "BatchItem": _object(
            {"index": count, **told, **made, "error": error}, required=["index", *told]
        ),
        "BatchSummary": _object(summary),
        "Batch": _object({**summary, "results": {"type": "array", "items": _ref("BatchItem")}}),
        "Configured": _object({"success": yes_no, "concurrency": concurrency}),
        "Models": _object({"models": {"type": "array", "items": _ref("Model")}}),
        "Model": _object(
            {
                "name": text, "aliases": {"type": "array", "items": text},
                "kind": {"enum": ["image", "video"]},
                "price": _object({"usd": number, "per": {"enum": ["image", "call", "second"]}}),
                "default_extension": text, "input_schema": {"type": "object"}, "example": {"type": "object"},
            }
        ),
        "Status": _object(
            {
                "service": text, "version": text, "uptime_seconds": number, "simulated": yes_no,
                "admin_api_configured": yes_no, "default_replicate_token_configured": yes_no,
                "concurrency": concurrency,
                "polling": _object({"requests_per_minute_limit": count, "current_rate_per_minute": count}),
                "generations": _object({"succeeded": count, "failed": count, "canceled": count}),
            }
        ),
        "Health": _object({"status": {"const": "healthy"}, "service": text, "version": text}),
        "AnyObject": {"type": "object"},
        "Problem": _object(
            {
                "type": text, "title": text, "status": {"type": "integer"}, "detail": text,
                "code": _codes(), "request_id": text, "retryable": yes_no, "errors": _problems(),
                "id": {"type": "string", "description": "The generation, when there was one; likewise the next six."},
                "model_name": text, "requested_model": text, "prompt": text, "attempts": count, "timing": timing,
                "prediction_id": {"type": ["string", "null"]},
            },
            required=["type", "title", "status", "detail", "code", "request_id", "retryable"],
            description="A problem document (RFC 9457).",
        ),
    }  # fmt: skip


def _codes() -> JSON:
    kinds: tuple[type[ServiceError], ...] = every_error()
    return {"enum": [kind.code for kind in kinds]}


def _problems() -> JSON:
    text = {"type": "string"}
    problem = _object({"field": text, "message": text, "given": {}}, required=["field", "message"])
    return {"type": "array", "items": problem}


def _properties(shape: Any) -> JSON:
    properties: JSON = shape.model_json_schema()["properties"]
    return properties


def _schema_name(model: models.Model) -> str:
    return model.inputs.__name__


def _object(properties: JSON, *, required: list[str] | None = None, **more: Any) -> JSON:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}
