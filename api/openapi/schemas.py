"""JSON Schemas of the responses. A test compares them with real responses."""

from typing import Any, Final

from catalog.model import KINDS
from catalog.prices import BASES
from contract.states import ENDED, UNFINISHED
from errors.listing import every_error
from ledger import GROUPS

JSON = dict[str, Any]

TEXT: Final[JSON] = {"type": "string"}
OPTIONAL_TEXT: Final[JSON] = {"type": ["string", "null"]}
NUMBER: Final[JSON] = {"type": "number"}
COUNT: Final[JSON] = {"type": "integer", "minimum": 0}
METADATA: Final[JSON] = {
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "What its request has attached.",
}
YES_NO: Final[JSON] = {"type": "boolean"}
MOMENT: Final[JSON] = {"type": "string", "format": "date-time"}
OPTIONAL_MOMENT: Final[JSON] = {"anyOf": [MOMENT, {"type": "null"}]}
OBJECT: Final[JSON] = {"type": "object"}
_LINKS: Final[JSON] = {"type": "array", "items": {"type": "string", "format": "uri"}}
_OUTPUT: Final[JSON] = {
    "type": "array", "items": {}, "minItems": 1,
    "description": "URLs of images, videos or other files, each of which exists; text; or any other JSON. If text and "
    "JSON have more than 1 MB, the link to the file that has them.",
}  # fmt: skip

_KIND: Final[JSON] = {
    "enum": [*KINDS], "description": "What was made, or will be. Left out while it is not known."
}  # fmt: skip

_WAITING: Final[JSON] = {
    **MOMENT, "description": "A restart interrupted the work. It continues when its owner sends the next request."
}  # fmt: skip

_IN_DOUBT: Final[JSON] = {
    "const": True, "description": "The response to the creation of its prediction was lost. The service searches "
    "for the prediction, or will when its owner sends the next request.",
}  # fmt: skip

_SOON: Final[JSON] = {
    "estimated_seconds": {"type": "number", "description": "Estimated seconds until the end."},
    "place": {"type": "integer", "minimum": 1, "description": "Estimated place in the queue, 1 for the next."},
}  # fmt: skip


_BASIS: Final[JSON] = {
    "enum": list(BASES),
    "description": "How the cost is known: by a declared price, by the measured seconds of a model without one, or "
    "only as the most that it may be.",
}

_BOUND: Final[JSON] = {
    "type": "number",
    "description": "The most USD that it may cost, without fallbacks that have not begun. Budgets count it.",
}

_PERCENT: JSON = {
    "type": "number",
    "description": "Per cent. Known only for models that log it, and while a client listens to the events.",
}


_PROMPT: JSON = {"type": ["string", "null"], "description": "Null if its model takes none."}


_NAMED_GROUPS: Final[JSON] = {"^(tag|metadata):": {"type": ["string", "null"]}}
_STATUS: Final[JSON] = {"enum": ["queued", "running", "completed"]}
_WAS_THERE: Final[JSON] = {
    "const": True, "description": "It was there before under its `idempotency_key`. Its cost is not that of the batch.",
}  # fmt: skip
_JOINED: Final[JSON] = {
    "type": "array",
    "items": {
        "type": "object", "additionalProperties": False, "required": ["index", "id"],
        "properties": {"index": COUNT, "id": TEXT},
    },
    "minItems": 1,
    "description": "The items that were there before under their `idempotency_key`. Absent if there are none.",
}  # fmt: skip
_COUNTS: Final[JSON] = {
    "type": "object",
    "properties": dict.fromkeys((*UNFINISHED, *ENDED), COUNT),
    "description": "The number of its generations in each state.",
}


def answers() -> JSON:
    return {**_of_generations(), **_of_batches(), **_of_the_ledger(), **_of_the_service()}


