"""The routes and schemas of the door for Replicate's clients in the OpenAPI document."""

from dataclasses import replace
from typing import Final

from api.openapi.operations import (
    BODY_ERRORS,
    GENERATING_KEYS,
    PAYERS,
    READERS,
    Operation,
    as_paths,
    header,
    in_path,
    json_of,
    query,
)
from api.openapi.schemas import JSON, OBJECT, OPTIONAL_TEXT, TEXT, an_object, ref
from doors import REPLICATE_ROOT
from doors.replicate.creation import EVENTS
from doors.replicate.training_creation import CANCEL_AFTER

_READS: Final = ("404", "429", "500")
_CREATES: Final = (*BODY_ERRORS, "402", "404", "409", "422", "503")
_ERROR: Final[JSON] = {"application/problem+json": {"schema": ref("ReplicateError")}}
_NAMED: Final = (in_path("owner"), in_path("name"))
_TARGET: Final = in_path("target")

_HEADERS: Final = (
    header("Prefer", TEXT, "`wait` or `wait=N`: hold the answer for up to N seconds, at most 60."),
    header("Cancel-After", TEXT, "`30s`, `5m`, `1h30m`: cancel the prediction so long after its creation."),
)

_RUNS_FOR: Final = header(
    CANCEL_AFTER, TEXT, "`30m`, `2h`: cancel the training when it has run so long. It bounds the cost."
)


def paths() -> JSON:
    """The routes, by their paths."""
    return as_paths(
        {
            f"{REPLICATE_ROOT}{path}": each
            for path, each in {**_predictions(), **_trainings(), **_resources()}.items()
        }
    )


def _predictions() -> dict[str, dict[str, Operation]]:
    page = (
        query("cursor", TEXT, "From a link to another page."),
        query("created_after", TEXT),
        query("created_before", TEXT),
    )
    one = "ReplicatePrediction"
    return {
        "/predictions": {
            "post": _creation("replicateCreate", "Create a prediction", "ReplicateVersion"),
            "get": _operation(
                "replicateList",
                "List the caller's predictions, a hundred a page",
                "ReplicatePredictions",
                *page,
            ),
        },
        "/predictions/{target}": {"get": _operation("replicatePrediction", "Get a prediction", one, _TARGET)},
        "/predictions/{target}/cancel": {
            "post": replace(_operation("replicateCancel", "Cancel a prediction", one, _TARGET), who=PAYERS)
        },
        "/models/{owner}/{name}/predictions": {
            "post": _creation("replicateRun", "Run a model by its name", "ReplicateInput", *_NAMED)
        },
        "/deployments/{owner}/{name}/predictions": {
            "post": _creation("replicateDeployment", "Run a deployment", "ReplicateInput", *_NAMED)
        },
    }


def _trainings() -> dict[str, dict[str, Operation]]:
    one, version = "ReplicateTraining", in_path("version", "Its id, or `hidden` for the latest.")
    created: JSON = {"201": {"description": "Accepted", "content": json_of(one)}}
    return {
        "/models/{owner}/{name}/versions/{version}/trainings": {
            "post": replace(
                _creation("replicateTrain", "Train by a version of a trainer", "ReplicateTrainingInput"),
                parameters=(*_NAMED, version, _RUNS_FOR),
                answers=created,
            )
        },
        "/trainings": {
            "get": _operation(
                "replicateTrainings",
                "List the caller's trainings, a hundred a page",
                "ReplicateTrainings",
                query("cursor", TEXT, "From a link to another page."),
            )
        },
        "/trainings/{target}": {"get": _operation("replicateTraining", "Get a training", one, _TARGET)},
        "/trainings/{target}/cancel": {
            "post": replace(
                _operation("replicateCancelTraining", "Cancel a training", one, _TARGET), who=PAYERS
            )
        },
        "/models": {
            "post": Operation(
                name="replicateCreateModel",
                summary="Create a model that trainings make versions of, as at Replicate",
                who=PAYERS,
                takes=json_of("ReplicateNewModel"),
                answers={"201": {"description": "Created", "content": json_of("ReplicateModel")}},
                errors=(*BODY_ERRORS, "409", "422", "503"),
                error=_ERROR,
            )
        },
    }


