"""The schemas of limits and statistics in the OpenAPI document."""

from api.openapi.operations import Operation, as_paths
from api.openapi.schemas import COUNT, JSON, MOMENT, NUMBER, OPTIONAL_MOMENT, TEXT, YES_NO, an_object, ref
from catalog.model import nullable
from contract.providers import CALLS
from parsing.limits import CallLimits, Limits


def paths() -> JSON:
    formats = ("text/plain", "application/openmetrics-text")
    metrics = Operation(
        name="metrics",
        summary="Get the figures of the status and of the ledger, for Prometheus",
        who=("admin", "metrics"),
        answers={
            "200": {"description": "Done", "content": {each: {"schema": TEXT} for each in formats}},
        },
        errors=("500",),
    )
    return as_paths({"/metrics": {"get": metrics}})


def schemas() -> JSON:
    figures = dict.fromkeys(
        (
            "concurrent_limit", "current_concurrent", "available_slots", "waiting",
            "requests_per_minute_limit", "current_rate_per_minute", "booting",
        ),
        COUNT,
    )  # fmt: skip
    concurrency = an_object({**figures, "paused_seconds": NUMBER})
    return {
        "Configured": an_object({"success": YES_NO, "concurrency": concurrency, CALLS: _calls()}),
        "Status": _status(concurrency),
        "Index": an_object(
            {
                "name": TEXT,
                "version": TEXT,
                "links": an_object(dict.fromkeys(("docs", "openapi", "models", "status", "health"), TEXT)),
                "providers": {
                    "type": "object",
                    "additionalProperties": {"type": "object"},
                    "description": "The health of each provider, its limits, and its slots in use and waiting.",
                },
                "semaphores": {
                    "type": "array",
                    "items": ref("Semaphore"),
                    "description": "Present only with a key.",
                },
            },
            required=["name", "version", "links", "providers"],
        ),
        "Limits": an_object(_limits(), required=[], additionalProperties=False, minProperties=1),
    }


def _status(concurrency: JSON) -> JSON:
    moment = OPTIONAL_MOMENT
    upstream = an_object(
        {
            "last_answer_at": moment,
            "failing_since": moment
            | {"description": "When the first request failed since the last successful one."},
            "throttled_until": moment
            | {"description": "When the last wait ends that Replicate requested for any account."},
            "stalled": YES_NO,
            "stalled_at": moment,
            "back_at": moment,
            "creations_in_doubt": COUNT,
        },
        description="The health of Replicate's API. `stalled`: whether it has been silent since the response "
        "to a creation was lost; `stalled_at` and `back_at`: when the last stall was noticed, and when it ended; "
        "`creations_in_doubt`: how many predictions are searched for since the response to their creation was lost.",
    )
    public: JSON = {
        "service": TEXT,
        "version": TEXT,
        "uptime_seconds": NUMBER,
        "simulated": YES_NO,
        "admin_api_configured": YES_NO,
        "default_replicate_token_configured": YES_NO,
        "ledger": {"enum": ["ok", "down"], "description": "While it is down, no new work is accepted."},
        "concurrency": concurrency,
        CALLS: _calls(),
        "upstream": upstream,
        "polling": an_object({"requests_per_minute_limit": COUNT, "current_rate_per_minute": COUNT}),
        "generations": an_object({"succeeded": COUNT, "failed": COUNT, "canceled": COUNT}),
        "trainings": an_object({"at_once": COUNT, "running": COUNT, "waiting": COUNT}),
        "account_shared": YES_NO
        | {"description": "Whether another program used the server's account in the last ten minutes."},
        "account_changed_at": moment
        | {
            "description": "When a server token of another account came into use in this process; null if none did."
        },
        "clock_skew_seconds": {
            "type": ["number", "null"],
            "description": "Seconds by which Replicate's clock is ahead of the service's; null if unknown.",
        },
    }
    for_admin = _status_for_admin()
    return an_object({**public, **for_admin}, required=list(public))


def _limits() -> JSON:
    """The properties of the body of `POST /configure`."""
    of_calls = nullable(CallLimits.model_json_schema()) | {"additionalProperties": False, "minProperties": 1}
    properties: JSON = nullable(Limits.model_json_schema())["properties"]
    return properties | {CALLS: {"anyOf": [of_calls, {"type": "null"}]}}


def _calls() -> JSON:
    """The schema of the figures of calls to text models."""
    window = an_object({"used": COUNT, "limit": {"type": ["integer", "null"]}})
    closed: JSON = {
        "anyOf": [an_object({"seconds": NUMBER, "why": TEXT}), {"type": "null"}],
        "description": "For how long no call is admitted after a refusal for a limit. At 0, one call tries the limit.",
    }
    lane = an_object(
        {
            "in_flight": COUNT,
            "waiting": COUNT,
            "requests_per_minute": window,
            "tokens_per_minute": window,
            "requests_per_day": window,
            "closed": closed,
            "lowered": {
                "type": "array",
                "items": TEXT,
                "description": "The limits that a refusal showed to be lower than was configured, until the restart.",
            },
        }
    )
    slots = ("concurrent_limit", "current_concurrent", "available_slots", "waiting")
    usd = an_object({"used": NUMBER, "limit": NUMBER})
    moments = dict.fromkeys(("last_answer_at", "failing_since", "throttled_until"), OPTIONAL_MOMENT)
    return an_object(
        {
            "configured": YES_NO | {"description": "Whether the service has a key of its own."},
            "concurrency": an_object(dict.fromkeys(slots, COUNT)),
            "usd_per_10_minutes": usd,
            "closed": closed,
            "models": {"type": "object", "additionalProperties": lane},
            "all_accounts": an_object(dict.fromkeys(("accounts", "in_flight", "waiting"), COUNT)),
            "upstream": an_object(moments),
        },
        description="Calls to text models by the service's own account, in this process; and those of all accounts.",
    )


def _status_for_admin() -> JSON:
    process = {**dict.fromkeys(("pid", "in_flight", "waiting"), COUNT), "host": TEXT, "version": TEXT}
    return {
        "processes": {
            "type": "array",
            "items": an_object({**process, "since": MOMENT, "holds_gate": YES_NO}),
        }
        | {
            "description": "Those that share a ledger in PostgreSQL. Present only with a key, or with a user's token "
            "that has been accepted here."
        },
        "configured_limits": an_object(
            {
                "concurrent_limit": COUNT,
                "requests_per_minute": COUNT,
                CALLS: an_object({"concurrency_limit": COUNT, "limits": {"type": "object"}}, required=[]),
            },
            required=[],
        )
        | {
            "description": "Set by `/configure`. Present only with a key of the role `admin` or `viewer`, as are the "
            "next three."
        },
        "budget_left_usd": {
            "type": ["number", "null"],
            "description": "The rest of today's `BUDGET_USD_PER_DAY`, less the possible cost of accepted work; null if "
            "there is no budget.",
        },
        "oldest_waiting_seconds": {
            "type": ["number", "null"],
            "description": "Seconds since the oldest generation in the queue was accepted; null if the queue is empty.",
        },
        "failures_last_hour": {
            "anyOf": [{"type": "object", "additionalProperties": COUNT}, {"type": "null"}],
            "description": "How many generations failed in the last hour, by the code of their error; null while the "
            "ledger cannot be read.",
        },
    }
