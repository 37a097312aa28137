"""JSON Schemas of what the service answers. A test holds real answers against them."""

from typing import Any, Final

from catalog.model import TIERS
from contract.states import ENDED, UNFINISHED
from errors import every_error
from parsing.queries import GROUPS

JSON = dict[str, Any]

TEXT: Final[JSON] = {"type": "string"}
_NUMBER: Final[JSON] = {"type": "number"}
_COUNT: Final[JSON] = {"type": "integer", "minimum": 0}
_YES_NO: Final[JSON] = {"type": "boolean"}
_MOMENT: Final[JSON] = {"type": "string", "format": "date-time"}
_LINKS: Final[JSON] = {"type": "array", "items": {"type": "string", "format": "uri"}}

_WAITING: Final[JSON] = {
    **_MOMENT, "description": "A stop interrupted it, and it goes on once its owner comes back."
}  # fmt: skip

_IN_DOUBT: Final[JSON] = {
    "const": True, "description": "The answer to its creation was lost. Whether it arrived is being found out, or will "
    "be once its owner comes back.",
}  # fmt: skip

_SOON: Final[JSON] = {
    "estimated_seconds": {"type": "number", "description": "Until it has ended, about."},
    "place": {"type": "integer", "minimum": 1, "description": "About which in line it is, while it waits."},
}  # fmt: skip


_PERCENT: JSON = {
    "type": "number",
    "description": "Per cent, for models that print it, while a client listens to the events.",
}


def answers() -> JSON:
    return {**_of_generations(), **_of_batches(), **_of_the_ledger(), **_of_the_service()}


def _of_generations() -> JSON:
    error = _error()
    told: JSON = {
        "id": TEXT, "status": {"enum": list(ENDED)}, "model_name": TEXT, "requested_model": TEXT, "prompt": TEXT,
        "prediction_id": {"type": ["string", "null"]}, "attempts": _attempts(error), "files": _LINKS,
        "cost_usd": _NUMBER,
        "timing": an_object({"queued": _NUMBER, "predicting": _NUMBER, "total": _NUMBER}, description="Seconds."),
        "created_at": _MOMENT, "simulated": _YES_NO,
    }  # fmt: skip
    sometimes: JSON = {
        "file_name": {
            "type": "string",
            "description": "What its first output is saved as, without the ending. If several `requests` of a batch "
            "wish for one name, all but the first have a number.",
        },
        "files_error": {"type": "string", "description": "Why not every output could be kept."},
        "placeholder": {"const": True, "description": "A black picture stands in for one, as was wished."},
        "batch_id": {"type": "string", "description": "The batch that it is of."},
    }
    ended: JSON = {"success": _YES_NO, **told}
    output = {
        **_LINKS,
        "minItems": 1,
        "description": "Links to the images or videos that exist, and to nothing else.",
    }
    outcome: JSON = {"output": output, "count": _COUNT, **sometimes, "error": error}
    alive: JSON = {**told, "status": {"enum": list(UNFINISHED)}}
    return {
        "Generation": an_object({**ended, **outcome}, required=list(ended)),
        "BatchItem": an_object({"index": _COUNT, **ended, **outcome}, required=["index", *ended]),
        "KnownGeneration": an_object(
            {**ended, **outcome, "webhook": ref("Delivery")},
            required=list(ended),
            description="One that has ended, as it is looked up.",
        ),
        "UnfinishedGeneration": an_object(
            {
                **alive, "file_name": sometimes["file_name"], "batch_id": sometimes["batch_id"], **_SOON,
                "progress": _PERCENT, "webhook": ref("Delivery"), "waiting_for_owner_since": _WAITING,
                "creation_in_doubt": _IN_DOUBT,
            },
            required=list(alive),
            description="One that has not ended. `submitting` is on its way to Replicate.",
        ),
        "AnyGeneration": {"anyOf": [ref("KnownGeneration"), ref("UnfinishedGeneration")]},
        "Event": _event(),
        "Problem": _problem(told, sometimes),
    }  # fmt: skip


def _problem(told: JSON, sometimes: JSON) -> JSON:
    return an_object(
        {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": _codes(),
            "request_id": TEXT,
            "retryable": _YES_NO,
            "errors": _problems(),
            "id": {
                "type": "string",
                "description": "What there is of it by then, and all that is told of it.",
            },
            **{name: told[name] for name in told if name not in {"id", "status"}},
            **sometimes,
        },
        required=["type", "title", "status", "detail", "code", "request_id", "retryable"],
        description="A problem document (RFC 9457).",
    )


