"""The responses of handlers, and Replicate's error responses.

A handler returns an `ApiResponse` or raises an `ApiError` with one. The middleware sends it, so a fault can change or
drop any response without the handler's part. Each error response is defined once, here, in Replicate's form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from jsonschema.exceptions import ValidationError

from simulator.schemas import Schema

JSON = "application/json"
PROBLEM = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response to be sent: a JSON value (or text, or the bytes of a file), a status, and headers."""

    body: Any
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """A handler raises it to send an error response."""

    def __init__(self, response: ApiResponse) -> None:
        super().__init__(response.status)
        self.response = response


def unauthenticated() -> ApiError:
    """401: no token, or an invalid one."""
    detail = "You did not pass a valid authentication token"
    return ApiError(_problem(401, "Unauthenticated", detail, content_type=PROBLEM))


def insufficient_credit() -> ApiError:
    """402: the account has no credit."""
    detail = (
        "You have insufficient credit to run this model. Go to "
        "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
        "credit, please wait a few minutes before trying again."
    )
    return ApiError(_problem(402, "Insufficient credit", detail, content_type=PROBLEM))


def not_found() -> ApiError:
    """404: no such resource in this account."""
    detail = "The requested resource could not be found."
    return ApiError(ApiResponse({"detail": detail, "status": 404}, 404))


def forbidden() -> ApiError:
    """403: the account does not own what the request names."""
    detail = "You do not have permission to perform this action."
    return ApiError(ApiResponse({"detail": detail, "status": 403}, 403))


def no_destination() -> ApiError:
    """404: the destination of a training does not exist in this account."""
    detail = "The specified training destination does not exist"
    return ApiError(ApiResponse({"detail": detail, "status": 404}, 404))


def model_exists() -> ApiError:
    """409: a model of this name exists already."""
    detail = "A model with that name already exists."
    return ApiError(ApiResponse({"detail": detail, "status": 409}, 409))


def malformed(detail: str, *, status: int = 400) -> ApiError:
    """400 or a similar status: a request that cannot be parsed."""
    return ApiError(ApiResponse({"detail": detail, "status": status}, status))


def unknown_version() -> ApiError:
    """422: an invalid version id."""
    detail = "The specified version does not exist (or perhaps you don't have permission to use it?)"
    return ApiError(_problem(422, "Invalid version or not permitted", detail))


def not_trainable() -> ApiError:
    """422: a version without `TrainingInput`."""
    return ApiError(_problem(422, "Invalid version", "The specified version does not support training"))


def disabled_version() -> ApiError:
    """422: a version that Replicate does not run any more."""
    detail = "Sorry, this version is currently disabled due to failing setup runs."
    return ApiError(_problem(422, "Version disabled", detail))


def invalid_input(problems: list[dict[str, str]]) -> ApiError:
    """422: invalid input. Each problem has `type`, `field` and `description`; the field of the body itself is empty."""
    places = [f"{item['field']}: " if item["field"] else "" for item in problems]
    detail = "".join(
        f"- {place}{item['description']}\n" for place, item in zip(places, problems, strict=True)
    )
    response = _problem(422, "Input validation failed", detail)
    response.body["invalid_fields"] = problems
    return ApiError(response)


def throttled(seconds: int, *, low_credit: bool = False) -> ApiError:
    """429: too many requests, with a retry after `seconds`."""
    detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    if low_credit:
        detail += (
            " Your rate limit for creating predictions is reduced to 6 requests per minute with a"
            " burst of 1 requests while you have less than $5.0 in credit."
        )
    body = {"detail": detail, "status": 429, "retry_after": seconds}
    return ApiError(ApiResponse(body, 429, headers={"Retry-After": str(seconds)}))


def of_status(status: int) -> ApiResponse:
    """A realistic response with any status, for a fault without a body."""
    known = {401: unauthenticated, 402: insufficient_credit, 404: not_found}
    if status in known:
        return known[status]().response
    if status == 429:
        return throttled(1).response
    if status == 422:
        return invalid_input([problem("required", "input", "prompt is required")]).response
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Unknown"
    return _problem(status, title, f"The server answered {status}.")


def input_problems(schema: Schema, value: Any) -> list[dict[str, str]]:
    """All problems of `value` as the input of a version, with Replicate's messages."""
    return [_as_problem(error) for error in schema.errors(value)]


def problem(kind: str, where: str, description: str) -> dict[str, str]:
    """One entry of `invalid_fields`."""
    return {"type": kind, "field": where, "description": description}


def _problem(status: int, title: str, detail: str, *, content_type: str = JSON) -> ApiResponse:
    return ApiResponse({"title": title, "detail": detail, "status": status}, status, content_type)


def _as_problem(error: ValidationError) -> dict[str, str]:
    instance: Any = error.instance
    where = ".".join(["input", *map(str, error.absolute_path)])
    bound: Any = error.validator_value
    match error.validator:
        case "required":
            # Replicate reports a missing field as a problem of the whole input.
            missing = next(name for name in bound if name not in instance)
            return problem("required", where, f"{missing} is required")
        case "type":
            expected = bound[0] if isinstance(bound, list) else bound
            found = f"Invalid type. Expected: {expected}, given: {_json_type(instance)}"
            return problem("invalid_type", where, found)
        case "enum":
            choices = ", ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in bound)
            return problem("enum", where, f"{where} must be one of the following: {choices}")
        case "minimum":
            return problem("number_gte", where, f"Must be greater than or equal to {bound}")
        case "maximum":
            return problem("number_lte", where, f"Must be less than or equal to {bound}")
        case "multipleOf":
            return problem("multiple_of", where, f"Must be a multiple of {bound}")
        case "not":
            schema: Any = error.schema
            return problem("number_not", where, schema.get("description", error.message))
        case other:
            return problem(str(other), where, error.message)


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else names.get(type(value), "object")
