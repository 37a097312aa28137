"""Assertions on problem documents."""

import json
from collections.abc import Callable
from typing import Any

from werkzeug.test import TestResponse

from errors import InvalidRequest


def problem(answer: TestResponse, status: int, code: str, *, retryable: bool = False) -> dict[str, Any]:
    """The problem document that `answer` must be."""
    assert "application/problem+json" == answer.content_type
    document: dict[str, Any] = json.loads(answer.get_data().decode())
    assert (status, code) == (answer.status_code, document["code"]), document
    assert status == document["status"]
    assert retryable is document["retryable"]
    assert f"/docs#{code}" == document["type"]
    assert answer.headers["X-Request-ID"] == document["request_id"]
    assert all(isinstance(document[name], str) and document[name] for name in ("title", "detail"))
    assert "Traceback" not in document["detail"]
    assert "object at 0x" not in document["detail"]
    return document


def fields(answer: TestResponse) -> list[str]:
    """The invalid fields of a refused request, in the order of the response."""
    return [each["field"] for each in problem(answer, 400, "invalid_request")["errors"]]


def messages(parse: Callable[[Any], object], body: Any) -> dict[str, str]:
    """The messages of a parser that refuses a body, by field; empty if it accepts the body."""
    try:
        parse(body)
    except InvalidRequest as invalid:
        return {each.field: each.message for each in invalid.problems}
    return {}
