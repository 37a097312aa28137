"""The routes and schemas of calls to text models in the OpenAPI document."""

from typing import Any, Final

from api.openapi.operations import BODY_ERRORS, KEY, PAYERS, Operation, as_paths, json_of
from api.openapi.schemas import COUNT, JSON, NUMBER, OPTIONAL_TEXT, TEXT, YES_NO, an_object, ref
from contract.tasks import CHAT, MESSAGES, STORY, STRUCTURED

_ERRORS: Final = (*BODY_ERRORS, "402", "409", "422", "503")

_NAMES: Final = {CHAT: "Chat", STRUCTURED: "StructuredOutput", STORY: "Story"}
_SUMMARIES: Final = {
    CHAT: "Answer a prompt or a conversation",
    STRUCTURED: "Answer with JSON that fits a schema",
    STORY: "Design a cinematic story",
}


def paths() -> JSON:
    single = {f"/{task}": {"post": _call(task)} for task in _NAMES}
    return as_paths(single | {f"/batch/{task}": {"post": _batch(task)} for task in _NAMES})


def _call(task: str) -> Operation:
    name = _NAMES[task]
    content = json_of(f"{name}Answer")
    if task == CHAT:
        content |= {"text/event-stream": {"schema": TEXT}}
    return Operation(
        name=f"call{name}",
        summary=_SUMMARIES[task],
        who=PAYERS,
        parameters=(KEY,),
        takes={**json_of(f"{name}Request"), "multipart/form-data": {"schema": ref(f"{name}Request")}},
        answers={
            "200": {"description": "Done, or the response to a dry run.", "content": content},
            "202": _GOES_ON,
        },
        errors=_ERRORS,
        creates=True,
    )


def _batch(task: str) -> Operation:
    name = _NAMES[task]
    return Operation(
        name=f"batch{name}",
        summary=f"{_SUMMARIES[task]}, several times",
        who=PAYERS,
        parameters=(KEY,),
        takes=json_of(f"{name}Requests"),
        answers={
            "200": {
                "description": "All results in input order, or the response to a dry run.",
                "content": {**json_of(f"{name}Answers"), "application/x-ndjson": {"schema": TEXT}},
            },
            "202": _GOES_ON,
        },
        errors=_ERRORS,
        creates=True,
    )


_GOES_ON: Final[JSON] = {"description": "Accepted; the work continues.", "content": {"application/json": {}}}


def schemas() -> JSON:
    found: JSON = {}
    for task, name in _NAMES.items():
        found[f"{name}Request"] = _request(task)
        found[f"{name}Requests"] = an_object(
            {
                "requests": {"type": "array", "items": ref(f"{name}Request")},
                "credentials": _CREDENTIALS,
                "external_semaphore_id": OPTIONAL_TEXT,
                "max_concurrent": {"type": ["integer", "null"], "minimum": 1},
                "dry_run": YES_NO,
                "webhook": OPTIONAL_TEXT,
                "metadata": {"type": ["object", "null"]},
                "max_cost_usd": {"type": ["number", "null"]},
            },
            required=["requests"],
        )
        found[f"{name}Answer"] = _answer(task)
        found[f"{name}Answers"] = an_object(
            {
                "results": {"type": "array", "items": ref(f"{name}Answer")},
                "total_requests": COUNT,
                "successful_requests": COUNT,
                "failed_requests": COUNT,
            }
        )
    return found


_CREDENTIALS: Final[JSON] = {
    "type": ["object", "null"],
    "properties": {"gemini_api_key": TEXT},
    "description": "The caller's own key, which pays. It is not kept.",
}


def _request(task: str) -> JSON:
    texts: JSON = {"type": ["string", "null"]}
    more: dict[str, JSON] = {
        CHAT: {
            "prompt": texts,
            "messages": {
                "type": ["array", "null"],
                "items": an_object(
                    {"role": {"enum": ["user", "assistant"]}, "content": TEXT, "images": {"type": "array"}},
                    required=["role", "content"],
                ),
            },
            "stream": YES_NO,
        },
        STRUCTURED: {"user_content": TEXT, "json_schema": {"type": "object"}, "repair": YES_NO},
        STORY: {
            "user_content": TEXT,
            "voice_id_list": {"type": ["array", "null"], "items": TEXT},
            "strict": YES_NO,
            "repair": YES_NO,
        },
    }
    required: dict[str, list[str]] = {
        CHAT: [],
        STRUCTURED: ["user_content", "system_prompt", "json_schema"],
        STORY: ["user_content", "system_prompt"],
    }
    shared: JSON = {
        "system_prompt": texts,
        "model": texts,
        "credentials": _CREDENTIALS,
        "images": {"type": ["array", "null"], "items": TEXT},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "max_output_tokens": {"type": ["integer", "null"], "minimum": 1},
        "thinking_level": texts,
        "seed": {"type": ["integer", "null"]},
        "stop": {"type": ["array", "null"], "items": TEXT},
        "on_lost": {"enum": ["fail", "repeat", None]},
        "timeout": {"type": ["number", "null"]},
        "webhook": texts,
        "metadata": {"type": ["object", "null"]},
        "max_cost_usd": {"type": ["number", "null"]},
        "fallback": {"type": ["boolean", "array", "null"]},
        "dry_run": YES_NO,
        "external_semaphore_id": texts,
    }
    return an_object({**more[task], **shared}, required=required[task])


def _answer(task: str) -> JSON:
    usage = {f"{each}_tokens": COUNT for each in ("prompt", "cached", "completion", "thinking", "total")}
    body: dict[str, Any] = {
        "success": YES_NO,
        "id": TEXT,
        "model": TEXT,
        "model_version": OPTIONAL_TEXT,
        "finish_reason": OPTIONAL_TEXT,
        "usage": {"anyOf": [an_object(usage), {"type": "null"}]},
        "cost_usd": NUMBER,
    }
    if task == CHAT:
        body |= {"response": TEXT, "truncated": YES_NO}
    else:
        body |= {"data": {}, "message": {"const": MESSAGES[task]}}
    described = an_object(body, required=["success", "id"])
    described["description"] = "The generation, with the fields of the call beside its own."
    return described
