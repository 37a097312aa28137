"""What Replicate's refusals and failures mean: status and error document in, our own error out.

The admin's callers do not own the account that pays, so its token and billing trouble reaches them without
Replicate's billing advice; a user gets Replicate's own words about their account.
"""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from auth import Caller
from errors import (
    InsufficientCredit,
    InvalidRequest,
    Problem,
    ServerOutOfCredit,
    ServerTokenRejected,
    ServiceError,
    TokenRejected,
    UpstreamError,
    UpstreamRateLimited,
)
from providers import Cause, TryAgain
from providers.replicate import token_of
from providers.replicate.transport import Refusal

LONGEST_WAIT = 300.0
"""Seconds. The longest wait: a request that was refused for longer is repeated after this."""

# What models report; the strings and codes are Replicate's own.
_REFUSED = re.compile(r"NSFW|flagged as sensitive|\(E005\)", re.IGNORECASE)
_PASSING = re.compile(r"\(code: PA\)|\b(E6716|E9828)\b")

_RESETS_IN = re.compile(r"resets in ~?\s*(\d+(?:\.\d+)?)\s*s")


def service_error(refusal: Refusal, caller: Caller) -> ServiceError:
    """The error that this caller gets for this refusal."""
    match refusal.status:
        case 401 | 403:
            return TokenRejected() if caller.kind == "user" else ServerTokenRejected()
        case 402:
            if caller.kind == "user":
                return InsufficientCredit(_quoted(refusal.json().get("detail") or "", caller))
            return ServerOutOfCredit()
        case 422:
            return _invalid_input(refusal, caller)
        case 429:
            return UpstreamRateLimited()
        case 404:
            return UpstreamError("Replicate does not know what it was asked for.")
    return UpstreamError(f"Replicate answered with status {refusal.status}.")


def raise_if_settled(refusal: Refusal, caller: Caller) -> None:
    """Raise the error of a refused creation, unless the creation may have arrived.

    A 5xx may come from a gateway behind which the request arrived. Only 503 says that nothing did; below 500, Replicate
    itself refused.
    """
    if refusal.status == 429:
        raise TryAgain(UpstreamRateLimited(), wait=seconds_to_wait(refusal), throttled=True) from None
    if refusal.status == 503:
        raise TryAgain(service_error(refusal, caller), wait=seconds_to_wait(refusal)) from None
    if refusal.status < 500:
        raise service_error(refusal, caller) from None


def cause_of(error: str | None) -> Cause:
    """Why a prediction failed, by the error it reports."""
    if _REFUSED.search(error or ""):
        return "content"
    return "passing" if _PASSING.search(error or "") else "model"


def seconds_to_wait(refusal: Refusal) -> float | None:
    """Seconds to wait, by the refusal's header, else its `retry_after`, else its text; None if none says."""
    seconds = _from_header(refusal.headers.get("retry-after", ""))
    document = refusal.json()
    if seconds is None and isinstance(document.get("retry_after"), int | float):
        seconds = float(document["retry_after"])
    if seconds is None:
        found = _RESETS_IN.search(str(document.get("detail", "")))
        seconds = float(found.group(1)) if found else None
    return None if seconds is None or math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def _from_header(text: str) -> float | None:
    """Retry-After: seconds or an HTTP date (RFC 9110)."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


def _invalid_input(refusal: Refusal, caller: Caller) -> ServiceError:
    """Replicate's schema is stricter than the registry's. The caller can still correct the input."""
    fields = refusal.json().get("invalid_fields")
    problems = [
        Problem(
            _quoted(field.get("field", "input"), caller).removeprefix("input."),
            _quoted(field.get("description", ""), caller),
        )
        for field in (fields if isinstance(fields, list) else ())
        if isinstance(field, dict)
    ]
    detail = _quoted(refusal.json().get("detail") or "Replicate refused the input", caller).strip("- \n")
    return InvalidRequest(problems or [Problem("input", detail[:300])])


def _quoted(text: object, caller: Caller) -> str:
    """Replicate's words without the caller's token, since they are logged, kept and shown."""
    return str(text).replace(token_of(caller), "[token]")