def _of_generations() -> JSON:
    error = failure()
    always: JSON = {
        "id": TEXT, "status": {"enum": list(ENDED)}, "model_name": TEXT, "requested_model": TEXT, "prompt": _PROMPT,
        "prediction_id": {"type": ["string", "null"]}, "attempts": _attempts(error), "files": _LINKS,
        "cost_usd": NUMBER,
        "cost_basis": _BASIS,
        "timing": an_object({"queued": NUMBER, "predicting": NUMBER, "total": NUMBER}, description="Seconds."),
        "created_at": MOMENT, "simulated": YES_NO,
    }  # fmt: skip
    sometimes = _sometimes()
    ended: JSON = {"success": YES_NO, **always}
    outcome: JSON = {"output": _OUTPUT, "count": COUNT, **sometimes, "error": error}
    alive: JSON = {**always, "status": {"enum": list(UNFINISHED)}}
    return {
        "Generation": an_object({**ended, **outcome}, required=list(ended)),
        "BatchItem": an_object(
            {"index": COUNT, **ended, **outcome, "joined": _WAS_THERE}, required=["index", *ended]
        ),
        "KnownGeneration": an_object(
            {**ended, **outcome, "webhook": ref("Delivery")},
            required=list(ended),
            description="A generation that has ended.",
        ),
        "UnfinishedGeneration": an_object(
            {
                **alive, **_SOON,
                **{name: each for name, each in sometimes.items() if name not in {"files_error", "placeholder"}},
                "cost_bound_usd": _BOUND, "progress": _PERCENT, "webhook": ref("Delivery"),
                "waiting_for_owner_since": _WAITING, "creation_in_doubt": _IN_DOUBT,
            },
            required=[*alive, "cost_bound_usd"],
            description="A generation that has not ended. `submitting`: its prediction is being created.",
        ),
        "AnyGeneration": {"anyOf": [ref("KnownGeneration"), ref("UnfinishedGeneration")]},
        "Event": _event(),
        "Problem": _problem(always, sometimes),
    }  # fmt: skip


def _sometimes() -> JSON:
    """The fields that only some generations have."""
    return {
        "file_name": {
            "type": "string",
            "description": "The file name of the first output, without extension. If several `requests` of a batch "
            "have the same name, all but the first get a number.",
        },
        "kind": _KIND,
        "files_error": {"type": "string", "description": "Why some outputs could not be stored."},
        "placeholder": {
            "const": True,
            "description": "The output is a black placeholder image, as requested.",
        },
        "batch_id": {"type": "string", "description": "The id of its batch."},
        "external_semaphore_id": {"type": "string", "description": "Its semaphore."},
        "version": {
            "type": "string",
            "description": "The id of the version that runs. An official model runs by its name.",
        },
        "seed": {
            "type": "integer",
            "description": "The seed that the model has used, if it is known: it was sent, or Replicate shows it.",
        },
        "metadata": METADATA,
        "changes": {
            **_changes(),
            "description": "Parameters that were not sent as they came. With a `fallback`, each attempt has its own.",
        },
        "warnings": warnings(),
        "survives_restart": {
            "const": False,
            "description": "It has secret inputs, which are not kept: if the service restarts before it was sent, it "
            "fails with `secret_lost`.",
        },
    }


def _problem(always: JSON, sometimes: JSON) -> JSON:
    return an_object(
        {
            "type": TEXT,
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "code": _codes(),
            "request_id": TEXT,
            "retryable": YES_NO,
            "errors": _problems(),
            **_REFUSED_BEFORE,
            "id": {
                "type": "string",
                "description": "The id of the generation. It and the next fields describe the generation, if any.",
            },
            **{name: always[name] for name in always if name not in {"id", "status"}},
            **sometimes,
        },
        required=["type", "title", "status", "detail", "code", "request_id", "retryable"],
        description="A problem document (RFC 9457).",
    )


def _event() -> JSON:
    """The server-sent events of a generation: name and data."""
    began = an_object({"id": TEXT, "created_at": MOMENT})
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
        "description": "The name and the data of an event. The last event is `done`, `shutting_down` (reconnect: the "
        "service restarts and continues), or `interrupted` (the work continues when its owner sends the next request).",
    }


def _of_batches() -> JSON:
    plan: JSON = {
        "strategy": {"enum": ["immediate", "window", "queue"]},
        "estimated_seconds": NUMBER, "estimated_cost_usd": NUMBER, "credits": COUNT,
    }  # fmt: skip
    planned: JSON = {
        "dry_run": {"const": True}, "total": COUNT, **plan, "cost_bound_usd": _BOUND, "cost_basis": _BASIS,
    }  # fmt: skip
    figures: JSON = {
        "id": TEXT, "total": COUNT, "succeeded": COUNT, "failed": COUNT, **plan,
        "actual_seconds": NUMBER, "actual_cost_usd": NUMBER, "cost_basis": _BASIS,
    }  # fmt: skip
    summary = {"success": YES_NO, **figures}
    items: JSON = {"type": "array", "items": ref("BatchItem")}
    return {
        "BatchPlan": an_object({**planned, "joined": _JOINED}, required=list(planned)),
        "GenerationPlan": an_object(
            {
                **planned, "model_name": TEXT, "requested_model": TEXT,
                "input": {
                    "type": "object",
                    "description": "The input that the model would get. Of an image without a URL, only a description.",
                },
                "changes": _changes(), "warnings": warnings(),
            },
            required=[*planned, "model_name", "requested_model", "input", "changes"],
        ),
        "GenerationOrPlan": {"anyOf": [ref("Generation"), ref("GenerationPlan")]},
        "BatchOrPlan": {"anyOf": [ref("Batch"), ref("BatchPlan")]},
        "BatchSummary": an_object(
            {**summary, "joined": _JOINED, "metadata": METADATA, "error": failure()}, required=list(summary)
        ),
        "Batch": an_object(
            {**summary, "joined": _JOINED, "metadata": METADATA, "results": items},
            required=[*summary, "results"],
        ),
        "Batches": _batches(),
        "AnyBatch": an_object(
            {
                **summary, "status": _STATUS, "counts": _COUNTS, "joined": _JOINED, "metadata": METADATA,
                "results": {**items, "description": "The generations that have ended, in input order."},
                **_SOON, "cost_bound_usd": _BOUND, "webhook": ref("Delivery"), "waiting_for_owner_since": _WAITING,
            },
            required=[*(name for name in figures if name != "estimated_seconds"), "status", "counts", "results"],
            description="A batch. `success` is present only after all of its generations have ended.",
        ),
    }  # fmt: skip


