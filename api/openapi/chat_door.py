"""The route and schemas of chats by the door for OpenAI's clients in the OpenAPI document."""

from typing import Any, Final

from api.openapi.openai_door import ERROR, RETRY, TIMEOUT
from api.openapi.operations import BODY_ERRORS, KEY, PAYERS, Operation, as_paths, json_of
from api.openapi.schemas import COUNT, JSON, NUMBER, OBJECT, OPTIONAL_TEXT, TEXT, YES_NO, an_object, ref
from doors import OPENAI_ROOT

_OBJECT_OR_NULL: Final[JSON] = {"type": ["object", "null"]}
_LIMIT: Final[JSON] = {"type": ["integer", "null"], "minimum": 1, "description": "Thinking counts within it."}


def paths() -> JSON:
    return as_paths(
        {
            f"{OPENAI_ROOT}/chat/completions": {
                "post": Operation(
                    name="openaiChat",
                    summary="Answer a conversation, as at OpenAI",
                    who=PAYERS,
                    parameters=(KEY, RETRY, TIMEOUT),
                    takes=json_of("OpenAIChat"),
                    answers={
                        "200": {
                            "description": "The answer. With `stream`, chunks, and `[DONE]` at the end.",
                            "content": {
                                **json_of("OpenAICompletion"),
                                "text/event-stream": {"schema": TEXT},
                            },
                        }
                    },
                    errors=(*BODY_ERRORS, "402", "409", "503", "504"),
                    error=ERROR,
                    creates=True,
                )
            }
        }
    )


def schemas() -> JSON:
    return {"OpenAIChat": _request(), "OpenAICompletion": _answer(), "OpenAITokens": _usage()}


def _request() -> JSON:
    message = an_object(
        {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {
                "description": "A text, or parts of the types `text` and `image_url`.",
                "anyOf": [TEXT, {"type": "array", "items": OBJECT}, {"type": "null"}],
            },
        },
        required=["role"],
    )
    fields: dict[str, Any] = {
        "model": {**TEXT, "description": "Name of a text model."},
        "messages": {"type": "array", "items": message, "minItems": 1},
        "stream": YES_NO,
        "stream_options": _OBJECT_OR_NULL,
        "response_format": {
            **_OBJECT_OR_NULL,
            "description": "Of the type `text`, `json_object` or `json_schema`.",
        },
        "reasoning_effort": {"enum": ["none", "minimal", "low", "medium", "high", "xhigh", "max", None]},
        "max_completion_tokens": _LIMIT,
        "max_tokens": _LIMIT,
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"]},
        "stop": {"anyOf": [TEXT, {"type": "array", "items": TEXT}, {"type": "null"}]},
        "user": OPTIONAL_TEXT,
        "safety_identifier": OPTIONAL_TEXT,
        "metadata": _OBJECT_OR_NULL,
    }
    return an_object(
        fields,
        required=["model", "messages"],
        description="Further fields are `thinking_level`, `on_lost`, `fallback`, `max_cost_usd`, `timeout`, `webhook` "
        "and `external_semaphore_id` of `POST /chat`. Others that change no answer are left out, as `changes` shows.",
    )


def _answer() -> JSON:
    choice = an_object(
        {
            "index": COUNT,
            "message": an_object(
                {"role": {"const": "assistant"}, "content": OPTIONAL_TEXT, "refusal": OPTIONAL_TEXT}
            ),
            "logprobs": {"type": "null"},
            "finish_reason": {"enum": ["stop", "length", "content_filter"]},
            "native_finish_reason": {**OPTIONAL_TEXT, "description": "The provider's own word."},
        }
    )
    return an_object(
        {
            "id": {**TEXT, "description": "The id of the generation."},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer", "description": "Unix time of acceptance."},
            "model": {**TEXT, "description": "The requested model."},
            "choices": {"type": "array", "items": choice, "minItems": 1, "maxItems": 1},
            "usage": {"anyOf": [ref("OpenAITokens"), {"type": "null"}]},
            "cost_usd": NUMBER,
            "model_version": {**OPTIONAL_TEXT, "description": "What answered."},
            "changes": {"type": "array", "items": OBJECT},
        }
    )


def _usage() -> JSON:
    return an_object(
        {
            "prompt_tokens": COUNT,
            "completion_tokens": {**COUNT, "description": "Thinking included."},
            "total_tokens": COUNT,
            "prompt_tokens_details": an_object({"cached_tokens": COUNT}),
            "completion_tokens_details": an_object({"reasoning_tokens": COUNT}),
        }
    )
