"""The routes and schemas of trainings in the OpenAPI document."""

from typing import Any, Final

from api.openapi.lists import OWNER
from api.openapi.operations import (
    BODY_ERRORS,
    CURSOR,
    KEY,
    LIMIT,
    PAYERS,
    READERS,
    Operation,
    as_paths,
    header,
    in_path,
    json_of,
    operation,
    query,
)
from api.openapi.schemas import (
    COUNT,
    JSON,
    METADATA,
    MOMENT,
    NUMBER,
    OBJECT,
    OPTIONAL_TEXT,
    TEXT,
    YES_NO,
    an_object,
    failure,
    page_of,
    ref,
    warnings,
)
from catalog.model import nullable
from catalog.prices import BASES
from contract.states import ENDED, UNFINISHED
from datasets.refusals import LARGEST
from parsing.trainings import TrainingFields

_TARGET: Final = in_path("target", "The id of the training.")
_READS: Final = ("404", "500")
_OPTIONAL_NUMBER: Final[JSON] = {"type": ["number", "null"]}


def paths() -> JSON:
    """The routes, by their paths."""
    one = "/trainings/{target}"
    return as_paths({
        "/trainings": {"post": _create(), "get": _list()},
        one: {
            "get": operation(
                "training", "Get a training", "Training", who=READERS, parameters=(_TARGET,), errors=_READS
            ),
            "delete": operation(
                "cancelTraining", "Cancel a training that has not ended", "Training", who=PAYERS,
                parameters=(_TARGET,), errors=_READS,
            ),
        },
        f"{one}/events": {"get": _events()},
        f"{one}/weights/{{name}}": {"get": _weights()},
        f"{one}/weights": {
            "delete": Operation(
                name="deleteWeights", summary="Delete the weights of a training", who=PAYERS,
                parameters=(_TARGET,), answers={"204": {"description": "Done"}}, errors=_READS,
            )
        },
    })  # fmt: skip


def _create() -> Operation:
    where = {"Location": {"schema": TEXT, "description": "The path of the training."}}
    return Operation(
        name="train",
        summary="Train a model on images, or forecast what that costs",
        who=PAYERS,
        parameters=(KEY,),
        takes={**json_of("TrainingRequest"), "multipart/form-data": {"schema": ref("TrainingForm")}},
        answers={
            "200": {"description": "The response to a dry run", "content": json_of("TrainingPlan")},
            "202": {"description": "Accepted; it goes on", "content": json_of("Training"), "headers": where},
        },
        errors=(*BODY_ERRORS, "402", "409", "422", "503"),
        callback="Training",
    )


def _list() -> Operation:
    return operation(
        "listTrainings", "List the caller's trainings, the latest first", "Trainings", who=READERS,
        errors=("400", "500"),
        parameters=(
            query("state", {"enum": [*UNFINISHED, *ENDED]}),
            query("model", TEXT, "The name of the trainer."),
            query("since", TEXT, "Only trainings accepted at or after this time."),
            query("metadata.{name}", TEXT, "Only with this text in their `metadata`; several must all be."),
            OWNER, LIMIT, CURSOR,
        ),
    )  # fmt: skip


def _events() -> Operation:
    content: JSON = {"text/event-stream": {"schema": ref("TrainingEvent")}}
    return Operation(
        name="trainingEvents",
        summary="Follow a training by server-sent events",
        who=READERS,
        parameters=(_TARGET,),
        answers={
            "200": {
                "description": "The current state first, then each event until it ends",
                "content": content,
            }
        },
        errors=("404", "429", "500"),
    )


def _weights() -> Operation:
    content: JSON = {"*/*": {}}
    return Operation(
        name="weights",
        summary="Get the weights of a training, whole or in part",
        who=READERS,
        parameters=(_TARGET, in_path("name"), header("Range", TEXT)),
        answers={
            "200": {"description": "The file", "content": content},
            "206": {"description": "The requested range", "content": content},
            "304": {"description": "The file matches `If-None-Match`"},
        },
        errors=("404", "416", "429", "500"),
    )


def schemas() -> JSON:
    """The schemas, by their names."""
    training = _training()
    return {
        "TrainingRequest": _request(),
        "TrainingForm": _form(),
        "Training": training,
        "Trainings": page_of("trainings", ref("Training")),
        "TrainingPlan": an_object(
            {
                "dry_run": {"const": True}, **_what(), "destination_exists": YES_NO,
                "estimated_seconds": _OPTIONAL_NUMBER, "cost_bound_usd": NUMBER, "warnings": warnings(),
            },
            required=["dry_run", *_what(), "destination_exists", "estimated_seconds", "cost_bound_usd"],
        ),
        "TrainingEvent": _event(),
    }  # fmt: skip


