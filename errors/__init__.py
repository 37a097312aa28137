"""Every way a request can fail, as one tree. A class has the HTTP status, the code, and whether the
same request may succeed later. One handler in `app.py` turns it into the response.

    ServiceError
    ├── InvalidJSON             400 invalid_json
    ├── InvalidRequest          400 invalid_request         carries every problem at once
    ├── Unauthenticated         401 unauthenticated
    ├── Forbidden               403 forbidden
    ├── ModelNotAllowed         403 model_not_allowed       nothing was spent
    ├── NotFound                404 not_found
    ├── MethodNotAllowed        405 method_not_allowed
    ├── PayloadTooLarge         413 payload_too_large
    ├── UnsupportedMediaType    415 unsupported_media_type
    ├── RangeNotSatisfiable     416 range_not_satisfiable
    ├── HeadersTooLarge         431 headers_too_large
    ├── BudgetExceeded          402 budget_exceeded         nothing was spent
    ├── IdempotencyConflict     409 idempotency_conflict
    ├── ModelExists             409 model_exists
    ├── SemaphoreInUse          409 semaphore_in_use
    ├── LeaseExpired            410 lease_expired
    ├── PromptTooLarge          400 prompt_too_large
    ├── SchemaRefused           400 schema_refused
    ├── ContentRefused          422 content_refused
    ├── QueueFull               429 queue_full              carries Retry-After
    ├── SemaphoreFull           429 semaphore_full          carries Retry-After
    ├── ShuttingDown            503 shutting_down           carries Retry-After
    ├── Starting                503 starting                carries Retry-After
    ├── StillRunning            504 still_running           a retry gets the same work
    ├── LoopBlocked             503 loop_blocked            carries Retry-After
    ├── GenerationFailed        500 generation_failed
    ├── GenerationTimeout       500 generation_timeout
    ├── OutcomeUnknown          500 outcome_unknown         the prediction may have been billed
    ├── UpstreamError           500 upstream_error
    ├── UpstreamRateLimited     500 upstream_rate_limited
    ├── QuotaExhausted          500 quota_exhausted         carries the end, if it is known
    ├── ModelUnavailable        500 model_unavailable
    ├── OutputTruncated         500 output_truncated        the output was billed
    ├── OutputInvalid           500 output_invalid          the output was billed; carries every problem of it
    ├── Interrupted             500 interrupted
    ├── SecretLost              500 secret_lost             nothing was spent
    ├── Internal                500 internal
    ├── LedgerDown              500 internal                new work is refused, since it could be lost
    └── AccountError                                        every other request of the account fails, too
        ├── TokenRejected       401 replicate_token_rejected
        ├── GeminiKeyRejected   401 gemini_key_rejected
        ├── InsufficientCredit  402 insufficient_credit
        ├── ServerTokenRejected 500 server_token_rejected
        ├── ServerGeminiKeyRejected 500 server_gemini_key_rejected
        └── ServerOutOfCredit   500 server_out_of_credit

The errors of calls to text models are in `calls.py`, and `ContentRefused` is in `content.py`. `listing.py` lists all
errors, and reads recorded ones.

The response is a problem document (RFC 9457) with the added fields `code`, `request_id` and `retryable`. A client that
repeats a request for which a prediction was created may pay twice, so the response to such a failure has the header
`x-should-retry: false`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

ABSENT = object()
"""`Problem.given` for a field that the caller did not send."""

_SHOWN_AT_MOST = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One invalid field: its path, the rule that it breaks, and the value that was sent."""

    field: str
    message: str
    given: Any = ABSENT

    def within(self, prefix: str) -> "Problem":
        """The same problem with `prefix` before its field, for a request nested in a batch."""
        return Problem(f"{prefix}.{self.field}", self.message, self.given)

    def as_json(self) -> dict[str, Any]:
        shown = {"field": _shown(self.field), "message": self.message}
        return shown if self.given is ABSENT else shown | {"given": _shown(self.given)}


