"""The routes of the OpenAPI document: parameters, bodies and responses. A test compares it with the real routes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from api.openapi.schemas import JSON, TEXT, ref
from errors.listing import every_error
from parsing.queries import LONGEST_PAGE, USUAL_PAGE

ADMIN_ONLY: Final = ("admin",)
VIEWERS: Final = ("admin", "viewer")
GENERATING_KEYS: Final = ("admin", "caller")
PAYERS: Final = (*GENERATING_KEYS, "user")
READERS: Final = ("admin", "caller", "viewer", "user")
ALL_KEYS: Final = ("admin", "caller", "viewer", "metrics", "user")
"""The roles of keys that an operation lets in. `user` is a Replicate token."""

_PROBLEM: Final[JSON] = {"application/problem+json": {"schema": ref("Problem")}}
_SECONDS: Final[JSON] = {"schema": {"type": "integer"}, "description": "Seconds"}
_PAID: Final[JSON] = {
    "x-should-retry": {
        "schema": {"const": "false"},
        "description": "Present if a prediction was created for the request, may have been, or will be. Sending "
        "the request again without its `Idempotency-Key` may then cost twice.",
    }
}

_OF_WORK: Final = frozenset({
    "budget_exceeded", "content_refused", "generation_failed", "generation_timeout", "interrupted",
    "model_not_allowed", "outcome_unknown", "secret_lost", "server_out_of_credit",
})  # fmt: skip
"""The codes of errors that only work may have."""

_OF_OTHERS: Final = frozenset({"model_exists", "semaphore_in_use", "semaphore_full"})
"""The codes of errors that work does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of a route: its parameters, and its responses by status. `who` has the roles of keys that it lets in;
    if it is empty, no key is needed, and else 401 and 403 are among its errors. `error` is the content of its errors.
    It `creates` predictions if it has a `callback`, at least."""

    name: str
    summary: str
    answers: JSON
    who: Sequence[str] = ()
    parameters: Sequence[JSON] = ()
    takes: JSON = field(default_factory=dict)
    needs_body: bool = True
    errors: Iterable[str] = ()
    callback: str | None = None
    creates: bool = False
    error: JSON = field(default_factory=lambda: _PROBLEM)

    def as_json(self) -> JSON:
        described: JSON = {
            "operationId": self.name,
            "summary": self.summary,
            "security": _security(self.who),
            "parameters": [*self.parameters, _REQUEST_ID],
            "responses": {
                **self.answers,
                **{
                    status: _error(status, self.error, creates=self.creates or self.callback is not None)
                    for status in sorted({*self.errors, *(("401", "403") if self.who else ()), "431"})
                },
            },
        }
        if self.who:
            described["x-roles"] = list(self.who)
        if self.takes:
            described["requestBody"] = {"required": self.needs_body, "content": self.takes}
        if self.callback:
            described["callbacks"] = {
                "ended": {"{$request.body#/webhook}": {"post": _webhook(self.callback)}}
            }
        return described


def as_paths(routes: Mapping[str, Mapping[str, Operation]]) -> JSON:
    """Operations by path and method as JSON."""
    return {
        path: {method: each.as_json() for method, each in methods.items()} for path, methods in routes.items()
    }


def paths() -> JSON:
    return as_paths(_routes())


def _routes() -> dict[str, dict[str, Operation]]:
    generation: dict[str, Any] = {"parameters": (_target("generation"),), "errors": ("404", "500")}
    batch = {**generation, "parameters": (_target("batch"),)}
    return {
        "/generate": {"post": _generate()},
        "/generate-batch": {"post": _generate_batch()},
        "/generations/{target}": {
            "get": operation(
                "generation", "Get a generation", "AnyGeneration", who=READERS, **generation
            ),
            "delete": operation(
                "cancelGeneration", "Cancel a generation that has not ended", "AnyGeneration", who=PAYERS,
                **generation,
            ),
        },
        "/generations/{target}/events": {"get": _events()},
        "/batches/{target}": {
            "get": operation(
                "batch", "Get a batch, with the results so far", "AnyBatch", who=READERS, **batch
            ),
            "delete": operation(
                "cancelBatch", "Cancel the unfinished generations of a batch", "AnyBatch", who=PAYERS, **batch
            ),
        },
        "/files/{generation}/{name}": {"get": _file()},
        **_for_operators(),
        "/webhooks/replicate": {"post": _replicate_webhook()},
        "/": {"get": _index()},
        "/openapi.json": {"get": operation("openapi", "Get this document", "AnyObject")},
        "/docs": {
            "get": Operation(
                name="docs", summary="Read and try the API on an HTML page",
                answers={"200": {"description": "HTML", "content": {"text/html": {}}}},
            )
        },
        "/client": {
            "get": Operation(
                name="clientIndex", summary="Get the page of the Python client's wheels, for `pip --find-links`",
                answers={"200": {"description": "HTML", "content": {"text/html": {}}}}, errors=("404",),
            )
        },
        "/client/{name}": {
            "get": Operation(
                name="clientWheel", summary="Get a wheel of the Python client", parameters=(in_path("name"),),
                answers={"200": {"description": "The wheel", "content": {"application/octet-stream": {}}}},
                errors=("404", "429"),
            )
        },
    }  # fmt: skip


def _for_operators() -> dict[str, dict[str, Operation]]:
    return {
        "/configure": {
            "post": operation(
                "configure", "Change the limits at run time", "Configured", who=ADMIN_ONLY, takes=json_of("Limits"),
                errors=BODY_ERRORS,
            )
        },
        "/status": {"get": operation("status", "Get statistics of the service; more with a key", "Status")},
        "/health": {
            "get": operation("health", "Check whether the service accepts work", "Health", errors=("500", "503"))
        },
        "/health/live": {
            "get": operation("live", "Check whether the process should go on (liveness)", "Live", errors=("503",))
        },
        "/health/ready": {
            "get": operation("ready", "Check whether to send callers here (readiness)", "Ready", errors=("503",))
        },
    }  # fmt: skip


# ── Single operations


def _index() -> Operation:
    return Operation(
        name="index",
        summary="Get links to the documentation; redirects browsers to `/docs`",
        answers={
            "200": {"description": "Done", "content": json_of("Index")},
            "302": {
                "description": "To `/docs`, if the caller prefers HTML",
                "headers": {"Location": {"schema": TEXT}},
            },
        },
    )


def _generate() -> Operation:
    return Operation(
        name="generate",
        summary="Generate one image or video, or forecast its cost and duration",
        who=PAYERS,
        parameters=(_PREFER, KEY),
        takes={**json_of("GenerationRequest"), **_FORM},
        answers={
            "200": {"description": "Done", "content": json_of("GenerationOrPlan"), "headers": _APPLIED},
            "202": _goes_on("UnfinishedGeneration"),
        },
        errors=(*BODY_ERRORS, "402", "409", "422", "503"),
        callback="Generation",
    )


def _generate_batch() -> Operation:
    line: JSON = {"anyOf": [ref("BatchItem"), ref("BatchSummary")]}
    return Operation(
        name="generateBatch",
        summary="Generate many images or videos, with results in input order, or forecast them",
        who=PAYERS,
        parameters=(_PREFER, KEY),
        takes={**json_of("BatchRequest"), **_FORM},
        answers={
            "200": {
                "description": "Done. As `application/x-ndjson`: each result as soon as it is ready, then the summary.",
                "content": {**json_of("BatchOrPlan"), "application/x-ndjson": {"schema": line}},
                "headers": _APPLIED,
            },
            "202": _goes_on("AnyBatch"),
        },
        errors=(*BODY_ERRORS, "402", "409", "422", "503"),
        callback="Batch",
    )


def _events() -> Operation:
    return Operation(
        name="events",
        summary="Follow a generation by server-sent events",
        who=READERS,
        parameters=(_target("generation"),),
        answers={
            "200": {
                "description": "The current state first, then each event until the generation ends",
                "content": {"text/event-stream": {"schema": ref("Event")}},
            }
        },
        errors=("404", "429", "500"),
    )


def _file() -> Operation:
    content: JSON = {"*/*": {}}
    return Operation(
        name="file",
        summary="Get a stored output, whole or in part",
        parameters=(
            in_path("generation"),
            in_path("name"),
            header("Range", TEXT),
            query("name", TEXT, "The file name for the download."),
        ),
        answers={
            "200": {"description": "The file", "content": content},
            "206": {"description": "The requested range", "content": content},
            "304": {"description": "The file matches `If-None-Match`"},
        },
        errors=("404", "416", "429"),
    )


def _replicate_webhook() -> Operation:
    return Operation(
        name="toldByReplicate",
        summary="Receive a signed webhook of Replicate about a prediction that ended",
        parameters=(
            query("generation", TEXT),
            query("attempt", TEXT),
            *({**each, "required": True} for each in _SIGNED),
        ),
        takes={"application/json": {"schema": {"type": "object"}}},
        answers={"204": {"description": "Accepted, or ignored as already known"}},
        errors=("400", "401", "413", "429", "500"),  # the 401 is of its signature
    )


def _webhook(result: str) -> JSON:
    """The delivery to a caller's webhook."""
    return {
        "summary": "Report the end: delivered at least once, and retried for a day until a response of 2xx or 410",
        "security": [],
        "parameters": list(_SIGNED),
        "requestBody": {"required": True, "content": json_of(result)},
        "responses": {
            "2XX": {"description": "Delivered"},
            "410": {"description": "Stop the deliveries to this URL"},
        },
    }


