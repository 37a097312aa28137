"""Errors in Replicate's shape: `{"title", "detail", "status"}`, with the code of this service beside them.

An input that is not valid is 422 with `invalid_fields`, as Replicate answers. What this door does not have of its API
is 404 for every method. Its client raises a `ReplicateError` with title, status and detail for each of them. It
repeats a GET on 429, 503 and 504, and never a POST.

Facts: recorded answers, and the source of the official client at 1.0.7.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from doors import BUDGET_FACTS, SAFETY_FACTS

MIMETYPE: Final = "application/problem+json"

_TITLES: Final = {
    "invalid_request": "Input validation failed",
    "unauthenticated": "Unauthenticated",
    "method_not_allowed": "Not found",
}
"""Replicate's own titles, by code."""

_DETAILS: Final = {"method_not_allowed": "This service does not have this part of Replicate's API."}

_STATUSES: Final = {"invalid_request": 422, "method_not_allowed": 404}
"""Replicate's own statuses, by code."""

_TYPES: Final = (
    (re.compile(r"is required$"), "required"),
    (re.compile(r"must be at most -?[\d.]+$"), "number_lte"),
    (re.compile(r"must be at least -?[\d.]+$"), "number_gte"),
    (re.compile(r"must be a multiple of"), "multiple_of"),
    (
        re.compile(r"must be (?:an? (?:finite )?(?:integer|number|string|list|object)|true or false)"),
        "invalid_type",
    ),
)
"""Replicate's names for kinds of problems, by our messages. Every other kind is `invalid`."""


def shape(
    problem: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[dict[str, Any], str, dict[str, str]]:
    """The body, the content type and further headers of the response to an error, made from its problem document. Its
    `status` is that of the response. The `headers` are those that the response has without them."""
    code = problem["code"]
    fields = [_field(each) for each in problem.get("errors") or ()]
    body = {
        "title": _TITLES.get(code, problem["title"]),
        "detail": "".join(map(_line, fields)) or _DETAILS.get(code, problem["detail"]),
        "status": _STATUSES.get(code, problem["status"]),
        "code": code,
        "request_id": problem["request_id"],
    }
    body |= {name: problem[name] for name in (*BUDGET_FACTS, *SAFETY_FACTS) if name in problem}
    if fields:
        body["invalid_fields"] = fields
    if (seconds := headers.get("Retry-After", "")).isdecimal():
        body["retry_after"] = int(seconds)
    return body, MIMETYPE, {}


def _field(problem: Mapping[str, Any]) -> dict[str, str]:
    """One entry of `invalid_fields`. A missing input is a problem of the whole input."""
    name, message = str(problem["field"]), str(problem["message"])
    kind = next((kind for pattern, kind in _TYPES if pattern.match(message)), "invalid")
    if kind == "required":
        place, _, missing = name.rpartition(".")
        return {"type": kind, "field": place, "description": f"{missing} is required"}
    return {"type": kind, "field": name, "description": message[:1].upper() + message[1:]}


def _line(field: Mapping[str, str]) -> str:
    place = f"{field['field']}: " if field["field"] else ""
    return f"- {place}{field['description']}\n"
