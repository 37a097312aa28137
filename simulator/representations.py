"""Predictions, trainings and models as the JSON of Replicate's API."""

import math
from typing import Any

from simulator import billing, outputs, trainers, training_logs
from simulator.model import Deployment, Model, Version
from simulator.predictions import Creation, Prediction, timestamp
from simulator.trainings import Training

REDACTED = "[REDACTED]"

_OPTIONAL = ("version", "logs", "metrics", "urls", "data_removed", "started_at", "completed_at")


def prediction(it: Prediction) -> dict[str, Any]:
    """A prediction in the responses to create, get and cancel, and in webhooks."""
    return _body(it, logs=_logs(it))


def listed(it: Prediction) -> dict[str, Any]:
    """A prediction in the list: with its input, without its logs, which take longer to write than all the rest."""
    body = _body(it, logs="")
    body.pop("logs", None)
    return body | {"source": "api"}


def created_training(it: Training) -> dict[str, Any]:
    """A training in the response to its creation. As Replicate's, it has the addresses of a prediction of its id."""
    made = _training(it, logs=_training_logs(it))
    return made | {"urls": _training_urls(it, "predictions")} if "urls" in made else made


def training(it: Training) -> dict[str, Any]:
    """A training in the responses to get and cancel, and in webhooks. Its destination is left out."""
    return _training(it, logs=_training_logs(it))


def listed_training(it: Training) -> dict[str, Any]:
    """A training in the list: without its logs."""
    body = _training(it, logs="")
    body.pop("logs", None)
    return body


def _training(it: Training, *, logs: str) -> dict[str, Any]:
    body = _body(it, logs=logs)
    for name in ("data_removed", "webhook"):
        body.pop(name, None)
    if "urls" in body:
        body["urls"] = _training_urls(it, "trainings")
    return body | {"source": "api"}


def _training_urls(it: Training, kind: str) -> dict[str, str]:
    base = it.creation.base_url
    here = f"{base}/v1/{kind}/{it.id}"
    return {"get": here, "cancel": f"{here}/cancel", "web": f"{base}/p/{it.id}"}


def _training_logs(it: Training) -> str:
    ran, run = it.ran, it.plan.total - it.plan.boot
    is_done = it.status == "succeeded"
    if ran is None or (run <= 0 and not is_done):  # it has not started, or failed at its start
        return ""
    made, most = it.creation, 1.0
    if math.isinf(run):  # it hangs shortly before its end
        run, most = max(1.0, made.model.facts.trainer.seconds), 0.99
    rate = made.schema.value(made.input, "learning_rate", "lora_lr")
    lines = training_logs.lines(
        made.model.facts.trainer,
        images=made.images,
        steps=trainers.steps(made.schema, made.input),
        captions=made.schema.value(made.input, "autocaption") is not False,
        rate=rate if isinstance(rate, int | float) else 0.0004,
        share=1.0 if is_done else min(most, ran / run),
        seconds=run,
    )
    return "".join(f"{line}\n" for line in lines)


def _body(it: Prediction, *, logs: str) -> dict[str, Any]:
    made = it.creation
    body: dict[str, Any] = {
        "id": it.id,
        "model": made.model.name,
        "version": made.version,
        "input": shown_input(made),
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
    if made.deployment:
        body["deployment"] = made.deployment.name
    if it.deadline:
        body["deadline"] = timestamp(it.deadline)
    if made.webhook:
        body["webhook"] = made.webhook
    if it.plan.sparse:
        for name in _OPTIONAL:
            body.pop(name)
    return body


def shown_input(made: Creation) -> dict[str, Any]:
    """The input of a prediction as responses show it: secrets are replaced once they were sent to the model."""
    secrets = made.schema.secrets
    return {name: REDACTED if name in secrets else value for name, value in made.input.items()}


def model(it: Model) -> dict[str, Any]:
    """A model with its latest version. Its OpenAPI schema is the one that validates inputs."""
    owner, _, name = it.name.partition("/")
    facts = {
        "url": f"https://replicate.com/{it.name}",
        "owner": owner,
        "name": name,
        "description": None,
        "visibility": "public",
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
    }
    return {**facts, **it.page, "latest_version": version(it.versions[0]) if it.versions else None}


def version(it: Version) -> dict[str, Any]:
    """A version of a model, with the schema of its inputs."""
    return {
        "id": it.id,
        "created_at": it.created_at,
        "cog_version": it.cog_version,
        "openapi_schema": it.schema.document or None,
    }


def deployment(it: Deployment) -> dict[str, Any]:
    """A deployment, with the version that it runs."""
    owner, _, name = it.name.partition("/")
    return {
        "owner": owner,
        "name": name,
        "current_release": {
            "number": 1,
            "model": it.model,
            "version": it.version,
            "created_at": "2025-01-01T00:00:00.000000Z",
            "created_by": {"type": "organization", "username": owner, "name": owner},
            "configuration": {
                "hardware": it.hardware,
                "min_instances": it.min_instances,
                "max_instances": it.max_instances,
            },
        },
    }


def found(query: str, models: list[Model]) -> dict[str, Any]:
    """The models that a search found, the best first."""
    shown = [
        {
            "model": model(each),
            "metadata": {
                "generated_description": each.page.get("description"),
                "tags": [each.kind],
                "score": 1.0,
            },
        }
        for each in models
    ]
    return {"query": query, "models": shown, "collections": [], "pages": []}


def _logs(it: Prediction) -> str:
    """The seed, and a progress bar for each finished step."""
    if it.started_at is None:
        return ""
    steps = it.creation.schema.value(it.creation.input, "num_inference_steps")
    steps = steps if isinstance(steps, int) and steps > 0 else 20
    lines = [f"Using seed: {it.seed}"]
    for step in range(int(steps * _progress(it)) + 1):
        bar = ("█" * (step * 10 // steps)).ljust(10)
        lines.append(f"{step * 100 // steps:3d}%|{bar}| {step}/{steps} [it/s]")
    return "\n".join(lines) + "\n"


def _progress(it: Prediction) -> float:
    """The finished share of its run, from 0 to 1. It is 1 only if there is an output."""
    if it.output is not None and it.status in ("succeeded", "processing") and it.settled.is_set():
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
    return metrics if it.output is None or isinstance(it, Training) else metrics | _counted(it)


def _counted(it: Prediction) -> dict[str, Any]:
    """What Replicate counts in an output: files of official models, which are billed by them, and words of any text."""
    made = it.creation
    length = billing.length(made.input, made.release)
    match made.model.kind:
        case "image" if made.model.is_official:
            return {"image_count": it.pictures}
        case "video" if made.model.is_official:
            return {"video_output_count": it.pictures, "video_output_duration_seconds": length * it.pictures}
        case "audio" if made.model.is_official:
            return {"audio_output_duration_seconds": length * it.pictures}
        case "text":
            asked = sum(len(each.split()) for each in outputs.texts(made.input))
            answered = sum(len(each.split()) for each in outputs.texts(it.output))
            return {"input_token_count": asked, "output_token_count": answered}
    return {}


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