def _resources() -> dict[str, dict[str, Operation]]:
    version = in_path("version")
    return {
        "/models/{owner}/{name}": {
            "get": _operation("replicateModel", "Get a model", "ReplicateModel", *_NAMED)
        },
        "/models/{owner}/{name}/versions/{version}": {
            "get": _operation(
                "replicateVersion", "Get a version of a model", "ReplicateVersionOfModel", *_NAMED, version
            )
        },
        "/files": {
            "post": _upload(),
            "get": _operation("replicateFiles", "List the caller's uploads", "ReplicateFiles"),
        },
        "/files/{target}": {
            "get": _operation("replicateFile", "Get an upload", "ReplicateFile", _TARGET),
            "delete": replace(
                _operation("replicateDeleteFile", "Delete an upload", "ReplicateFile", _TARGET),
                answers={"204": {"description": "Done"}},
                who=PAYERS,
            ),
        },
        "/account": {"get": _operation("replicateAccount", "Get the caller's account", "ReplicateAccount")},
        "/webhooks/default/secret": {
            "get": replace(
                _operation(
                    "replicateSecret", "Get the secret that signs the caller's webhooks", "ReplicateSecret"
                ),
                who=GENERATING_KEYS,
            )
        },
    }


def _operation(name: str, summary: str, answer: str, *parameters: JSON) -> Operation:
    answers: JSON = {"200": {"description": "Done", "content": json_of(answer)}}
    return Operation(
        name=name,
        summary=f"{summary}, as at Replicate",
        who=READERS,
        parameters=parameters,
        answers=answers,
        errors=_READS,
        error=_ERROR,
    )


def _creation(name: str, summary: str, takes: str, *path: JSON) -> Operation:
    accepted: JSON = {
        "description": "Accepted, or done within the time that the caller waits",
        "content": json_of("ReplicatePrediction"),
    }
    return Operation(
        name=name,
        summary=f"{summary}, as at Replicate",
        who=PAYERS,
        parameters=(*path, *_HEADERS),
        takes=json_of(takes),
        answers={"201": accepted},
        errors=_CREATES,
        error=_ERROR,
        creates=True,
    )


def _upload() -> Operation:
    return Operation(
        name="replicateUpload",
        summary="Upload a file to use as an input for a day, as at Replicate",
        who=PAYERS,
        takes={"multipart/form-data": {"schema": ref("ReplicateUpload")}},
        answers={"201": {"description": "Stored", "content": json_of("ReplicateFile")}},
        errors=(*BODY_ERRORS, "404", "422", "503"),
        error=_ERROR,
    )


def schemas() -> JSON:
    """The schemas, by their names."""
    prediction, created = ref("ReplicatePrediction"), _created()
    return {
        "ReplicateInput": an_object(created, required=["input"], additionalProperties=False),
        "ReplicateVersion": an_object(
            {"version": {**TEXT, "description": "`owner/name`, `owner/name:id`, or the id of a version."}, **created},
            required=["version", "input"], additionalProperties=False,
        ),
        "ReplicatePrediction": _prediction(),
        "ReplicatePredictions": _page(prediction),
        **_of_trainings(),
        "ReplicateError": an_object(
            {
                "title": TEXT, "detail": TEXT, "status": {"type": "integer"}, "code": TEXT, "request_id": TEXT,
                "invalid_fields": {
                    "type": "array", "items": an_object({"type": TEXT, "field": TEXT, "description": TEXT})
                },
                "retry_after": {"type": "integer", "description": "Seconds."},
                "budget": TEXT, "period": TEXT, "begins_anew": TEXT,
                "stage": TEXT, "category": TEXT,
            },
            required=["title", "detail", "status", "code", "request_id"],
        ),
        "ReplicateUpload": an_object(
            {"content": {"type": "string", "format": "binary"}, "metadata": {**TEXT, "description": "A JSON object."}},
            required=["content"],
        ),
        "ReplicateFile": _file(),
        "ReplicateFiles": _page(ref("ReplicateFile")),
        "ReplicateVersionOfModel": an_object(
            {"id": TEXT, "created_at": TEXT, "cog_version": TEXT, "openapi_schema": OBJECT}
        ),
        "ReplicateModel": an_object(
            {
                "owner": TEXT, "name": TEXT, "url": TEXT, "description": OPTIONAL_TEXT,
                "visibility": {"enum": ["public", "private"]}, "run_count": {"type": "integer"},
                **dict.fromkeys(("github_url", "paper_url", "license_url", "cover_image_url"), OPTIONAL_TEXT),
                "default_example": {"type": "null"},
                "latest_version": {"anyOf": [ref("ReplicateVersionOfModel"), {"type": "null"}]},
            }
        ),
        "ReplicateAccount": an_object(
            {"type": {"enum": ["user", "organization"]}, "username": TEXT, "name": TEXT, "github_url": OPTIONAL_TEXT}
        ),
        "ReplicateSecret": an_object(
            {"key": TEXT}, description="That of a named key, or WEBHOOK_SECRET for the admin key of the environment."
        ),
    }  # fmt: skip


