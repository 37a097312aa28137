"""Decides whether a call may be tried again after an error of Google's, and which error the caller gets.

A user reads Google's own words about their account and their request. Callers on the server's key do not own its
account, so they read no advice about it.
"""

import re
from typing import Final

from auth import Caller
from errors import InsufficientCredit, InvalidRequest, Problem, ServerOutOfCredit, ServiceError, UpstreamError
from errors.calls import (
    GeminiKeyRejected,
    ModelUnavailable,
    PromptTooLarge,
    SchemaRefused,
    ServerGeminiKeyRejected,
)
from providers import TryAgain
from providers.calls import Call, CallLost
from providers.gemini.limits import limit_hit
from providers.gemini.redaction import quoted
from providers.gemini.refusals import Refusal

AGAIN: Final = frozenset({499, 500, 503, 504})
"""The errors after which Google's own clients try again: the call was not billed, and the next attempt may succeed."""

_KEY: Final = re.compile(r"\bAPI[ _]key (?:not valid|not found|expired|invalid)", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"multiple authentication credentials", re.IGNORECASE)
"""Something between has added a credential. The caller cannot correct that."""

_TOO_LARGE: Final = re.compile(
    r"input token count(?:\D{0,20}(\d{1,15})\)?)? exceeds the maximum number of tokens allowed(?:\D{0,20}(\d{1,15}))?"
)
_SCHEMA: Final = re.compile(r"schema|too many states", re.IGNORECASE)
_BARE: Final = re.compile(r"\W*(?:request contains an )?invalid argument\W*", re.IGNORECASE)

_BARE_REASON: Final = (
    "Google refused the request without a reason. Most often the schema is too complex: it has large bounds, long "
    "lists of values, or many optional properties."
)

_FIELDS: Final = (
    ("max_output_tokens", "max_output_tokens"),
    ("thinking", "thinking_level"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("seed", "seed"),
    ("stop_sequences", "stop"),
    ("inline_data", "images"),
    ("system_instruction", "system_prompt"),
)
"""Parts of Google's names of fields, and the fields of a request to this service."""


def judged(refusal: Refusal, caller: Caller, call: Call, *, now: float) -> Exception:
    """The exception to raise for a call that was refused before any text came: TryAgain, LimitHit, CallLost or a
    ServiceError. `now` is Unix time."""
    status = refusal.status
    if status == 429:
        return limit_hit(refusal, caller, call.model, now)
    if not refusal.is_googles:
        return _not_googles(refusal)
    if status in AGAIN:
        wait = None if refusal.wait is None else float(refusal.wait)
        return TryAgain(UpstreamError(_said(refusal, caller)), wait=wait)
    if status in {401, 403} or (status == 400 and _is_about_key(refusal)):
        return _rejected_key(refusal, caller)
    if status == 404:
        said = quoted(refusal.message, caller)
        return ModelUnavailable(f"Google does not offer {call.model}: {said}" if said else "")
    if status == 400 and refusal.name == "FAILED_PRECONDITION":
        return _without_billing(refusal, caller)
    if status in {400, 413} and not _CREDENTIALS.search(refusal.message):
        return _invalid(refusal, caller, call)
    return UpstreamError(_said(refusal, caller))


def ended_by(refusal: Refusal, caller: Caller) -> ServiceError:
    """The error of a call that was refused after a part of its text had come. It is never tried again, since its caller
    has the text."""
    error = UpstreamError(f"The answer was cut. {_said(refusal, caller)}")
    error.may_be_paid = True
    return error


def _not_googles(refusal: Refusal) -> Exception:
    """A firewall or a proxy has answered. It has not passed on a request that it refuses by 4xx. By 5xx, even 503, it
    may report an answer that it has lost."""
    if refusal.status >= 500:
        return CallLost(f"A proxy before Google answered with status {refusal.status}.")
    return UpstreamError(f"A proxy before Google answered with status {refusal.status}.")


def _is_about_key(refusal: Refusal) -> bool:
    return "API_KEY_INVALID" in refusal.reasons or _KEY.search(refusal.message) is not None


def _rejected_key(refusal: Refusal, caller: Caller) -> ServiceError:
    if caller.kind != "user":
        return ServerGeminiKeyRejected()
    said = quoted(refusal.message, caller)
    return GeminiKeyRejected(f"Google rejected your Gemini key: {said}" if said else "")


def _without_billing(refusal: Refusal, caller: Caller) -> ServiceError:
    """For an account without billing, where the free tier is not offered."""
    if caller.kind != "user":
        return ServerOutOfCredit("Google requires billing for the service's account.")
    return InsufficientCredit(
        quoted(refusal.message, caller, most=1_000) or "Your Google account has no billing."
    )


def _invalid(refusal: Refusal, caller: Caller, call: Call) -> ServiceError:
    """For a request that Google does not take. The caller can correct it."""
    large = _TOO_LARGE.search(refusal.message)
    if large is not None:
        return PromptTooLarge([Problem("prompt", _too_large(large[1], large[2]))])
    violations = [
        (str(each.get("field") or ""), quoted(each.get("description"), caller))
        for each in refusal.violations("BadRequest", "fieldViolations")
    ]
    said = next((text for _, text in violations if text), "") or quoted(refusal.message, caller)
    texts = [refusal.message, *(f"{field} {text}" for field, text in violations)]
    if call.schema is not None and (_BARE.fullmatch(refusal.message) or any(map(_SCHEMA.search, texts))):
        return SchemaRefused([Problem("json_schema", _schema(refusal, said))])
    if not violations:
        return InvalidRequest([Problem(_field(refusal.message), said or "Google refused the request.")])
    return InvalidRequest(
        [
            Problem(_field(f"{field} {text}"), text or said or "is not taken by Google")
            for field, text in violations
        ]
    )


def _too_large(tokens: str | None, most: str | None) -> str:
    has = "has more tokens than the model takes" if tokens is None else f"has {int(tokens):,} tokens"
    return has if most is None else f"{has}, and the model takes at most {int(most):,}"


def _schema(refusal: Refusal, said: str) -> str:
    if _BARE.fullmatch(refusal.message) and _BARE.fullmatch(said or refusal.message):
        return _BARE_REASON
    return f"Google does not take the schema: {said}"


def _field(text: str) -> str:
    """The field of a request to this service that Google's text names."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower().replace(" ", "_")
    return next((ours for theirs, ours in _FIELDS if theirs in plain), "prompt")


def _said(refusal: Refusal, caller: Caller) -> str:
    said = quoted(refusal.message, caller)
    return f"Google answered with status {refusal.status}" + (f": {said}" if said else ".")