class ServiceError(Exception):
    """The root of the tree. `detail` is one sentence for the caller, by default the title."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retryable: bool = False
    falls_back: bool = False
    """Whether a fallback model is tried next."""
    may_be_paid: bool = False
    """Whether a prediction was created for the failed request, may have been, or will be after a restart."""
    problems: tuple[Problem, ...] = ()
    """The fields that are wrong."""

    def __init__(self, detail: str = "", *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self._headers = headers or {}

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response. Clients generated with Stainless obey `x-should-retry`."""
        return {**self._headers, "x-should-retry": "false"} if self.may_be_paid else {**self._headers}

    def as_item(self) -> dict[str, Any]:
        """The error as the JSON of a batch item."""
        item = {"code": self.code, "detail": self.detail, "retryable": self.retryable}
        return item | {"errors": [each.as_json() for each in self.problems]} if self.problems else item

    def as_problem(self, request_id: str, *, root: str = "") -> dict[str, Any]:
        """The error as a problem document. `root` is the path of PUBLIC_URL."""
        return {
            "type": f"{root}/docs#{self.code}",
            "title": self.title,
            "status": self.status,
            "request_id": request_id,
            **self.as_item(),
        }


class InvalidJSON(ServiceError):
    status, code = 400, "invalid_json"
    title = "The body is not valid JSON"


