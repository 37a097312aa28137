"""JSON Schemas of what the service answers. A test holds real answers against them."""

from typing import Any

from errors import every_error
from registry import TIERS

JSON = dict[str, Any]


def answers() -> JSON:
    text, number, count = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
    yes_no = {"type": "boolean"}
    timing = an_object({"queued": number, "predicting": number, "total": number}, description="Seconds.")
    error = an_object(
        {"code": _codes(), "detail": text, "retryable": yes_no, "errors": _problems()},
        required=["code", "detail", "retryable"],
    )
    links = {"type": "array", "items": {"type": "string", "format": "uri"}}
    told: JSON = {
        "success": yes_no, "id": text, "status": {"enum": ["succeeded", "failed", "canceled"]},
        "model_name": text, "requested_model": text, "prompt": text,
        "prediction_id": {"type": ["string", "null"]}, "attempts": _attempts(error), "files": links,
        "cost_usd": number, "timing": timing, "simulated": yes_no,
    }  # fmt: skip
    sometimes: JSON = {
        "files_error": {"type": "string", "description": "Why not every output could be kept."},
        "placeholder": {"const": True, "description": "A black picture stands in for one, as was wished."},
        "error": error,
    }
    made: JSON = {"output": {**links, "minItems": 1}, "count": count}
    plan = {
        "strategy": {"enum": ["immediate", "window", "queue"]},
        "estimated_seconds": number, "estimated_cost_usd": number, "credits": count,
    }  # fmt: skip
    summary = {
        "success": yes_no, "id": text, "total": count, "succeeded": count, "failed": count, **plan,
        "actual_seconds": number, "actual_cost_usd": number,
    }  # fmt: skip
    figures = dict.fromkeys(
        (
            "concurrent_limit", "current_concurrent", "available_slots", "waiting",
            "requests_per_minute_limit", "current_rate_per_minute",
        ),
        count,
    )  # fmt: skip
    concurrency = an_object({**figures, "paused_seconds": number})
    return {
        "Generation": an_object({**told, **made, **sometimes}, required=list(told)),
        "BatchItem": an_object({"index": count, **told, **made, **sometimes}, required=["index", *told]),
        "BatchPlan": an_object({"dry_run": {"const": True}, "total": count, **plan}),
        "BatchOrPlan": {"anyOf": [ref("Batch"), ref("BatchPlan")]},
        "BatchSummary": an_object(summary),
        "Batch": an_object({**summary, "results": {"type": "array", "items": ref("BatchItem")}}),
        "Configured": an_object({"success": yes_no, "concurrency": concurrency}),
        "Models": an_object({"models": {"type": "array", "items": ref("Model")}}),
        "Model": an_object(
            {
                "name": text, "aliases": {"type": "array", "items": text},
                "kind": {"enum": ["image", "video"]},
                "price": an_object({"usd": number, "per": {"enum": ["image", "call", "second"]}}),
                "tier": {"enum": list(TIERS)}, "credits": count,
                "references": {
                    "anyOf": [an_object({"parameter": text, "most": count}), {"type": "null"}],
                    "description": "Which parameter takes reference images, and how many.",
                },
                "fallbacks": {
                    "type": "array",
                    "items": an_object(
                        {
                            "to": text, "references": {"type": ["boolean", "null"]},
                            "on": {"type": "array", "items": text},
                        }
                    ),
                    "description": "Where a request with `fallback` goes when this fails, by the built-in rules.",
                },
                "default_extension": text, "input_schema": {"type": "object"}, "example": {"type": "object"},
            }
        ),
        "Status": an_object(
            {
                "service": text, "version": text, "uptime_seconds": number, "simulated": yes_no,
                "admin_api_configured": yes_no, "default_replicate_token_configured": yes_no,
                "concurrency": concurrency,
                "polling": an_object({"requests_per_minute_limit": count, "current_rate_per_minute": count}),
                "generations": an_object({"succeeded": count, "failed": count, "canceled": count}),
            }
        ),
        "Health": an_object({"status": {"const": "healthy"}, "service": text, "version": text}),
        "AnyObject": {"type": "object"},
        "Problem": an_object(
            {
                "type": text, "title": text, "status": {"type": "integer"}, "detail": text,
                "code": _codes(), "request_id": text, "retryable": yes_no, "errors": _problems(),
                "id": {"type": "string", "description": "The generation, when there was one; likewise the rest."},
                **{name: told[name] for name in told if name not in {"success", "status", "id"}},
                **{name: sometimes[name] for name in ("files_error", "placeholder")},
            },
            required=["type", "title", "status", "detail", "code", "request_id", "retryable"],
            description="A problem document (RFC 9457).",
        ),
    }  # fmt: skip


def _attempts(error: JSON) -> JSON:
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
    attempt = an_object(
        {
            "model_name": text, "prediction_id": text, "error": {"anyOf": [error, {"type": "null"}]},
            "changes": {"type": "array", "items": change},
        }
    )  # fmt: skip
    return {
        "oneOf": [{"type": "integer", "minimum": 0}, {"type": "array", "items": attempt}],
        "description": "How many there were; with `fallback`, each of them.",
    }


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
