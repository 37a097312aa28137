"""The routes of the door for Replicate's clients, for trainings and the models that they make versions of.

A creation is checked as one of `POST /trainings`, and is accepted at once. All functions run in a Flask thread, inside
a request.
"""

from typing import Final

from flask import Blueprint, Response, jsonify, request

from api import incoming, replicate_door, roles, trainings
from api.trainings import SentTraining
from catalog.trainers import Trainer
from contract.door_facts import DoorFacts
from doors import REPLICATE_ROOT
from doors.replicate import resources
from doors.replicate.destinations import read_destination
from doors.replicate.states import shown_input
from doors.replicate.training_creation import (
    CANCEL_AFTER,
    Names,
    TrainingCall,
    read_training,
    trainer_name,
)
from doors.replicate.trainings import created, listed, training
from errors import InvalidRequest, ModelExists, NotFound, Problem
from generations.archive import Stored
from generations.batch import Work
from generations.training_service import MISSING
from service import Runtime

routes = Blueprint("replicate_trainings", __name__, url_prefix=REPLICATE_ROOT)

_NO_DESTINATION: Final = "The specified training destination does not exist"
"""Replicate's own words."""


@routes.post("/models/<owner>/<name>/versions/<version>/trainings")
def create_replicate_training(owner: str, name: str, version: str) -> tuple[Response, int]:
    """Create a training by this version of a trainer."""
    service, caller = incoming.service(), incoming.require_payer()
    with (
        incoming.limits().submitting.held(caller.turn, retry_after=service.seconds_per_release),
        trainings.scratch() as directory,
        incoming.body(caller.turn) as body,
    ):
        trainer = trainer_name(owner, name, version)
        call = read_training(body, trainer, request.headers.get(CANCEL_AFTER))
        found = trainings.found_trainer(service, caller, call.trainer)
        if not isinstance(found, Trainer):
            raise NotFound(f"{call.trainer} {found}.")
        names = Names(found.zip_input, found.word_input)
        sent = SentTraining(names.body(call), (), directory)
        try:
            work = trainings.begun(service, caller, sent, found, call=_facts(call, found))
        except InvalidRequest as invalid:
            raise _refusal(invalid, names) from None
    assert not isinstance(work, Response)  # noqa: S101 - it is no dry run
    record = service.loop.run(service.generations.record(work))
    return jsonify(created(record, incoming.address())), 201


@routes.get("/trainings")
def list_replicate_trainings() -> Response:
    """The caller's trainings, a hundred a page, the latest first."""
    return replicate_door.listed("/trainings", view=listed, training=True)


@routes.get("/trainings/<target>")
def replicate_training(target: str) -> Response:
    """A training, with its logs so far."""
    service, principal = incoming.service(), incoming.authenticate()
    return _shown(service, service.loop.run(service.generations.get(trainings.id_of(target), principal)))


@routes.post("/trainings/<target>/cancel")
def cancel_replicate_training(target: str) -> Response:
    """Cancel a training. One that has ended does not change."""
    service, principal = incoming.service(), roles.require_change()
    cancelled = service.generations.cancel(trainings.id_of(target), principal, roles.actor())
    return _shown(service, service.loop.run(cancelled))


@routes.post("/models")
def create_replicate_model() -> tuple[Response, int]:
    """Create a model at Replicate, in the account that pays, which trainings make versions of."""
    service, caller = incoming.service(), incoming.require_payer()
    with incoming.body(caller.turn) as body:
        name, new = read_destination(body)
    if service.loop.run(service.trainings.destination(caller, name)).exists:
        raise ModelExists
    try:
        service.loop.run(service.trainings.make_destination(caller, name, new))
    except InvalidRequest as refused:
        raise InvalidRequest(Problem("name", each.message) for each in refused.problems) from None
    return jsonify(resources.empty_model(name, new.visibility)), 201


def _shown(service: Runtime, work: Work | Stored) -> Response:
    record = service.loop.run(service.generations.record(work))
    address, logs = incoming.address(), None
    if not record.has_ended:
        logs = service.loop.run(service.generations.describe(work, address)).get("logs")
    return jsonify(training(record, address, logs=logs))


def _facts(call: TrainingCall, trainer: Trainer) -> DoorFacts:
    return DoorFacts(
        target=call.trainer,
        input=shown_input(call.input, trainer.inputs.secrets),
        webhook=call.webhook,
        webhook_events=call.webhook_events,
    )


def _refusal(invalid: InvalidRequest, names: Names) -> Exception:
    """The error of a training that cannot be, with the fields of this door. A missing destination is Replicate's."""
    if any(each.field == "destination" and each.message == MISSING for each in invalid.problems):
        return NotFound(_NO_DESTINATION)
    return InvalidRequest(names.at_replicate(each) for each in invalid.problems)
