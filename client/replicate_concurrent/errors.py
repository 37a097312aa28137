"""Every way a call can fail, as one tree. Failures that the service reports have their class by `code`.

ReplicateConcurrentError
├── ConfigError               the address, the key or the configuration file cannot be used
│   └── NoServer              there is no address, and no service on this machine
├── ConnectionLost            the service did not answer within the time of the call
├── TimedOut                  the work goes on at the service; `id` names it
├── OutputLost                no place keeps an output any more
├── BadOutput                 an output came incomplete, or is no file of its type
├── BadAnswer                 the answer is none of this service
└── ApiError                  the service refused the request, or the generation failed
    ├── InvalidRequest        invalid_request, invalid_json; `fields` has all problems
    │   ├── PromptTooLarge    prompt_too_large
    │   └── SchemaRefused     schema_refused
    ├── Unauthenticated       unauthenticated, replicate_token_rejected, server_token_rejected
    │   └── GeminiKeyRejected gemini_key_rejected, server_gemini_key_rejected
    ├── Forbidden             forbidden, model_not_allowed
    ├── BudgetExceeded        budget_exceeded, insufficient_credit, server_out_of_credit
    ├── NotFound              not_found
    ├── IdempotencyConflict   idempotency_conflict
    ├── TooLarge              payload_too_large
    ├── QueueFull             queue_full, semaphore_full
    ├── ContentRefused        content_refused
    ├── QuotaExhausted        quota_exhausted; `resets_at` is when there is a new quota
    ├── ModelUnavailable      model_unavailable
    ├── GenerationFailed      generation_failed, generation_timeout, upstream_error, upstream_rate_limited,
    │   │                     interrupted, secret_lost
    │   ├── OutcomeUnknown    outcome_unknown; `partial` is the text that came
    │   ├── OutputTruncated   output_truncated; `partial` is the text that came
    │   ├── OutputInvalid     output_invalid; `fields` has the paths, and `text` the answer
    │   └── Canceled          the generation was cancelled
    └── Unavailable           shutting_down, starting, loop_blocked, still_running
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


class ReplicateConcurrentError(Exception):
    """The root of the tree."""


class ConfigError(ReplicateConcurrentError):
    """The address, the key or the configuration file cannot be used."""


class NoServer(ConfigError):
    """There is no address of a service, and no service on this machine."""


class ConnectionLost(ReplicateConcurrentError):
    """The service did not answer within the time of the call."""


class TimedOut(ReplicateConcurrentError, TimeoutError):
    """The time of the call is over. The work goes on at the service, by the name `id` if it has one."""

    def __init__(self, message: str, *, id: str | None = None) -> None:  # noqa: A002 - the service's name for it
        super().__init__(message)
        self.id = id


class OutputLost(ReplicateConcurrentError):
    """Neither the service nor Replicate keeps an output any more. `lost` has a sentence for each such output, and
    `saved` the paths of the others."""

    def __init__(self, *lost: str, saved: Iterable[Path] = ()) -> None:
        super().__init__("; ".join(lost))
        self.lost = lost
        self.saved = tuple(saved)


class BadOutput(ReplicateConcurrentError):
    """An output came incomplete, or is no file of its type."""


class BadAnswer(ReplicateConcurrentError):
    """The answer is none of this service: a page of a proxy, or of another program at this address."""


@dataclass(frozen=True)
class FieldProblem:
    """One invalid field: its path, and the rule that it breaks."""

    field: str
    message: str


class ApiError(ReplicateConcurrentError):
    """What the service answered in place of a result.

    Attributes:
        code: What went wrong, for programs; docs/errors.md of the service lists the codes.
        detail: What went wrong, for people.
        status: The HTTP status; None for the failure of work that was looked up or is part of a batch.
        fields: The invalid fields, each with its message.
        request_id: The name of the request in the log of the service.
        retryable: Whether the same request may succeed later.
        id: The generation or batch, if there is one.
        raw: The service's own JSON.
    """

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, raw: Mapping[str, Any], *, status: int | None = None, request_id: str | None = None
    ) -> None:
        self.raw = raw
        self.code = str(raw.get("code") or "unknown")
        self.detail = str(raw.get("detail") or raw.get("title") or self.code)
        self.status = status
        self.fields = tuple(_fields(raw.get("errors")))
        self.request_id = str(raw.get("request_id") or request_id or "") or None
        self.retryable = raw.get("retryable") is True
        self.id = str(raw["id"]) if raw.get("id") else None
        super().__init__(self.detail)

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.detail}"]
        if len(self.fields) > 1:
            lines += [f"  {each.field}: {each.message}" for each in self.fields]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.raw, self.status, self.request_id)


class InvalidRequest(ApiError):
    """The request is not valid. `fields` has every problem."""

    codes: ClassVar[tuple[str, ...]] = ("invalid_request", "invalid_json")


class PromptTooLarge(InvalidRequest):
    """The prompt has more tokens than the model, or a window of its account, takes. The problem names both numbers."""

    codes = ("prompt_too_large",)


class SchemaRefused(InvalidRequest):
    """The model does not take this JSON Schema."""

    codes = ("schema_refused",)


class Unauthenticated(ApiError):
    """The key or the Replicate token was not accepted."""

    codes: ClassVar[tuple[str, ...]] = (
        "unauthenticated",
        "replicate_token_rejected",
        "server_token_rejected",
    )


class GeminiKeyRejected(Unauthenticated):
    """Google rejected the Gemini key: yours, or that of the service, which may also have none."""

    codes = ("gemini_key_rejected", "server_gemini_key_rejected")


class Forbidden(ApiError):
    """The key may not do this, or not use this model."""

    codes = ("forbidden", "model_not_allowed")


class BudgetExceeded(ApiError):
    """The cost exceeds a budget, or the account is out of credit."""

    codes = ("budget_exceeded", "insufficient_credit", "server_out_of_credit")


class NotFound(ApiError):
    """No work has this id, or it belongs to another caller."""

    codes = ("not_found",)


class IdempotencyConflict(ApiError):
    """The idempotency key was used for another request."""

    codes = ("idempotency_conflict",)


class TooLarge(ApiError):
    """The request is too large."""

    codes = ("payload_too_large",)


class QueueFull(ApiError):
    """Too much work waits already. It was tried again for the time of the call."""

    codes = ("queue_full", "semaphore_full")


class ContentRefused(ApiError):
    """The prompt or the image was refused: by the model, or by a check of the service before."""

    codes = ("content_refused",)


class QuotaExhausted(ApiError):
    """The quota of the account at the provider is used up."""

    codes = ("quota_exhausted",)

    @property
    def resets_at(self) -> str | None:
        """When there is a new one (ISO 8601, UTC); None if its owner must change something first."""
        return _text(self.raw, "resets_at")


class ModelUnavailable(ApiError):
    """The provider does not offer this model to the account."""

    codes = ("model_unavailable",)


class GenerationFailed(ApiError):
    """The generation failed."""

    codes: ClassVar[tuple[str, ...]] = (
        "generation_failed",
        "generation_timeout",
        "upstream_error",
        "upstream_rate_limited",
        "interrupted",
        "secret_lost",
    )

    @property
    def partial(self) -> str | None:
        """The text that came before the failure; None if the model writes none."""
        return _text(self.raw, "partial")


class OutcomeUnknown(GenerationFailed):
    """The answer was lost after the request was sent. It may be paid, so it is not sent again of its own accord."""

    codes = ("outcome_unknown",)


class OutputTruncated(GenerationFailed):
    """The output ended at its token limit, so it is no whole JSON."""

    codes = ("output_truncated",)


class OutputInvalid(GenerationFailed):
    """The output does not match the JSON Schema: `fields` has each path in it, and the rule that it breaks."""

    codes = ("output_invalid",)

    @property
    def text(self) -> str | None:
        """What the model wrote."""
        return _text(self.raw, "text")


class Canceled(GenerationFailed):
    """The generation was cancelled."""

    codes = ()


class Unavailable(ApiError):
    """The service stops, or has not started yet."""

    codes = ("shutting_down", "starting", "loop_blocked", "still_running")


def api_error(
    raw: Mapping[str, Any], *, status: int | None = None, request_id: str | None = None
) -> ApiError:
    """The error that the service describes: of the class of its code, or an ApiError for a code of a newer service."""
    kinds = (kind for kind in _below(ApiError) if raw.get("code") in kind.codes)
    return next(kinds, ApiError)(raw, status=status, request_id=request_id)


def _below(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    """All classes below one."""
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) else None


def _fields(listed: object) -> Iterable[FieldProblem]:
    if isinstance(listed, list):
        for each in listed:
            if isinstance(each, dict):
                yield FieldProblem(str(each.get("field", "")), str(each.get("message", "")))


def _restored(
    kind: type[ApiError], raw: Mapping[str, Any], status: int | None, request_id: str | None
) -> ApiError:
    return kind(raw, status=status, request_id=request_id)
