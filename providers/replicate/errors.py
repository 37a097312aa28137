"""Translates Replicate's refusals and failures: status and error document in, our own error out.

A user gets Replicate's own words about their account. Callers on the server's account do not own it, so they
see its token and billing errors without Replicate's billing advice.
"""

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from auth import Caller
from catalog.targets import Target
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
from providers import Cause
from providers.outcomes import relevant_lines
from providers.redaction import Redaction, redaction_of
from providers.replicate.transport import Refusal
from providers.replicate.wordings import cause_in

LONGEST_WAIT = 300.0
"""The longest wait in seconds, even if a refusal names a longer one."""

RATE_LIMIT_WAIT = 5.0
"""Seconds to wait after a 429 that names no time."""

_PROBLEMS = 100
"""The most invalid fields that are passed on."""


_THROTTLED = "Replicate's rate limit was exceeded repeatedly."

_RESETS_IN = re.compile(r"resets in ~?\s*(\d+(?:\.\d+)?)\s*s")


_NO_VERSION = re.compile(r"invalid version|version does not exist", re.IGNORECASE)
_NO_DESTINATION = re.compile(r"training destination", re.IGNORECASE)
_DISABLED = re.compile(r"version is (currently )?disabled", re.IGNORECASE)


def service_error(refusal: Refusal, caller: Caller, redact: Redaction | None = None) -> ServiceError:
    """The error that this caller gets for a final refusal. `redact` removes credentials from its texts; the default
    removes the caller's."""
    redact = redact or redaction_of(caller)
    match refusal.status:
        case 401 | 403:
            return TokenRejected() if caller.kind == "user" else ServerTokenRejected()
        case 402:
            if caller.kind == "user":
                said = _quoted(refusal.document.get("detail"), redact, most=1_000)
                return InsufficientCredit(said or "Your Replicate account is out of credit.")
            return ServerOutOfCredit("The service's Replicate account is out of credit.")
        case 422:
            return _invalid_input(refusal, redact)
        case 429:
            return UpstreamRateLimited(_THROTTLED)
        case 404:
            return UpstreamError("Replicate does not have the requested resource.")
    return UpstreamError(f"Replicate answered with status {refusal.status}.")


def target_error(refusal: Refusal, target: Target) -> InvalidRequest | None:
    """The error for a creation that was refused since Replicate does not run the target for this account. None if it
    was refused for another reason.

    Replicate answers so: 422 "Invalid version or not permitted", also for a model without a version that is not
    official; "this version is currently disabled due to failing setup runs"; 404 for a deployment. (Its OpenAPI
    document, and reports of its users.) A 404 for an official model is none of these: Replicate has lost it."""
    said = " ".join(str(refusal.document.get(name)) for name in ("title", "detail"))
    if not refusal.is_replicates or refusal.status in {408, 429} or not 400 <= refusal.status < 500:
        return None
    may_be_missing = target.deployment is not None or target.version_id is not None
    if _DISABLED.search(said):
        reason = "Replicate has disabled this version, since its setup failed. Use another version."
    elif not _NO_VERSION.search(said) and not (refusal.status == 404 and may_be_missing):
        return None
    elif target.deployment is not None:
        reason = "Replicate has no such deployment, or this account may not use it."
    elif target.version_id is not None:
        reason = "Replicate has no such version, or this account may not run it."
        reason += f" Use another one of {target.name}." if target.version is not None else ""
    else:
        reason = (
            "Replicate has no such model that runs by its name, or this account may not run it. One that is not "
            "official needs a version: owner/name:<64 hex digits>."
        )
    return InvalidRequest([Problem("model_name", reason, str(target))])


def training_error(refusal: Refusal, target: Target) -> InvalidRequest | None:
    """As `target_error`, for the creation of a training. Replicate answers 404 "The specified training destination does
    not exist" (github.com/replicate/flux-fine-tuner, issue 72)."""
    text = " ".join(str(refusal.document.get(name)) for name in ("title", "detail"))
    if refusal.is_replicates and refusal.status == 404 and _NO_DESTINATION.search(text):
        reason = (
            "does not exist at Replicate, or this account may not write to it. Make it there, or send "
            "create_destination."
        )
        return InvalidRequest([Problem("destination", reason)])
    error = target_error(refusal, target)
    return error and InvalidRequest([replace(each, field="trainer") for each in error.problems])