# ── Parts of operations


def _security(roles: Sequence[str]) -> list[JSON]:
    """The headers in which a key of these roles may be sent."""
    schemes = ["admin", "key", "bearer", *(["user"] if "user" in roles else [])]
    return [{each: []} for each in schemes] if roles else []


def operation(name: str, summary: str, answer: str, **more: object) -> Operation:
    answers = {"200": {"description": "Done", "content": json_of(answer)}}
    return Operation(name=name, summary=summary, answers=answers, **more)  # type: ignore[arg-type]


def json_of(name: str) -> JSON:
    return {"application/json": {"schema": ref(name)}}


def _goes_on(name: str) -> JSON:
    where = {"schema": TEXT, "description": "The path of the generation or batch."}
    return {
        "description": "Accepted; the work continues",
        "content": json_of(name),
        "headers": {"Location": where, **_APPLIED},
    }


def _error(status: str, content: JSON, *, creates: bool) -> JSON:
    others = _OF_OTHERS if creates else _OF_WORK
    codes = [error for error in every_error() if str(error.status) == status and error.code not in others]
    headers = ({"Retry-After": _SECONDS} if status in {"429", "503"} else {}) | (_PAID if creates else {})
    return {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in codes),
        "content": content,
        **({"headers": headers} if headers else {}),
    }


