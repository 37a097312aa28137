"""What every refusal has in common, asserted in one place."""

import json
from collections.abc import Callable
from typing import Any

from werkzeug.test import TestResponse

from errors import InvalidRequest


def problem(answer: TestResponse, status: int, code: str, *, retryable: bool = False) -> dict[str, Any]:
    """The problem document that `answer` must be."""
    assert "application/problem+json" == answer.content_type
    told = json.loads(answer.get_data().decode())
    assert (status, code) == (answer.status_code, told["code"]), told
    assert status == told["status"]
    assert retryable is told["retryable"]
    assert f"/docs#{code}" == told["type"]
    assert answer.headers["X-Request-ID"] == told["request_id"]
    assert all(isinstance(told[name], str) and told[name] for name in ("title", "detail"))
    assert "Traceback" not in told["detail"]
    assert "object at 0x" not in told["detail"]
    return told


def fields(answer: TestResponse) -> list[str]:
    """The fields an invalid request was refused for, in the order they were told."""
    return [each["field"] for each in problem(answer, 400, "invalid_request")["errors"]]


def told(parse: Callable[[Any], object], body: Any) -> dict[str, str]:
    """The messages of a parser that refuses a body, by field; empty if it is taken."""
    try:
        parse(body)
    except InvalidRequest as invalid:
        return {each.field: each.message for each in invalid.problems}
    return {}
