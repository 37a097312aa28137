"""What each route takes and answers, for the OpenAPI document. A test holds the routes and their answers against it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.openapi.schemas import JSON, TEXT, ref
from catalog.model import KINDS, TIERS
from contract.states import ENDED, UNFINISHED
from errors import every_error
from parsing.queries import GROUPS, LONGEST_PAGE, USUAL_PAGE

_ADMIN: Final[Sequence[JSON]] = ({"admin": []},)
_EITHER: Final[Sequence[JSON]] = ({"admin": []}, {"user": []}, {"bearer": []})

_SECONDS: Final[JSON] = {"schema": {"type": "integer"}, "description": "Seconds"}
_PAID: Final[JSON] = {
    "x-should-retry": {
        "schema": {"const": "false"},
        "description": "Present if a prediction was made for the request, may have been, or will be. To send "
        "the request again without its `Idempotency-Key` may then pay again.",
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """One method of a route: what it is called with, and its answers by status. `who` may call is anybody, if empty."""

    name: str
    summary: str
    answers: JSON
    who: Sequence[JSON] = ()
    parameters: Sequence[JSON] = ()
    takes: JSON = field(default_factory=dict)
    errors: Iterable[str] = ()
    callback: str | None = None

    def as_json(self) -> JSON:
        described: JSON = {
            "operationId": self.name,
            "summary": self.summary,
            "security": list(self.who),
            "parameters": [*self.parameters, _REQUEST_ID],
            "responses": {
                **self.answers,
                **{
                    status: _error(status, creates=self.callback is not None)
                    for status in (*self.errors, "431")
                },
            },
        }
        if self.takes:
            described["requestBody"] = {"required": True, "content": self.takes}
        if self.callback:
            described["callbacks"] = {"ended": {"{$request.body#/webhook}": {"post": _told(self.callback)}}}
        return described


def paths() -> JSON:
    return {
        path: {each: made.as_json() for each, made in routes.items()} for path, routes in _routes().items()
    }


def _routes() -> dict[str, dict[str, _Operation]]:
    generation = {"parameters": (_target("generation"),), "who": _EITHER, "errors": ("401", "404", "500")}
    batch = {**generation, "parameters": (_target("batch"),)}
    return {
        "/generate": {"post": _generate()},
        "/generate-batch": {"post": _generate_batch()},
        "/generations": {"get": _list()},
        "/generations/{target}": {
            "get": _operation(
                "generation", "How a generation stands, or how it ended", "AnyGeneration", **generation
            ),
            "delete": _operation(
                "cancelGeneration", "Cancel a generation, unless it has ended", "AnyGeneration", **generation
            ),
        },
        "/generations/{target}/events": {"get": _events()},
        "/batches/{target}": {
            "get": _operation("batch", "How a batch stands, with what has ended of it", "AnyBatch", **batch),
            "delete": _operation("cancelBatch", "Cancel what has not ended of a batch", "AnyBatch", **batch),
        },
        "/usage": {"get": _usage()},
        "/configure": {
            "post": _operation(
                "configure", "Change the limits, live", "Configured", who=_ADMIN, takes=_json("Limits"),
                errors=("400", "401", "403", "413", "415", "429", "500"),
            )
        },
        "/models": {
            "get": _operation(
                "listModels", "The models and what they take", "Models", errors=("400",),
                parameters=(_choices("kind", KINDS), _choices("tier", TIERS)),
            )
        },
        "/files/{generation}/{name}": {"get": _file()},
        "/status": {"get": _operation("status", "Live figures; with the admin key also of its work", "Status")},
        "/health": {
            "get": _operation("health", "Whether the service takes work", "Health", errors=("500", "503"))
        },
        "/webhooks/replicate": {"post": _told_by_replicate()},
        "/": {"get": _index()},
        "/openapi.json": {"get": _operation("openapi", "This document", "AnyObject")},
        "/docs": {
            "get": _Operation(
                name="docs", summary="A page to read and try the API",
                answers={"200": {"description": "HTML", "content": {"text/html": {}}}},
            )
        },
    }  # fmt: skip


# ── Operations with more to them


def _index() -> _Operation:
    return _Operation(
        name="index",
        summary="What this is, and where to go on; leads a browser to the page",
        answers={
            "200": {"description": "Done", "content": _json("Index")},
            "302": {
                "description": "To `/docs`, if HTML is accepted best",
                "headers": {"Location": {"schema": TEXT}},
            },
        },
    )


def _generate() -> _Operation:
    return _Operation(
        name="generate",
        summary="Generate one picture or video, or forecast it",
        who=_EITHER,
        parameters=(_PREFER, _KEY),
        takes={**_json("GenerationRequest"), **_FORM},
        answers={
            "200": {"description": "Done", "content": _json("GenerationOrPlan"), "headers": _APPLIED},
            "202": _goes_on("UnfinishedGeneration"),
        },
        errors=("400", "401", "402", "409", "413", "415", "422", "429", "500", "503"),
        callback="Generation",
    )


def _generate_batch() -> _Operation:
    line: JSON = {"anyOf": [ref("BatchItem"), ref("BatchSummary")]}
    return _Operation(
        name="generateBatch",
        summary="Generate many, with results in input order, or forecast them",
        who=_EITHER,
        parameters=(_PREFER, _KEY),
        takes={**_json("BatchRequest"), **_FORM},
        answers={
            "200": {
                "description": "Done; as lines, each result the moment it is ready, then the summary",
                "content": {**_json("BatchOrPlan"), "application/x-ndjson": {"schema": line}},
                "headers": _APPLIED,
            },
            "202": _goes_on("AnyBatch"),
        },
        errors=("400", "401", "402", "409", "413", "415", "429", "500", "503"),
        callback="Batch",
    )


def _list() -> _Operation:
    limit = {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": USUAL_PAGE}
    return _operation(
        "listGenerations", "One's own generations, the latest first", "Generations",
        who=_EITHER, errors=("400", "401", "500"),
        parameters=(
            _query("state", {"enum": [*UNFINISHED, *ENDED]}),
            _query("model", TEXT, "Full name or alias."),
            _query("since", TEXT, f"Accepted at or after; {_MOMENT}"),
            _query("limit", limit),
            _query("cursor", TEXT, "The `next_cursor` of the page before."),
        ),
    )  # fmt: skip


def _events() -> _Operation:
    return _Operation(
        name="events",
        summary="What happens to a generation, as it happens: server-sent events",
        who=_EITHER,
        parameters=(_target("generation"),),
        answers={
            "200": {
                "description": "What was so far, and what comes, until it has ended",
                "content": {"text/event-stream": {"schema": ref("Event")}},
            }
        },
        errors=("401", "404", "429", "500"),
    )


def _usage() -> _Operation:
    return _operation(
        "usage", "What was made and what it cost: for the admin all, for users their own", "Usage",
        who=_EITHER, errors=("400", "401", "500"),
        parameters=(
            _query("since", TEXT, f"Ended at or after; {_MOMENT}"),
            _query("until", TEXT, "Ended before then. Forgotten work counts as ended when its day (UTC) began."),
            _query("group_by", {"enum": list(GROUPS)}),
        ),
    )  # fmt: skip


def _file() -> _Operation:
    content: JSON = {"image/*": {}, "video/*": {}}
    return _Operation(
        name="file",
        summary="A kept output, whole or in part",
        parameters=(
            {"name": "generation", "in": "path", "required": True, "schema": TEXT},
            {"name": "name", "in": "path", "required": True, "schema": TEXT},
            {"name": "Range", "in": "header", "required": False, "schema": TEXT},
            _query("name", TEXT, "What it is saved as."),
        ),
        answers={
            "200": {"description": "The file", "content": content},
            "206": {"description": "The part that was asked for", "content": content},
            "304": {"description": "It is what If-None-Match says"},
        },
        errors=("404", "416", "429"),
    )


def _told_by_replicate() -> _Operation:
    return _Operation(
        name="toldByReplicate",
        summary="For Replicate alone: how a prediction ended, signed",
        parameters=(
            _query("generation", TEXT),
            _query("attempt", TEXT),
            *({**each, "required": True} for each in _SIGNED),
        ),
        takes={"application/json": {"schema": {"type": "object"}}},
        answers={"204": {"description": "Heard, or no news"}},
        errors=("400", "401", "413", "429", "500"),
    )


def _told(result: str) -> JSON:
    """What the service does to the webhook of a caller."""
    return {
        "summary": "It has ended; told at least once, and for a day until an answer of 2xx or 410",
        "security": [],
        "parameters": list(_SIGNED),
        "requestBody": {"required": True, "content": _json(result)},
        "responses": {
            "2XX": {"description": "It was heard"},
            "410": {"description": "Never again"},
        },
    }


# ── What they are made of


def _operation(name: str, summary: str, answer: str, **more: object) -> _Operation:
    answers = {"200": {"description": "Done", "content": _json(answer)}}
    return _Operation(name=name, summary=summary, answers=answers, **more)  # type: ignore[arg-type]


def _json(name: str) -> JSON:
    return {"application/json": {"schema": ref(name)}}


def _goes_on(name: str) -> JSON:
    where = {"schema": TEXT, "description": "Where to look it up."}
    return {
        "description": "Accepted, and it goes on",
        "content": _json(name),
        "headers": {"Location": where, **_APPLIED},
    }


def _error(status: str, *, creates: bool) -> JSON:
    codes = [error for error in every_error() if str(error.status) == status]
    headers = ({"Retry-After": _SECONDS} if status in {"429", "503"} else {}) | (_PAID if creates else {})
    return {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in codes),
        "content": {"application/problem+json": {"schema": ref("Problem")}},
        **({"headers": headers} if headers else {}),
    }


def _target(kind: str) -> JSON:
    return {
        "name": "target", "in": "path", "required": True, "schema": TEXT, "description": f"The id of the {kind}."
    }  # fmt: skip


def _query(name: str, schema: JSON, description: str = "") -> JSON:
    told = {"description": description} if description else {}
    return {"name": name, "in": "query", "required": False, "schema": schema, **told}


def _choices(name: str, choices: Iterable[str]) -> JSON:
    """One or several."""
    return {**_query(name, {"type": "array", "items": {"enum": list(choices)}}), "explode": True}


def _header(name: str, schema: JSON, description: str) -> JSON:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


_MOMENT: Final = "a date, a date and time (UTC unless it says otherwise), or a Unix time."

_REQUEST_ID: Final = _header(
    "X-Request-ID", {"type": "string", "maxLength": 200}, "Echoed and logged; made when absent."
)
_PREFER: Final = _header(
    "Prefer",
    TEXT,
    "`respond-async`: the answer is 202 at once. `wait=N`: likewise, if it has not ended after N seconds.",
)
_KEY: Final = _header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "The same key and body from the same caller are the same work, for 24 hours and until it has ended, failed or not.",
)
_APPLIED: Final[JSON] = {
    "Preference-Applied": {"schema": TEXT, "description": "What of `Prefer` was heeded, if anything was."}
}
_FORM: Final[JSON] = {"multipart/form-data": {"schema": ref("Form")}}
_SIGNED: Final = (
    _header("webhook-id", TEXT, "The same in every attempt."),
    _header("webhook-timestamp", TEXT, "Unix time of the attempt."),
    _header(
        "webhook-signature",
        TEXT,
        "v1 and HMAC-SHA256 over `id.timestamp.body`, keyed with the secret's bytes.",
    ),
)