def _target(kind: str) -> JSON:
    return in_path("target", f"The id of the {kind}.")


def in_path(name: str, description: str = "") -> JSON:
    return _parameter("path", name, TEXT, description, required=True)


def query(name: str, schema: JSON, description: str = "") -> JSON:
    return _parameter("query", name, schema, description)


def header(name: str, schema: JSON, description: str = "") -> JSON:
    return _parameter("header", name, schema, description)


def _parameter(place: str, name: str, schema: JSON, description: str, *, required: bool = False) -> JSON:
    described = {"description": description} if description else {}
    return {"name": name, "in": place, "required": required, "schema": schema, **described}


BODY_ERRORS: Final = ("400", "413", "415", "429", "500")
"""The errors of an operation that reads a body."""

LIMIT: Final = query(
    "limit", {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": USUAL_PAGE}
)
CURSOR: Final = query("cursor", TEXT, "The `next_cursor` of the previous page.")
"""Parameters of a list in pages."""

_REQUEST_ID: Final = header(
    "X-Request-ID",
    {"type": "string", "maxLength": 200},
    "Returned and logged. If absent, the service generates one.",
)
_PREFER: Final = header(
    "Prefer",
    TEXT,
    "`respond-async`: respond with 202 at once. `wait=N`: respond with 202 if the work has not ended after N seconds.",
)
KEY: Final = header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "A repeated request with the same key and body gets the same work: for 24 hours, and until that work has ended.",
)
_APPLIED: Final[JSON] = {
    "Preference-Applied": {
        "schema": TEXT,
        "description": "The preferences that the service applied, if any.",
    }
}
_FORM: Final[JSON] = {"multipart/form-data": {"schema": ref("Form")}}
_SIGNED: Final = (
    header("webhook-id", TEXT, "The same in every attempt to deliver."),
    header("webhook-timestamp", TEXT, "Unix time of the attempt."),
    header(
        "webhook-signature",
        TEXT,
        "v1 and HMAC-SHA256 over `id.timestamp.body`, keyed with the secret's bytes. The work of a named key is signed "
        "with the key's secret and, if it is set, with WEBHOOK_SECRET; a space separates the two.",
    ),
)
