"""The routes and schemas of the door for OpenAI's clients in the OpenAPI document."""

from typing import Any, Final

from api.openapi.operations import (
    BODY_ERRORS,
    KEY,
    PAYERS,
    READERS,
    Operation,
    as_paths,
    header,
    in_path,
    json_of,
    operation,
)
from api.openapi.schemas import JSON, NUMBER, OBJECT, OPTIONAL_TEXT, TEXT, an_object, ref
from catalog.model import KINDS
from doors import OPENAI_ROOT
from doors.openai.requests import MOST

_PICTURES: Final = (*BODY_ERRORS, "402", "409", "422", "503", "504")
ERROR: Final = json_of("OpenAIError")
RETRY: Final = header(
    "x-stainless-retry-count",
    {"type": "string", "pattern": "^[0-9]+$"},
    "Above 0, the call joins the oldest call of the same key and body whose connection was lost within a minute.",
)
TIMEOUT: Final = header(
    "x-stainless-read-timeout",
    TEXT,
    "Seconds for which the client waits. Five seconds before, it gets 504; if it "
    "waits for less than 7.5, after half of that, 2.5 at the latest.",
)
_CHANGE: Final[JSON] = {
    "type": "object",
    "description": "A field that was sent in another way, or not at all.",
}


def paths() -> JSON:
    return as_paths({
        f"{OPENAI_ROOT}/images/generations": {
            "post": _images("openaiGenerate", "Generate images, as at OpenAI", json_of("OpenAIGeneration"))
        },
        f"{OPENAI_ROOT}/images/edits": {
            "post": _images(
                "openaiEdit",
                "Edit images, as at OpenAI",
                {**json_of("OpenAIEdit"), "multipart/form-data": {"schema": ref("Form")}},
            )
        },
        f"{OPENAI_ROOT}/models": {
            "get": operation(
                "openaiModels", "List the models of this door, as at OpenAI", "OpenAIModels", who=READERS,
                errors=("500",), error=ERROR,
            )
        },
        f"{OPENAI_ROOT}/models/{{name}}": {
            "get": operation(
                "openaiModel", "Get one model, as at OpenAI", "OpenAIModel", who=READERS,
                parameters=(in_path("name"),), errors=("404", "429", "500"), error=ERROR,
            )
        },
    })  # fmt: skip


def _images(name: str, summary: str, takes: JSON) -> Operation:
    return Operation(
        name=name,
        summary=summary,
        who=PAYERS,
        parameters=(KEY, RETRY, TIMEOUT),
        takes=takes,
        answers={
            "200": {
                "description": "Done. With `stream`, one event for each image.",
                "content": {**json_of("OpenAIImages"), "text/event-stream": {"schema": TEXT}},
            }
        },
        errors=_PICTURES,
        error=ERROR,
        creates=True,
    )


def schemas() -> JSON:
    fields = _fields()
    images: JSON = {
        "description": "One image or several: https URLs, data: URIs, or objects with an `image_url`."
    }
    edit = {**fields, "image": images, "mask": {"description": "An image for the model's mask."}}
    return {
        "OpenAIGeneration": _request(fields),
        "OpenAIEdit": _request(edit),
        "OpenAIImages": _images_made(),
        "OpenAIError": _error(),
        "OpenAIModel": an_object(
            {
                "id": TEXT,
                "object": {"const": "model"},
                "created": {"type": "integer"},
                "owned_by": TEXT,
                "aliases": {"type": "array", "items": TEXT},
                "kind": {"enum": [*KINDS, None]},
                "price": {"type": ["object", "null"]},
            }
        ),
        "OpenAIModels": an_object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": ref("OpenAIModel")}}
        ),
    }


def _images_made() -> JSON:
    return an_object(
        {
            "created": {"type": "integer", "description": "Unix time of acceptance."},
            "data": {"type": "array", "items": an_object({"url": TEXT, "b64_json": TEXT}, required=[])},
            "id": {**TEXT, "description": "The id of the generation, or of the batch of several."},
            "model_name": TEXT,
            "cost_usd": NUMBER,
            "changes": {"type": "array", "items": _CHANGE},
            "errors": {"type": "array", "items": OBJECT, "description": "Of images that failed."},
        },
        required=["created", "data", "id", "model_name", "cost_usd", "changes"],
    )


def _error() -> JSON:
    error = {
        "message": TEXT,
        "type": TEXT,
        "param": OPTIONAL_TEXT,
        "code": TEXT,
        "errors": {
            "type": "array",
            "items": OBJECT,
            "description": "All invalid fields, if there are several.",
        },
    }
    return an_object(
        {
            "error": an_object(error, required=["message", "type", "param", "code"]),
            "id": TEXT,
            "model_name": TEXT,
            "cost_usd": NUMBER,
            "budget": TEXT,
            "period": TEXT,
            "begins_anew": TEXT,
            "stage": TEXT,
            "category": TEXT,
        },
        required=["error"],
    )


def _fields() -> JSON:
    """The fields of OpenAI's that are translated."""
    return {
        "model": {**TEXT, "description": "Full name or alias of a model that makes images."},
        "prompt": TEXT,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST},
        "size": {
            **OPTIONAL_TEXT,
            "description": "Never refused: the nearest shape or size of the model, as `changes` shows.",
        },
        "response_format": {"enum": ["url", "b64_json", None]},
        "output_format": OPTIONAL_TEXT,
        "output_compression": {"type": ["integer", "null"]},
        "stream": {"type": ["boolean", "null"]},
        **dict.fromkeys(("quality", "background", "style", "moderation", "user"), OPTIONAL_TEXT),
    }


def _request(properties: dict[str, Any]) -> JSON:
    return an_object(
        properties,
        required=["model", "prompt"],
        description="Further fields are the model's own parameters, and `fallback`, `max_cost_usd`, `webhook` "
        "and others of `POST /generate`.",
    )
