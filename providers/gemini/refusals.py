"""Reads Google's errors: the body of an answer with an error status, or a chunk `{"error": …}` of a stream.

`{"error": {"code", "message", "status", "details": [{"@type": "type.googleapis.com/google.rpc.…"}]}}`; some routes put
it into a list. Rate limits show in `details` alone, there are no headers for them.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final

MAX_REFUSAL: Final = 256 * 1024
"""The most bytes of an error's body. A longer one is not read."""

_DURATION: Final = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,8})m(?!s))?(?:(\d{1,10}(?:\.\d{1,12})?)s)?")
_RETRY_IN: Final = re.compile(r"retry in ((?:\d+h)?(?:\d+m(?!s))?(?:\d+(?:\.\d+)?s)?)", re.IGNORECASE)


class Refusal(Exception):
    """Google, or something between, answered with an error. `status` is that of HTTP, or `error.code` of a chunk."""

    def __init__(self, status: int, error: Mapping[str, Any] | None) -> None:
        super().__init__(f"Google answered {status}")
        self.status = status
        self._error: Mapping[str, Any] = error or {}
        self.is_googles = error is not None
        """Whether the error is in Google's own form, and not a page of something between, such as a firewall."""

    @classmethod
    def of_answer(cls, status: int, body: bytes) -> "Refusal":
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        return cls(status, error_in(document))

    @classmethod
    def of_chunk(cls, error: Mapping[str, Any]) -> "Refusal":
        code = error.get("code")
        return cls(code if isinstance(code, int) and 400 <= code < 600 else 500, error)

    @property
    def shows_health(self) -> bool:
        """Whether the refusal shows that Google works."""
        return self.is_googles and self.status < 500

    @property
    def name(self) -> str:
        """Such as `RESOURCE_EXHAUSTED`."""
        name = self._error.get("status")
        return name if isinstance(name, str) else ""

    @property
    def message(self) -> str:
        message = self._error.get("message")
        return message if isinstance(message, str) else ""

    def details(self, kind: str) -> Iterator[Mapping[str, Any]]:
        """The details of this kind, such as `QuotaFailure`."""
        details = self._error.get("details")
        for each in details if isinstance(details, list) else ():
            if isinstance(each, dict) and str(each.get("@type")).endswith(f".{kind}"):
                yield each

    def violations(self, kind: str, name: str) -> Iterator[Mapping[str, Any]]:
        """The entries of the list `name` in the details of this kind."""
        for each in self.details(kind):
            entries = each.get(name)
            yield from (
                entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, dict)
            )

    @cached_property
    def reasons(self) -> frozenset[str]:
        """The reasons of its ErrorInfo, such as `API_KEY_INVALID`."""
        return frozenset(str(each.get("reason")) for each in self.details("ErrorInfo"))

    @cached_property
    def wait(self) -> int | None:
        """Whole seconds to wait, rounded up. None if it names none.

        `retryDelay` is often rounded down (53 for 53.9), so a second is added unless the message is more exact."""
        named = [_seconds(each.get("retryDelay")) for each in self.details("RetryInfo")]
        whole = max((each for each in named if each is not None), default=None)
        found = _RETRY_IN.search(self.message)
        exact = _seconds(found[1]) if found else None
        if exact is not None:
            return math.ceil(max(exact, whole or 0.0))
        return None if whole is None else math.ceil(whole + 1 if whole.is_integer() else whole)


def error_in(document: Any) -> Mapping[str, Any] | None:
    """The error in a document of Google's, also within a list. None if it has none."""
    if isinstance(document, list):
        return next((found for each in document if (found := error_in_object(each)) is not None), None)
    return error_in_object(document)


def error_in_object(document: Any) -> Mapping[str, Any] | None:
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) and ("code" in error or "status" in error) else None


def _seconds(text: Any) -> float | None:
    """The seconds of a duration, such as `53.016342224s` or `1h52m56.4s`. None if it is none."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        return None
    hours, minutes, seconds = (float(each or 0) for each in found.groups())
    return hours * 3600 + minutes * 60 + seconds