def _batches() -> JSON:
    listed: JSON = {
        "id": TEXT, "total": COUNT, "status": _STATUS, "counts": _COUNTS, "actual_cost_usd": NUMBER,
        "created_at": MOMENT, "ended_at": OPTIONAL_MOMENT, "simulated": YES_NO,
    }  # fmt: skip
    one = an_object({**listed, "metadata": METADATA}, required=list(listed), description="A batch in a list.")
    return page_of("batches", one)


def _of_the_ledger() -> JSON:
    moment = OPTIONAL_MOMENT
    used: JSON = {
        "generations": COUNT, "succeeded": COUNT, "failures": COUNT, "canceled": COUNT, "images": COUNT,
        "video_seconds": NUMBER, "usd": NUMBER, "credits": COUNT, "calls": COUNT, "prompt_tokens": COUNT,
        "completion_tokens": COUNT, "thinking_tokens": COUNT, "trainings": COUNT, "training_usd": NUMBER,
    }  # fmt: skip
    groups: JSON = {
        **dict.fromkeys(GROUPS, TEXT), "key": an_object({"id": TEXT, "name": OPTIONAL_TEXT}),
    }  # fmt: skip
    return {
        "Delivery": an_object(
            {
                "url": TEXT, "state": {"enum": ["pending", "delivered", "failed"]}, "attempts": COUNT,
                "next_attempt_at": moment,
                "trouble": {"type": ["string", "null"], "description": "Why the last attempt failed."},
                "delivered_at": moment,
            },
            description="The state of the delivery to a webhook.",
        ),
        "Generations": page_of("generations", {"anyOf": [ref("Generation"), ref("UnfinishedGeneration")]}),
        "Usage": an_object(
            {
                "since": moment, "until": moment, "group_by": OPTIONAL_TEXT,
                "usage": {
                    "type": "array",
                    "items": an_object({**groups, **used}, required=list(used), patternProperties=_NAMED_GROUPS),
                    "description": "One row per group, with its name: also `tag:<name>` and `metadata:<name>`, which "
                    "are null for what has none. Without `group_by`, one row for all.",
                },
                "total": an_object(used),
            }
        ),
    }  # fmt: skip


def _of_the_service() -> JSON:
    return {
        "Health": an_object({"status": {"const": "healthy"}, "service": TEXT, "version": TEXT}),
        "Live": an_object({"status": {"const": "live"}}),
        "Ready": an_object({"status": {"const": "ready"}, "ledger": {"enum": ["ok", "away"]}}),
        "AnyObject": {"type": "object"},
    }  # fmt: skip


_REFUSED_BEFORE: Final[JSON] = {"stage": {"const": "before"}, "category": TEXT}
"""The fields of a refusal from before the request was sent."""


def warnings() -> JSON:
    return {
        "type": "array",
        "items": TEXT,
        "description": "What may be wrong with a request that is valid, in sentences. Absent if there is nothing.",
    }


def failure() -> JSON:
    return an_object(
        {"code": _codes(), "detail": TEXT, "retryable": YES_NO, "errors": _problems(), **_REFUSED_BEFORE},
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
        "description": "The number of attempts; with `fallback`, a list of them.",
    }


def _changes() -> JSON:
    text: JSON = {"type": ["string", "null"]}
    change = an_object(
        {
            "field": text,
            "change": {"enum": ["dropped", "mapped", "clamped", "converted"]},
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


def page_of(name: str, item: JSON) -> JSON:
    """One page of a list, whose rows are the field `name`."""
    cursor = {**OPTIONAL_TEXT, "description": "The cursor of the next page, or null."}
    return an_object({name: {"type": "array", "items": item}, "next_cursor": cursor})


def an_object(properties: JSON, *, required: list[str] | None = None, **more: Any) -> JSON:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


def ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}
