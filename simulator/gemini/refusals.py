"""The errors of the Gemini API, as its servers send them.

The forms are those of bodies that users published between October 2025 and November 2026; the limits in them are the
caller's own. An error is `{"error": {"code", "message", "status", "details"}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_RPC = "type.googleapis.com/google.rpc."
_QUOTA = "generativelanguage.googleapis.com/"
_DOCS = "https://ai.google.dev/gemini-api/docs/rate-limits"
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MESSAGES = {
    400: "Request contains an invalid argument.",
    403: "The caller does not have permission",
    404: "Requested entity was not found.",
    499: "The operation was cancelled.",
    500: "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting",
    504: "Deadline expired before operation could complete.",
}


class Refused(Exception):
    """A call is answered by an error. `limit` names the limit of a 429."""

    def __init__(self, code: int, body: Mapping[str, Any], *, limit: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.body = body
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota in a refusal: its metric, without the domain, and its id."""

    metric: str
    id: str


QUOTAS = {
    ("rpm", "paid"): Quota("generate_requests_per_model", "GenerateRequestsPerMinutePerProjectPerModel"),
    ("tpm", "paid"): Quota(
        "generate_content_paid_tier_input_token_count", "GenerateContentPaidTierInputTokensPerModelPerMinute"
    ),
    ("rpd", "paid"): Quota("generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel"),
    ("rpm", "free"): Quota(
        "generate_content_free_tier_requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    ),
    ("tpm", "free"): Quota(
        "generate_content_free_tier_input_token_count",
        "GenerateContentInputTokensPerModelPerMinute-FreeTier",
    ),
    ("rpd", "free"): Quota(
        "generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    ),
}


@dataclass(frozen=True, slots=True)
class Violations:
    """The limits that a request met, each with its value, and the seconds after which it may be sent again."""

    model: str
    limits: Sequence[tuple[str, int]]
    seconds: float
    tier: str = "paid"


def of(
    code: int, message: str = "", *details: Mapping[str, Any], status: str = "", limit: str = ""
) -> Refused:
    """An error with this HTTP status, and its usual message if none is passed."""
    error: dict[str, Any] = {
        "code": code,
        "message": message or _MESSAGES.get(code, "Something went wrong."),
        "status": status or _STATUS.get(code, "UNKNOWN"),
    }
    if details:
        error["details"] = list(details)
    return Refused(code, {"error": error}, limit=limit)


def over_quota(met: Violations) -> Refused:
    """429 with QuotaFailure, Help and RetryInfo. RetryInfo has whole seconds, rounded down."""
    model = met.model.removesuffix("-preview")
    lines, found = [], []
    for name, value in met.limits:
        quota = QUOTAS[name, met.tier]
        metric = f"{_QUOTA}{quota.metric}"
        lines.append(f"* Quota exceeded for metric: {metric}, limit: {value}, model: {model}")
        found.append(
            {
                "quotaMetric": metric,
                "quotaId": quota.id,
                "quotaDimensions": {"location": "global", "model": model},
                "quotaValue": str(value),
            }
        )
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        f"error, head to: {_DOCS}. To monitor your current usage, head to: https://ai.dev/rate-limit. \n"
        + "\n".join(lines)
        + f"\nPlease retry in {_duration(met.seconds)}."
    )
    return of(
        429,
        message,
        {"@type": f"{_RPC}QuotaFailure", "violations": found},
        {
            "@type": f"{_RPC}Help",
            "links": [{"description": "Learn more about Gemini API quotas", "url": _DOCS}],
        },
        {"@type": f"{_RPC}RetryInfo", "retryDelay": f"{int(met.seconds)}s"},
        limit="+".join(name for name, _ in met.limits),
    )


def no_capacity(message: str = "Resource has been exhausted (e.g. check quota).") -> Refused:
    """429 without details."""
    return of(429, message, limit="capacity")


def out_of_money(kind: str) -> Refused:
    """429 about money: prepaid credits, the monthly cap, the ten minutes' spend."""
    message = {
        "prepaid": "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to "
        "manage your project and billing.",
        "cap": "Your project has exceeded its monthly spending cap. Please go to AI Studio at "
        "https://ai.studio/spend to manage your project spend cap.",
        "spend": "Resource has been exhausted (e.g. check quota).",
    }[kind]
    return of(429, message, limit="money")


def overloaded(*, demand: bool = False) -> Refused:
    """503, with the older message or the one since February 2026."""
    if demand:
        return of(
            503,
            "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try "
            "again later.",
        )
    return of(503, "The model is overloaded. Please try again later.")


def key(kind: str) -> Refused:
    """The errors of keys: "invalid" (of the form AIza), "refused" (of the form AQ., or a bearer token), "leaked",
    "missing", "two" credentials, "country" and "billing"."""
    domain = {"domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}
    info = {"@type": f"{_RPC}ErrorInfo", **domain}
    match kind:
        case "invalid":
            message = "API key not valid. Please pass a valid API key."
            said = {"@type": f"{_RPC}LocalizedMessage", "locale": "en-US", "message": message}
            return of(400, message, {**info, "reason": "API_KEY_INVALID"}, said)
        case "refused":
            message = (
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
                "other valid authentication credential. See "
                "https://developers.google.com/identity/sign-in/web/devconsole-project."
            )
            return of(401, message, {**info, "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED"})
        case "leaked":
            return of(403, "Your API key was reported as leaked. Please use another API key.")
        case "missing":
            return of(
                403,
                "Method doesn't allow unregistered callers (callers without established identity). Please use API "
                "Key or other form of API consumer identity to call this API.",
            )
        case "two":
            return of(400, "Multiple authentication credentials received. Please pass only one.")
        case "country":
            message = "User location is not supported for the API use."
        case _:
            message = "Billing is disabled for this project. Enable billing to use this model."
    return of(400, message, status="FAILED_PRECONDITION")


def unknown_model(name: str, method: str) -> Refused:
    """404: no such model, or not with this method."""
    return of(
        404,
        f"models/{name} is not found for API version v1beta, or is not supported for {method}. Call ListModels to "
        "see the list of available models and their supported methods.",
    )


def bad_fields(violations: Sequence[tuple[str, str]]) -> Refused:
    """400 with each violation as a field and its description."""
    shown = [
        {"field": place, "description": said} if place else {"description": said}
        for place, said in violations
    ]
    message = "\n".join(said for _, said in violations)
    return of(400, message, {"@type": f"{_RPC}BadRequest", "fieldViolations": shown})


def _duration(seconds: float) -> str:
    whole, hours = int(seconds), int(seconds) // 3600
    if hours:
        return f"{hours}h{whole % 3600 // 60}m{seconds - hours * 3600 - whole % 3600 // 60 * 60:.9g}s"
    return f"{seconds:.9f}s"
