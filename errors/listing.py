"""Lists the errors that callers can receive, and reads recorded ones."""

from collections.abc import Iterable, Mapping
from typing import Any

import errors.calls
import errors.content
from errors import ABSENT, Internal, InvalidFields, Problem, ServiceError

_MODULES = {ServiceError.__module__, errors.calls.__name__, errors.content.__name__}


def every_error() -> tuple[type[ServiceError], ...]:
    """The errors that callers can receive: the leaves of the package's tree in source order, one per code."""

    def leaves(kind: type[ServiceError]) -> Iterable[type[ServiceError]]:
        below = [child for child in kind.__subclasses__() if child.__module__ in _MODULES]
        return (leaf for child in below for leaf in leaves(child)) if below else (kind,)

    by_code: dict[str, type[ServiceError]] = {}
    for error in leaves(ServiceError):
        by_code.setdefault(error.code, error)
    return tuple(by_code.values())


def restored(item: Mapping[str, Any]) -> ServiceError:
    """The error that an item describes (`ServiceError.as_item`)."""
    kind = next((error for error in every_error() if error.code == item["code"]), Internal)
    if issubclass(kind, InvalidFields):
        return kind(
            Problem(each["field"], each["message"], each.get("given", ABSENT)) for each in item["errors"]
        )
    if issubclass(kind, errors.content.ContentRefused):
        fields = [Problem(each["field"], each["message"]) for each in item.get("errors", ())]
        refused = kind(item["detail"], category=item.get("category"), problems=fields)
        refused.retryable = item["retryable"]
        return refused
    if issubclass(kind, errors.calls.QuotaExhausted):
        return kind(item["detail"], resets_at=item.get("resets_at"))
    error = kind(item["detail"])
    error.retryable = item["retryable"]
    return error
