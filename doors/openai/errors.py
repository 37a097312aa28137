"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with the codes of this service.

Its client retries each 408, 409, 429 and 5xx without an idempotency key, unless the response has `x-should-retry:
false`. A failure that may have been paid has that header (`errors.py`), and so has one that a retry cannot mend.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from doors import BUDGET_FACTS, SAFETY_FACTS
from errors import Problem

MIMETYPE: Final = "application/json"

_TYPES: Final = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}

_RETRIED: Final = {408, 409, 429}
"""The statuses below 500 that the client retries."""

_BESIDE: Final = (
    "id", "model_name", "cost_usd", "partial", "text", "resets_at", *BUDGET_FACTS, *SAFETY_FACTS,
)  # fmt: skip
"""The facts of the generation that stand beside `error`, as they do in a result: also the text that came of one that
failed, and the end of a quota or budget that is used up."""

NO_RETRY: Final = {"x-should-retry": "false"}


def shape(
    problem: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[dict[str, Any], str, dict[str, str]]:
    """The body, the content type and further headers of the response to an error, made from its problem document. The
    `headers` are those that the response has without them."""
    status = problem["status"]
    error = _error(problem, _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"))
    is_retried = status in _RETRIED or status >= 500
    is_final = is_retried and not problem["retryable"] and "x-should-retry" not in headers
    beside = {name: problem[name] for name in _BESIDE if name in problem}
    return {"error": error, **beside}, MIMETYPE, dict(NO_RETRY) if is_final else {}


def in_stream(item: Mapping[str, Any]) -> dict[str, Any]:
    """The event of an error that ends a stream, after the status was sent (`ServiceError.as_item`)."""
    beside = {name: item[name] for name in _BESIDE if name in item}
    return {"error": _error(item, "server_error") | {"retryable": item["retryable"]}, **beside}


def _error(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    problems = item.get("errors") or ()
    error = {
        "message": item["detail"],
        "type": kind,
        "param": problems[0]["field"] if problems else None,
        "code": item["code"],
    }
    return error | ({"errors": problems} if len(problems) > 1 else {})


def as_called(problems: Iterable[Problem], images: str | None = None) -> list[Problem]:
    """Problems of a translated body by the names of OpenAI's fields, each once for all generations of a call. `images`
    is the input of the model that `image` has become."""
    found: list[Problem] = []
    for each in problems:
        name = re.sub(r"^requests\[\d+\]\.", "", each.field)
        name = "model" if name == "model_name" else name
        if images is not None and name.partition("[")[0] == images:
            name = "image" + name.removeprefix(images)
        if all((name, each.message) != (other.field, other.message) for other in found):
            found.append(replace(each, field=name))
    return found
