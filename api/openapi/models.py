"""The routes and schemas of models in the OpenAPI document."""

from collections.abc import Iterable
from typing import Final

from api.openapi.operations import as_paths, in_path, operation, query
from api.openapi.schemas import COUNT, JSON, NUMBER, TEXT, YES_NO, an_object, ref
from catalog.model import KINDS, TIERS
from catalog.prices import UNITS

_DATE: Final[JSON] = {"type": ["string", "null"], "format": "date-time"}


def paths() -> JSON:
    return as_paths({
        "/models": {
            "get": operation(
                "listModels", "List the models and their parameters", "Models", errors=("400",),
                parameters=(
                    _choices("kind", KINDS), _choices("tier", TIERS),
                    query("search", {
                        "type": "string",
                        "description": "Words. Adds `others`: models that are not declared. With a key, Replicate is "
                        "asked; without one, these are public models that were looked up before.",
                    }),
                ),
            )
        },
        "/models/{name}": {
            "get": operation(
                "getModel", "Get one model: declared or any other", "Model", errors=("401", "403", "404"),
                parameters=(
                    in_path(
                        "name",
                        "An alias, `owner/name`, `owner/name:version` or `deployments/owner/name`. A look at Replicate "
                        "needs a key.",
                    ),
                ),
            )
        },
    })  # fmt: skip


def schemas() -> JSON:
    listed = {"type": "array", "items": ref("Model")}
    return {
        "Models": an_object(
            {"models": listed, "others": {"type": "array", "items": _found()}}, required=["models"]
        ),
        "Model": _model(),
    }


def _choices(name: str, choices: Iterable[str]) -> JSON:
    """One or several."""
    return {**query(name, {"type": "array", "items": {"enum": list(choices)}}), "explode": True}


_REFERENCES: Final[JSON] = {
    "anyOf": [
        an_object({"parameter": TEXT, "most": {"anyOf": [COUNT, {"type": "null"}]}}),
        {"type": "null"},
    ],
    "description": "The parameter for reference images, and its maximum number of images, null if the model does not "
    "say.",
}


_VERSIONS: Final[JSON] = {
    "type": "array",
    "items": an_object({"id": TEXT, "created_at": _DATE}),
    "description": "The newest versions, newest first, as Replicate's first page lists them. For a deployment, if they "
    "cannot be listed, and without a key if they were not listed before, only the one that is known, without its date. "
    "An official model has none.",
}


def _model() -> JSON:
    properties: JSON = {
        "name": TEXT,
        "aliases": {"type": "array", "items": TEXT},
        "kind": {"enum": [*KINDS, None], "description": "Null if only what it makes will tell."},
        "price": {"anyOf": [_price(), {"type": "null"}], "description": "Null if it is not known."},
        "unpriced": an_object(
            {"usd_per_running_second": NUMBER, "bills_setup_and_idle": YES_NO},
            description="How a model without a price counts: the most USD for each second that a prediction takes. "
            "Setup, failures and idle time of private models and deployments are billed as well.",
        ),
        "tier": {"enum": [*TIERS, None]},
        "credits": COUNT,
        "retired": {
            "type": "string",
            "description": "Why it may fail any day, in a sentence. No built-in fallback leads to it.",
        },
        "references": _REFERENCES,
        "fallbacks": {
            "type": "array",
            "items": an_object(
                {
                    "to": TEXT,
                    "references": {"type": ["boolean", "null"]},
                    "on": {"type": "array", "items": TEXT},
                }
            ),
            "description": "The models that a request with `fallback: true` tries after this one fails.",
        },
        "default_extension": TEXT,
        "input_schema": {"type": "object"},
        "example": {"type": "object"},
    }
    published: JSON = {
        "version": {
            "type": ["string", "null"],
            "description": "The version that runs, null if it runs by its name.",
        },
        "versions": _VERSIONS,
        "description": TEXT,
        "unchecked": {
            "type": "object",
            "additionalProperties": TEXT,
            "description": "The inputs that are passed on unchecked, each with the reason.",
        },
    }
    required = [name for name in properties if name not in {"unpriced", "retired"}]
    return an_object({**properties, **published, **_of_texts()}, required=required)


def _of_texts() -> JSON:
    """Further fields of text models."""
    rates = {"prompt": NUMBER, "answer": NUMBER, "cached": NUMBER}
    day: JSON = {"type": "string", "format": "date"}
    return {
        "provider": {
            "type": "string",
            "description": "Of a text model that has routes of its own: `POST /chat`.",
        },
        "input_tokens": COUNT | {"description": "The most tokens of a prompt."},
        "output_tokens": COUNT | {"description": "The most tokens that it may think and answer."},
        "thinking_levels": {"type": ["array", "null"], "items": TEXT},
        "thinking_default": {"type": ["string", "null"]},
        "sampling": {
            "enum": ["honoured", "deprecated", "ignored"],
            "description": "What it does with `temperature` and `top_p`.",
        },
        "usd_per_million_tokens": {
            "type": "array",
            "items": an_object(
                {
                    **rates,
                    "since": day,
                    "long_prompts": an_object({"above_tokens": COUNT, **rates}),
                },
                required=list(rates),
            ),
            "description": "Its prices, each until the next one begins. Thinking is billed as the answer.",
        },
        "ends": day | {"description": "When its provider may refuse it, or answer with another model."},
        "sent_as": {"type": "string", "description": "The model that answers for it."},
    }


def _found() -> JSON:
    return an_object(
        {
            "name": TEXT,
            "description": TEXT,
            "run_count": {"type": ["integer", "null"]},
            "is_official": {"type": ["boolean", "null"]},
        },
        description="A model that is not declared.",
    )


def _price() -> JSON:
    values: JSON = {"type": "object", "description": "Values of inputs; of a list, one must fit."}
    return an_object(
        {
            "usd": {"type": "number", "description": "USD for one unit, with `by` that of a usual call."},
            "per": {"enum": list(UNITS)},
            "by": {
                "type": "array",
                "items": an_object({"usd": NUMBER, "when": values}),
                "description": "The rates for values of inputs. The first that fits counts, or else the dearest.",
            },
            "units": {"type": "string", "description": "The input with the number of units."},
            "each": {
                "type": "object",
                "additionalProperties": NUMBER,
                "description": "USD for each item of these inputs.",
            },
        },
        required=["usd", "per"],
    )