def destination_error(refusal: Refusal, redact: Redaction) -> InvalidRequest:
    """The error for a model that Replicate refused to create, with its reason."""
    fields = refusal.document.get("invalid_fields")
    descriptions = [
        each.get("description")
        for each in (fields if isinstance(fields, list) else ())
        if isinstance(each, dict)
    ]
    reasons = [
        _quoted(each, redact).strip("- \n") for each in (*descriptions, refusal.document.get("detail"))
    ]
    reason = next(filter(None, reasons), "it gave no reason")
    return InvalidRequest([Problem("destination", f"Replicate did not create it: {reason}")])


def may_have_arrived(refusal: Refusal) -> bool:
    """Whether a refused creation may have been made.

    A 5xx may come from a gateway that had passed the request on; only 503 shows that it did not arrive. A
    redirect may follow a request that was carried out, unless it asks for the same request at another
    address.
    """
    return refusal.status not in {301, 307, 308, 503} and not 400 <= refusal.status < 500


def is_about_token(refusal: Refusal) -> bool:
    """Whether Replicate refused the token. That may be temporary, so a request for the token's account
    decides (`refusals.py`)."""
    return refusal.is_replicates and refusal.status in {401, 403}


def is_final(refusal: Refusal) -> bool:
    """Whether the refusal shows that the same request would be refused again. A refusal that is not in
    Replicate's own words comes from something in between, such as a firewall, and is temporary."""
    return refusal.is_replicates and 400 <= refusal.status < 500 and refusal.status not in {408, 429}


def passing_error(refusal: Refusal) -> ServiceError:
    """The caller's error for a temporary refusal when no attempt is left."""
    if refusal.status == 429:
        return UpstreamRateLimited(_THROTTLED)
    by = "Replicate" if refusal.is_replicates or refusal.status >= 500 else "A proxy before Replicate"
    return UpstreamError(f"{by} answered with status {refusal.status}.")


def cause_of(error: str | None) -> Cause:
    """The kind of failure of a prediction, by the error that it reports."""
    return cause_in("\n".join(relevant_lines(error or "")))


def seconds_to_wait(refusal: Refusal) -> float | None:
    """Seconds to wait, from the refusal's header, else its `retry_after`, else its text. None if none of them
    states it."""
    seconds = _from_header(refusal.headers.get("retry-after", ""))
    document = refusal.document
    named, detail = document.get("retry_after"), document.get("detail")
    if seconds is None and isinstance(named, int | float):
        # A whole number may be too long for a float.
        seconds = float(max(-1, min(named, LONGEST_WAIT))) if isinstance(named, int) else named
    if seconds is None and isinstance(detail, str):
        found = _RESETS_IN.search(detail)
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
    except Exception:  # the library's parser raises almost anything for a text that is no date
        return None


def _invalid_input(refusal: Refusal, redact: Redaction) -> ServiceError:
    """The error for an input that Replicate's schema refuses, which may be stricter than the registry's. The
    caller can correct the input."""
    fields = refusal.document.get("invalid_fields")
    problems = [
        Problem(
            (_quoted(field.get("field"), redact) or "input").removeprefix("input."),
            _quoted(field.get("description"), redact),
        )
        for field in (fields[:_PROBLEMS] if isinstance(fields, list) else ())
        if isinstance(field, dict)
    ]
    detail = _quoted(refusal.document.get("detail"), redact).strip("- \n")
    return InvalidRequest(problems or [Problem("input", detail or "Replicate refused the input")])


def _quoted(text: Any, redact: Redaction, *, most: int = 300) -> str:
    """A text of Replicate, redacted because it is logged, stored and shown. Empty if it is no text."""
    return redact.words(text)[:most] if isinstance(text, str) else ""