def _request() -> JSON:
    own: JSON = nullable(TrainingFields.model_json_schema())["properties"]
    return an_object(
        {
            **own,
            "images": {
                "type": "string",
                "description": "The URL of a zip of images, at a public host; or that of an upload to this service.",
            },
            "input": {
                "type": ["object", "null"],
                "description": "The other inputs of the trainer, as its published schema has them.",
            },
        },
        required=["trainer", "destination", "images"],
        additionalProperties=False,
    )


def _form() -> JSON:
    return an_object(
        {
            "images": {
                "description": "One .zip, or all images as parts of this name, with their captions as .txt files of "
                f"the same names; at most {LARGEST // 2**20} MiB.",
                "anyOf": [
                    {"type": "string", "format": "binary"},
                    {"type": "array", "items": {"type": "string", "format": "binary"}},
                ],
            },
        },
        required=["trainer", "destination", "images"],
        additionalProperties=TEXT,
        description="The fields of the JSON body as texts or JSON. `input.steps` and the like are single inputs.",
    )


def _what() -> JSON:
    """The fields that a training and its forecast have."""
    return {
        "trainer": TEXT,
        "version": {**OPTIONAL_TEXT, "description": "The version of the trainer."},
        "destination": {**TEXT, "description": "The model that gets the new version."},
        "trigger_word": OPTIONAL_TEXT,
        "images": {**COUNT, "description": "The number of images in the zip."},
        "captions": COUNT,
        "input": {**OBJECT, "description": "The other inputs of the trainer, without secrets."},
        "estimated_cost_usd": {**_OPTIONAL_NUMBER, "description": "By the usual time of so many steps."},
    }


def _training() -> JSON:
    always: JSON = {
        "id": TEXT, "status": {"enum": [*UNFINISHED, *ENDED]}, **_what(),
        "training_id": {**OPTIONAL_TEXT, "description": "Its id at Replicate."},
        "model": {**OPTIONAL_TEXT, "description": "The new version, `owner/name:version`."},
        "weights": {**OPTIONAL_TEXT, "description": "The address of the kept weights, for the same callers."},
        "attempts": COUNT,
        "cost_usd": NUMBER, "cost_basis": {"enum": list(BASES)},
        "timing": an_object({"queued": NUMBER, "training": NUMBER, "total": NUMBER}, description="Seconds."),
        "created_at": MOMENT, "simulated": YES_NO,
    }  # fmt: skip
    sometimes: JSON = {
        "success": {**YES_NO, "description": "Present once it has ended."},
        "cost_bound_usd": {
            **NUMBER,
            "description": "The most USD that it may cost. Present until it has ended.",
        },
        "estimated_seconds": {**NUMBER, "description": "Seconds until its end."},
        "place": {"type": "integer", "minimum": 1},
        "progress": {**NUMBER, "description": "Per cent of its steps."},
        "logs": {**TEXT, "description": "The end of its logs, at most 10,000 characters."},
        "creation_in_doubt": {"const": True},
        "waiting_for_owner_since": MOMENT,
        "survives_restart": {"const": False},
        "warnings": warnings(),
        "error": failure(),
        "metadata": METADATA,
        "webhook": ref("Delivery"),
    }
    return an_object({**always, **sometimes}, required=list(always), description="A training in any state.")


def _event() -> JSON:
    training: JSON = ref("Training")
    began = an_object({"id": TEXT, "created_at": MOMENT})
    started = an_object({"id": TEXT, "training_id": TEXT})
    data: dict[str, Any] = {
        "queued": {"anyOf": [began, training]},
        "running": {"anyOf": [started, training]},
        "progress": an_object({"id": TEXT, "progress": {**NUMBER, "description": "Per cent of its steps."}}),
        "logs": an_object(
            {
                "id": TEXT,
                "text": {**TEXT, "description": "The new part of its logs since the last event."},
                "end": {**COUNT, "description": "The number of characters that it has printed so far."},
            }
        ),
        **dict.fromkeys(("done", "shutting_down", "interrupted"), training),
    }
    return {
        "oneOf": [an_object({"event": {"const": name}, "data": each}) for name, each in data.items()],
        "description": "The name and the data of an event, as those of a generation, and its logs in pieces.",
    }