class InvalidFields(ServiceError):
    """All problems of a request or an output at once, by field."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        more = len(self.problems) - 1
        tail = f" (and {more} more)" if more else ""
        super().__init__(f"{_shown(first.field)}: {first.message}{tail}")


class InvalidRequest(InvalidFields):
    status, code = 400, "invalid_request"
    title = "The request is not valid"
    falls_back = True

    def about(self, problems: Iterable[Problem]) -> "InvalidRequest":
        """The same refusal with other names of the fields."""
        return InvalidRequest(problems)


class Unauthenticated(ServiceError):
    status, code = 401, "unauthenticated"
    title = "A valid key is required"


class Forbidden(ServiceError):
    status, code = 403, "forbidden"
    title = "The role of the key does not allow this"


class ModelNotAllowed(ServiceError):
    status, code = 403, "model_not_allowed"
    title = "The key may not use this model"


class NotFound(ServiceError):
    status, code = 404, "not_found"
    title = "Not found"


class MethodNotAllowed(ServiceError):
    status, code = 405, "method_not_allowed"
    title = "The method is not allowed for this URL"

    def __init__(self, detail: str = "", *, allowed: Iterable[str] = ()) -> None:
        super().__init__(detail, headers={"Allow": ", ".join(sorted(allowed))})


class PayloadTooLarge(ServiceError):
    status, code = 413, "payload_too_large"
    title = "The body is too large"


class UnsupportedMediaType(ServiceError):
    status, code = 415, "unsupported_media_type"
    title = "The body must be application/json or multipart/form-data, without a Content-Encoding"


class RangeNotSatisfiable(ServiceError):
    """`size` is the size of the file in bytes, sent as `Content-Range`."""

    status, code = 416, "range_not_satisfiable"
    title = "The range is outside the file"

    def __init__(self, detail: str = "", *, size: int = 0) -> None:
        super().__init__(detail, headers={"Content-Range": f"bytes */{size}"})


class HeadersTooLarge(ServiceError):
    status, code = 431, "headers_too_large"
    title = "The request headers are too large"


class BudgetExceeded(ServiceError):
    """`of` has these texts: `budget` is the name of the key whose budget it is, or `server`. It `begins_anew` at this
    date with the next `period`. All are None, or missing, for the maximum cost of a request."""

    status, code = 402, "budget_exceeded"
    title = "The cost exceeds the budget"

    def __init__(self, detail: str = "", **of: str | None) -> None:
        super().__init__(detail)
        self._of = of

    def with_detail(self, detail: str) -> "BudgetExceeded":
        """The same refusal in other words."""
        return BudgetExceeded(detail, **self._of)

    def as_item(self) -> dict[str, Any]:
        return super().as_item() | {name: each for name, each in self._of.items() if each is not None}


class IdempotencyConflict(ServiceError):
    status, code = 409, "idempotency_conflict"
    title = "The idempotency key was used for another request"


class ModelExists(ServiceError):
    status, code = 409, "model_exists"
    title = "A model with this owner and name exists"


class SemaphoreInUse(ServiceError):
    status, code = 409, "semaphore_in_use"
    title = "The semaphore is in use or waited for"


class LeaseExpired(ServiceError):
    status, code = 410, "lease_expired"
    title = "The lease has ended, or never existed"


class _ComeBackLater(ServiceError):
    """`retry_after` in seconds is sent as an integer from 1 to 3600, unless a prediction `was_created`. The default is
    the time that a restart usually takes."""

    retryable = True

    def __init__(self, detail: str = "", *, retry_after: float = 5, retryable: bool = True) -> None:
        super().__init__(detail)
        self.retryable = retryable
        self.retry_after = max(1, min(3600, round(retry_after)))
        self.was_created = False

    @property
    def headers(self) -> dict[str, str]:
        return super().headers | ({} if self.was_created else {"Retry-After": str(self.retry_after)})


class QueueFull(_ComeBackLater):
    status, code = 429, "queue_full"
    title = "Queue is full"


class SemaphoreFull(_ComeBackLater):
    status, code = 429, "semaphore_full"
    title = "No permit of the semaphore is free"


class ShuttingDown(_ComeBackLater):
    status, code = 503, "shutting_down"
    title = "The service is shutting down"


class Starting(_ComeBackLater):
    status, code = 503, "starting"
    title = "The service is starting"


class LoopBlocked(_ComeBackLater):
    status, code = 503, "loop_blocked"
    title = "The event loop of the service is blocked"


class StillRunning(ServiceError):
    """The caller would stop waiting soon, or the process stops. A retry joins the work, and is not paid again. A
    `retry_after` in seconds is sent as an integer."""

    status, code = 504, "still_running"
    title = "The work has not ended yet; the same request again waits for it"
    retryable = True

    def __init__(self, detail: str = "", *, retry_after: float | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(round(retry_after))}
        super().__init__(detail, headers={**headers, "x-should-retry": "true"})


class Internal(ServiceError):
    """A bug in the service. The log has the traceback under the request id."""


class LedgerDown(ServiceError):
    """The ledger cannot be written or read at the moment. The detail has the reason."""

    code = Internal.code
    title = "The ledger cannot be written or read"
    retryable = True


class Interrupted(ServiceError):
    code = "interrupted"
    title = "The service stopped before the work ended, and did not resume it"
    retryable = True


class SecretLost(ServiceError):
    code = "secret_lost"
    title = "The service was restarted, and does not keep the secret inputs of the request"
    retryable = True


class GenerationFailed(ServiceError):
    code = "generation_failed"
    title = "The model failed"
    falls_back = True


class GenerationTimeout(ServiceError):
    code = "generation_timeout"
    title = "The model did not finish in time"
    falls_back = True
    retryable = True


class OutcomeUnknown(ServiceError):
    code = "outcome_unknown"
    title = "It is unknown whether the prediction was created"


class UpstreamError(ServiceError):
    code = "upstream_error"
    title = "The provider failed"
    falls_back = True
    retryable = True


class UpstreamRateLimited(ServiceError):
    code = "upstream_rate_limited"
    title = "The provider's rate limit was exceeded repeatedly"
    retryable = True


class AccountError(ServiceError):
    """The account's token or credit was rejected, so its other requests would fail, too."""


class TokenRejected(AccountError):
    status, code = 401, "replicate_token_rejected"
    title = "Replicate rejected your token"


class InsufficientCredit(AccountError):
    status, code = 402, "insufficient_credit"
    title = "Your account at the provider is out of credit"


class ServerTokenRejected(AccountError):
    code = "server_token_rejected"
    title = "Replicate rejected the service's token, or none is configured"


class ServerOutOfCredit(AccountError):
    code = "server_out_of_credit"
    title = "The service's account at the provider is out of credit"


def _shown(given: Any) -> Any:
    """A caller's value, shortened for the response: lists and objects are described by their size."""
    if isinstance(given, str):
        shown = given if len(given) <= _SHOWN_AT_MOST else given[:_SHOWN_AT_MOST] + "…"
        return shown.encode(errors="replace").decode()  # an unpaired surrogate cannot be encoded
    if isinstance(given, int) and given.bit_length() > 64:
        return f"an integer of {given.bit_length()} bits"
    if isinstance(given, list):
        return f"a list of {len(given)}"
    if isinstance(given, dict):
        return f"an object of {len(given)}"
    return given if given is None or isinstance(given, bool | int | float) else str(given)