def _event() -> JSON:
    """What is told of a generation as it happens, as the name and the data of server-sent events."""
    began = an_object({"id": TEXT, "created_at": _MOMENT})
    started = an_object({"id": TEXT, "prediction_id": TEXT})
    data: JSON = {
        "queued": {"anyOf": [began, ref("UnfinishedGeneration")]},
        "running": {"anyOf": [started, ref("UnfinishedGeneration")]},
        "progress": an_object({"id": TEXT, "progress": {"type": "number", "description": "Per cent."}}),
        "done": ref("Generation"),
        "shutting_down": ref("UnfinishedGeneration"),
        "interrupted": ref("UnfinishedGeneration"),
    }
    return {
        "oneOf": [an_object({"event": {"const": name}, "data": each}) for name, each in data.items()],
        "description": "Each event by its name and its data. The last is `done`, or `shutting_down`: then the next "
        "process goes on, so ask again; or `interrupted`: then it waits for its owner to come back.",
    }


def _of_batches() -> JSON:
    plan: JSON = {
        "strategy": {"enum": ["immediate", "window", "queue"]},
        "estimated_seconds": _NUMBER, "estimated_cost_usd": _NUMBER, "credits": _COUNT,
    }  # fmt: skip
    planned: JSON = {"dry_run": {"const": True}, "total": _COUNT, **plan}
    figures: JSON = {
        "id": TEXT, "total": _COUNT, "succeeded": _COUNT, "failed": _COUNT, **plan,
        "actual_seconds": _NUMBER, "actual_cost_usd": _NUMBER,
    }  # fmt: skip
    summary = {"success": _YES_NO, **figures}
    items: JSON = {"type": "array", "items": ref("BatchItem")}
    counts = an_object(
        dict.fromkeys((*UNFINISHED, *ENDED), _COUNT),
        required=[],
        description="How many of its generations are what.",
    )
    return {
        "BatchPlan": an_object(planned),
        "GenerationPlan": an_object(
            {
                **planned, "model_name": TEXT, "requested_model": TEXT,
                "input": {
                    "type": "object",
                    "description": "What would be sent to the model; of an image without a URL only what it is.",
                },
                "changes": _changes(),
            }
        ),
        "GenerationOrPlan": {"anyOf": [ref("Generation"), ref("GenerationPlan")]},
        "BatchOrPlan": {"anyOf": [ref("Batch"), ref("BatchPlan")]},
        "BatchSummary": an_object({**summary, "error": _error()}, required=list(summary)),
        "Batch": an_object({**summary, "results": items}),
        "AnyBatch": an_object(
            {
                **summary, "status": {"enum": ["queued", "running", "completed"]}, "counts": counts,
                "results": {**items, "description": "Those that have ended, in input order."},
                **_SOON, "webhook": ref("Delivery"), "waiting_for_owner_since": _WAITING,
            },
            required=[*figures, "status", "counts", "results"],
            description="A batch as it stands; `success` only when all of it has ended.",
        ),
    }  # fmt: skip


def _of_the_ledger() -> JSON:
    moment: JSON = {"anyOf": [_MOMENT, {"type": "null"}]}
    used: JSON = {
        "generations": _COUNT, "succeeded": _COUNT, "failures": _COUNT, "canceled": _COUNT, "images": _COUNT,
        "video_seconds": _NUMBER, "usd": _NUMBER, "credits": _COUNT,
    }  # fmt: skip
    return {
        "Delivery": an_object(
            {
                "url": TEXT, "state": {"enum": ["pending", "delivered", "failed"]}, "attempts": _COUNT,
                "next_attempt_at": moment,
                "trouble": {"type": ["string", "null"], "description": "Why the last attempt failed."},
                "delivered_at": moment,
            },
            description="How telling a webhook goes.",
        ),
        "Generations": an_object(
            {
                "generations": {
                    "type": "array", "items": {"anyOf": [ref("Generation"), ref("UnfinishedGeneration")]}
                },
                "next_cursor": {"type": ["string", "null"], "description": "For the page after this, if there is one."},
            }
        ),
        "Usage": an_object(
            {
                "since": moment, "until": moment, "group_by": {"enum": [*GROUPS, None]},
                "usage": {
                    "type": "array",
                    "items": an_object({**dict.fromkeys(GROUPS, TEXT), **used}, required=list(used)),
                    "description": "One row a group, each with its name; without `group_by` one row for all.",
                },
                "total": an_object(used),
            }
        ),
    }  # fmt: skip


def _of_the_service() -> JSON:
    figures = dict.fromkeys(
        (
            "concurrent_limit", "current_concurrent", "available_slots", "waiting",
            "requests_per_minute_limit", "current_rate_per_minute",
        ),
        _COUNT,
    )  # fmt: skip
    concurrency = an_object({**figures, "paused_seconds": _NUMBER})
    return {
        "Configured": an_object({"success": _YES_NO, "concurrency": concurrency}),
        "Models": an_object({"models": {"type": "array", "items": ref("Model")}}),
        "Model": _model(),
        "Status": _status(concurrency),
        "Index": an_object(
            {
                "name": TEXT, "version": TEXT,
                "links": an_object(dict.fromkeys(("docs", "openapi", "models", "status", "health"), TEXT)),
            }
        ),
        "Health": an_object({"status": {"const": "healthy"}, "service": TEXT, "version": TEXT}),
        "AnyObject": {"type": "object"},
    }  # fmt: skip


