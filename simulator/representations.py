"""Predictions and models as the JSON of Replicate's API."""

from typing import Any

from simulator.catalog import Model
from simulator.predictions import Prediction, timestamp

_OPTIONAL = ("version", "logs", "metrics", "urls", "data_removed", "started_at", "completed_at")


def prediction(it: Prediction) -> dict[str, Any]:
    """A prediction in the responses to create, get and cancel, and in webhooks."""
    return _body(it, logs=_logs(it))


def listed(it: Prediction) -> dict[str, Any]:
    """A prediction in the list: with its input, without its logs, which take longer to write than all the rest."""
    body = _body(it, logs="")
    body.pop("logs", None)
    return body | {"source": "api"}


def _body(it: Prediction, *, logs: str) -> dict[str, Any]:
    made = it.creation
    body: dict[str, Any] = {
        "id": it.id,
        "model": made.model.name,
        "version": made.version,
        "input": made.input,
        "logs": logs,
        "output": it.output,
        "error": it.error,
        "data_removed": False,
        "status": it.status,
        "created_at": timestamp(it.created_at),
        "started_at": timestamp(it.started_at) if it.started_at else None,
        "completed_at": timestamp(it.completed_at) if it.completed_at else None,
        "metrics": _metrics(it),
        "urls": _urls(it),
    }
    if it.deadline:
        body["deadline"] = timestamp(it.deadline)
    if made.webhook:
        body["webhook"] = made.webhook
    if it.plan.sparse:
        for name in _OPTIONAL:
            body.pop(name)
    return body


def model(it: Model) -> dict[str, Any]:
    """A model with its latest version. Its OpenAPI schema is the one that validates inputs."""
    owner, _, name = it.name.partition("/")
    return {
        "url": f"https://replicate.com/{it.name}",
        "owner": owner,
        "name": name,
        "description": f"A simulated {name}",
        "visibility": "public",
        "is_official": it.client,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 1_000_000,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version(it, it.version),
    }


def version(it: Model, name: str) -> dict[str, Any]:
    """A version of a model, with the schema of its inputs."""
    return {
        "id": name,
        "created_at": "2025-01-01T00:00:00.000000Z",
        "cog_version": "0.13.7",
        "openapi_schema": _openapi(it),
    }


def _openapi(it: Model) -> dict[str, Any]:
    choices: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for order, (name, schema) in enumerate(it.inputs.items()):
        shown = {key: value for key, value in schema.items() if key not in ("enum", "type")}
        if "enum" in schema:
            # Replicate keeps choices in schemas of their own, to which the input refers.
            kept = {key: schema[key] for key in ("enum", "type")}
            choices[name] = kept | {"title": name, "description": "An enumeration."}
            shown["allOf"] = [{"$ref": f"#/components/schemas/{name}"}]
        else:
            shown |= {"type": schema["type"], "title": name.replace("_", " ").title()}
        properties[name] = shown | {"x-order": order}
    uri: dict[str, Any] = {"type": "string", "format": "uri"}
    output = uri if it.output == "string" else {"type": "array", "items": uri}
    required = [name for name in it.inputs if name == "prompt"]
    fields = {"type": "object", "title": "Input", "required": required, "properties": properties}
    schemas = {"Input": fields, "Output": output | {"title": "Output"}} | choices
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {},
        "components": {"schemas": schemas},
    }


def _logs(it: Prediction) -> str:
    """The seed, and a progress bar for each finished step."""
    if it.started_at is None:
        return ""
    steps = it.creation.input.get("num_inference_steps")
    steps = steps or it.creation.model.default("num_inference_steps")
    steps = steps if isinstance(steps, int) and steps > 0 else 20
    lines = [f"Using seed: {it.seed}"]
    for step in range(int(steps * _progress(it)) + 1):
        bar = ("█" * (step * 10 // steps)).ljust(10)
        lines.append(f"{step * 100 // steps:3d}%|{bar}| {step}/{steps} [it/s]")
    return "\n".join(lines) + "\n"


def _progress(it: Prediction) -> float:
    """The finished share of its run, from 0 to 1. It is 1 only if there is an output."""
    if it.output is not None:
        return 1.0
    age = it.age if it.completed_at is None else (it.completed_at - it.created_at).total_seconds()
    run = it.plan.total - it.plan.boot
    return min(0.99, max(0.0, age - it.plan.boot) / run) if run > 0 else 0.0


def _metrics(it: Prediction) -> dict[str, Any]:
    if it.completed_at is None:
        return {}
    total = {"total_time": (it.completed_at - it.created_at).total_seconds()}
    if it.started_at is None:
        return total
    metrics = {"predict_time": (it.completed_at - it.started_at).total_seconds()} | total
    if it.output is not None and it.creation.model.kind == "image":
        metrics["image_count"] = it.pictures
    return metrics


def _urls(it: Prediction) -> dict[str, str]:
    base = it.creation.base_url
    here = f"{base}/v1/predictions/{it.id}"
    # `web` and `stream` also point to this server, so that no URL leaves the machine.
    return {
        "get": here,
        "cancel": f"{here}/cancel",
        "web": f"{base}/p/{it.id}",
        "stream": f"{base}/v1/files/{it.id}/stream",
    }