def _of_trainings() -> JSON:
    made: JSON = an_object({"version": TEXT, "weights": OPTIONAL_TEXT})
    shared = {
        name: each
        for name, each in _prediction()["properties"].items()
        if name not in {"data_removed", "deployment", "deadline", "output"}
    }
    inputs: JSON = {"type": "object", "description": "All inputs of the trainer, by its own names."}
    return {
        "ReplicateTrainingInput": an_object(
            {"destination": TEXT, "input": inputs, **_webhooks()},
            required=["destination", "input"], additionalProperties=False,
        ),
        "ReplicateTraining": an_object(
            {**shared, "destination": TEXT, "output": {"anyOf": [made, {"type": "null"}]}},
            required=["id", "model", "version", "input", "output", "error", "status", "created_at", "urls"],
        ),
        "ReplicateTrainings": _page(ref("ReplicateTraining")),
        "ReplicateNewModel": an_object(
            {"owner": TEXT, "name": TEXT, "visibility": {"enum": ["public", "private"]}, "hardware": TEXT},
            additionalProperties=False,
        ),
    }  # fmt: skip


def _created() -> JSON:
    return {
        "input": {"type": "object", "description": "The inputs of the model."},
        **_webhooks(),
        "stream": {"enum": [False, None]},
    }


def _webhooks() -> JSON:
    return {
        "webhook": OPTIONAL_TEXT,
        "webhook_events_filter": {"anyOf": [{"type": "array", "items": {"enum": list(EVENTS)}}, {"type": "null"}]},
        "webhook_completed": OPTIONAL_TEXT,
    }  # fmt: skip


def _prediction() -> JSON:
    return an_object(
        {
            "id": TEXT,
            "model": TEXT,
            "version": TEXT,
            "input": OBJECT,
            "logs": TEXT,
            "output": {"description": "As the model returned it, with kept files in place of its own."},
            "error": OPTIONAL_TEXT,
            "data_removed": {"type": "boolean"},
            "status": {"enum": ["starting", "processing", "succeeded", "failed", "canceled"]},
            "created_at": TEXT,
            "started_at": OPTIONAL_TEXT,
            "completed_at": OPTIONAL_TEXT,
            "metrics": OBJECT,
            "urls": an_object({"get": TEXT, "cancel": TEXT}),
            "source": {"const": "api"},
            "deployment": TEXT,
            "deadline": TEXT,
            "webhook": TEXT,
        },
        required=["id", "model", "version", "input", "output", "error", "status", "created_at", "urls"],
    )


def _file() -> JSON:
    return an_object(
        {
            "id": TEXT,
            "name": TEXT,
            "content_type": TEXT,
            "size": {"type": "integer", "description": "Bytes."},
            "etag": TEXT,
            "checksums": an_object({"sha256": TEXT, "md5": TEXT}),
            "metadata": OBJECT,
            "created_at": TEXT,
            "expires_at": TEXT,
            "urls": an_object({"get": TEXT}),
        }
    )


def _page(item: JSON) -> JSON:
    return an_object(
        {"next": OPTIONAL_TEXT, "previous": OPTIONAL_TEXT, "results": {"type": "array", "items": item}}
    )