def _model() -> JSON:
    return an_object(
        {
            "name": TEXT,
            "aliases": {"type": "array", "items": TEXT},
            "kind": {"enum": ["image", "video"]},
            "price": an_object({"usd": _NUMBER, "per": {"enum": ["image", "call", "second"]}}),
            "tier": {"enum": list(TIERS)},
            "credits": _COUNT,
            "references": {
                "anyOf": [an_object({"parameter": TEXT, "most": _COUNT}), {"type": "null"}],
                "description": "Which parameter takes reference images, and how many.",
            },
            "fallbacks": {
                "type": "array",
                "items": an_object(
                    {
                        "to": TEXT,
                        "references": {"type": ["boolean", "null"]},
                        "on": {"type": "array", "items": TEXT},
                    }
                ),
                "description": "Where a request with `fallback` goes when this fails, by the built-in rules.",
            },
            "default_extension": TEXT,
            "input_schema": {"type": "object"},
            "example": {"type": "object"},
        }
    )


def _status(concurrency: JSON) -> JSON:
    moment: JSON = {"anyOf": [_MOMENT, {"type": "null"}]}
    upstream = an_object(
        {
            "last_answer_at": moment,
            "failing_since": moment
            | {"description": "When the first request failed that no successful one has followed."},
            "throttled_until": moment
            | {"description": "The end of the latest wait that Replicate asked for, for any account."},
            "stalled": _YES_NO,
            "stalled_at": moment,
            "back_at": moment,
            "creations_in_doubt": _COUNT,
        },
        description="How Replicate answers. `stalled`: whether it answers nothing since a creation was lost; "
        "`stalled_at` and `back_at`: when that was last noticed, and when it was last back; `creations_in_doubt`: how "
        "many creations are searched for since their answer was lost.",
    )
    public: JSON = {
        "service": TEXT,
        "version": TEXT,
        "uptime_seconds": _NUMBER,
        "simulated": _YES_NO,
        "admin_api_configured": _YES_NO,
        "default_replicate_token_configured": _YES_NO,
        "ledger": {"enum": ["ok", "down"], "description": "While it is down, no new work is accepted."},
        "concurrency": concurrency,
        "upstream": upstream,
        "polling": an_object({"requests_per_minute_limit": _COUNT, "current_rate_per_minute": _COUNT}),
        "generations": an_object({"succeeded": _COUNT, "failed": _COUNT, "canceled": _COUNT}),
        "account_shared": _YES_NO
        | {"description": "Whether something else spent the server's account in the last ten minutes."},
        "clock_skew_seconds": {
            "type": ["number", "null"],
            "description": "How far Replicate's clock is ahead of the service's; null if that is not known.",
        },
    }
    for_admin = _status_for_admin()
    return an_object({**public, **for_admin}, required=list(public))


def _status_for_admin() -> JSON:
    return {
        "budget_left_usd": {
            "type": ["number", "null"],
            "description": "The rest of today's `BUDGET_USD_PER_DAY`, less what accepted work may cost; null if "
            "there is no budget. With the admin key only, as are the next two.",
        },
        "oldest_waiting_seconds": {
            "type": ["number", "null"],
            "description": "Seconds since the oldest generation in the queue was accepted; null if the queue is empty.",
        },
        "failures_last_hour": {
            "anyOf": [{"type": "object", "additionalProperties": _COUNT}, {"type": "null"}],
            "description": "How many generations failed in the last hour, by the code of their error; null while the "
            "ledger cannot be read.",
        },
    }


def _error() -> JSON:
    return an_object(
        {"code": _codes(), "detail": TEXT, "retryable": _YES_NO, "errors": _problems()},
        required=["code", "detail", "retryable"],
    )


def _attempts(error: JSON) -> JSON:
    text: JSON = {"type": ["string", "null"]}
    attempt = an_object(
        {
            "model_name": text, "prediction_id": text, "error": {"anyOf": [error, {"type": "null"}]},
            "changes": _changes(),
        }
    )  # fmt: skip
    return {
        "oneOf": [{"type": "integer", "minimum": 0}, {"type": "array", "items": attempt}],
        "description": "How many there were; with `fallback`, each of them.",
    }


def _changes() -> JSON:
    text: JSON = {"type": ["string", "null"]}
    change = an_object(
        {
            "field": text,
            "change": {"enum": ["dropped", "mapped", "clamped"]},
            "given": {},
            "sent_as": text,
            "sent": {},
        }
    )
    return {"type": "array", "items": change}


def _codes() -> JSON:
    return {"enum": [kind.code for kind in every_error()]}


def _problems() -> JSON:
    text = {"type": "string"}
    problem = an_object({"field": text, "message": text, "given": {}}, required=["field", "message"])
    return {"type": "array", "items": problem}


def an_object(properties: JSON, *, required: list[str] | None = None, **more: Any) -> JSON:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}
