"""The routes of trainings: begin one, read, list, follow and cancel it, and get its weights.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, jsonify, request

from api import files, generations, incoming, lists, roles, training_images
from api.responses import no_content
from auth import Caller
from catalog.references import Upload
from catalog.trainers import Trainer
from contract.door_facts import DoorFacts
from contract.ids import TRAINING_KIND, is_training_id
from contract.trainings import TRAINING
from datasets.examine import Dataset
from datasets.refusals import LARGEST
from errors import NotFound, Problem
from files.scratch import scratch_directory
from generations import training_views
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.budgets import check_cost
from generations.idempotency import KeyRequest
from generations.submission import BodyFingerprint, ledger_key
from generations.training_service import Destination
from parsing.hidden import with_hashes
from parsing.params import INPUT
from parsing.queries import cursor, parse_list
from parsing.shapes import GenerationRequest
from parsing.training_form import NamedFile, read_training_form
from parsing.trainings import IMAGES, NewDestination, parse_training, requested_trainer
from parsing.validation import refuse, refuse_if_any
from service import Runtime

routes = Blueprint("trainings", __name__)

_MOST_BYTES: Final = LARGEST + 4 * 2**20
"""The most bytes of a form, with its texts."""


@dataclass(frozen=True, slots=True)
class SentTraining:
    """The body of a request for a training, and its files if it is a form. `directory` is deleted with the request."""

    body: Mapping[str, Any]
    files: tuple[NamedFile, ...]
    directory: Path


@routes.post("/trainings")
def create_training() -> Response:
    """Begin a training, or forecast its cost."""
    service, caller = incoming.service(), incoming.require_payer()
    with (
        incoming.limits().submitting.held(caller.turn, retry_after=service.seconds_per_release),
        scratch() as directory,
        _sent(caller, directory) as sent,
    ):
        name = requested_trainer(sent.body)
        trainer = None if name is None else found_trainer(service, caller, name)
        made = begun(service, caller, sent, trainer, key=incoming.idempotency_key())
    if isinstance(made, Response):
        return made
    response = generations.described(service, made)
    response.status_code = 202
    response.headers["Location"] = f"{incoming.root()}/trainings/{made.id}"
    return response


@routes.get("/trainings")
def list_trainings() -> Response:
    """The caller's trainings, the latest first."""
    service, principal = incoming.service(), incoming.authenticate()
    query = lists.query()
    page = parse_list(query, service.context.registry, generations.owner_of(query, principal))
    found = service.loop.run(service.generations.page(replace(page, limit=page.limit + 1, training=True)))
    return lists.page(
        "trainings",
        found,
        page.limit,
        view=partial(training_views.listed, address=incoming.address()),
        cursor=lambda record: cursor(record.seq or 0),
    )


@routes.get("/trainings/<target>")
def get_training(target: str) -> Response:
    """A training: its state, its progress, and its new version."""
    return generations.looked_up(incoming.authenticate(), id_of(target))


@routes.delete("/trainings/<target>")
def cancel_training(target: str) -> Response:
    """Cancel a training. One that has ended does not change."""
    return generations.cancelled(roles.require_change(), id_of(target))


@routes.get("/trainings/<target>/events")
def training_events(target: str) -> Response:
    """The events of a training (server-sent events)."""
    return generations.stream_of(incoming.authenticate(), id_of(target))


@routes.get("/trainings/<target>/weights/<name>")
def training_weights(target: str, name: str) -> Response:
    """The weights that a training has made."""
    service, principal = incoming.service(), incoming.authenticate()
    work = service.loop.run(service.generations.get(id_of(target), principal))
    if isinstance(work, Batch) or name not in work.record().files:
        raise NotFound("This training has no such weights.")
    return files.weights(service.weights, target, name)


@routes.delete("/trainings/<target>/weights")
def delete_weights(target: str) -> Response:
    """Delete the weights of a training."""
    service, principal = incoming.service(), roles.require_change()
    work = service.loop.run(service.generations.get(id_of(target), principal))
    service.loop.run(service.trainings.delete_weights(work))
    return no_content()


def found_trainer(service: Runtime, caller: Caller, name: str) -> Trainer | str:
    """The trainer of this name, or why there is none. Raises ModelNotAllowed, and ServiceError if Replicate does not
    answer."""
    found = service.loop.run(service.trainings.trainer(name, caller), disconnect=incoming.connection())
    if isinstance(found, Trainer) and caller.key is not None and caller.key.models:
        service.core.resolver.check_key(caller, {name: found})
    return found


def begun(
    service: Runtime,
    caller: Caller,
    sent: SentTraining,
    trainer: Trainer | str | None,
    *,
    key: str | None = None,
    call: DoorFacts | None = None,
) -> Work | Stored | Response:
    """Check everything, and begin the training, or answer a dry run. `key` is the idempotency key of the request, and
    `call` has the facts of one that came by the Replicate door."""
    trainings, loop = service.trainings, service.loop
    context = incoming.context_for(caller, service.context)
    problems: list[Problem] = []
    images: Path | None = None
    with training_images.collected(problems):
        images = training_images.zip_of_form(sent.files, sent.directory) if sent.files else None
    body = {name: value for name, value in sent.body.items() if value is not None}
    if sent.files:
        body[IMAGES] = _opened(images) if images else ""
    with training_images.beside(problems):
        fields, parsed = parse_training(body, trainer, context)
    hidden = _hidden(body, parsed, service)
    if key is not None and not parsed.dry_run and not problems:
        fingerprint = incoming.fingerprint(TRAINING_KIND, hidden, context)
        if (earlier := _earlier(service, caller, key, fingerprint, parsed)) is not None:
            return earlier
    service.raise_if_draining()
    destination = loop.run(trainings.destination(caller, fields.destination))
    if (reason := destination.refusal(creates=fields.create_destination is not None)) is not None:
        problems.append(Problem("destination", reason, fields.destination))
    path, dataset = _examined(sent, images, body[IMAGES], caller, problems)
    facts = trainings.facts(parsed, fields, destination.name, dataset)
    parsed = training_images.with_captions(parsed, path, caller, context)
    parsed = replace(parsed, warned=(*parsed.warnings, *dataset.warnings))
    if parsed.dry_run:
        return jsonify(training_views.dry_run(parsed, facts, destination_exists=destination.exists))
    check_cost(parsed.bound, parsed.max_cost, where="The training")
    if not destination.exists:
        _make_destination(service, caller, parsed, destination, fields.create_destination)
    if not images:
        _, with_zip = parse_training({**body, IMAGES: _opened(path)}, trainer, context)
        parsed = replace(parsed, first=with_zip.first, given=with_zip.given)
    submission = incoming.submission(
        TRAINING_KIND, parsed, hidden, context=context, caller=caller, address=incoming.address(), key=key,
        seconds=0, door=TRAINING,
    )  # fmt: skip
    facts = facts.changed(call=None if call is None else call.as_object())
    return loop.run(service.generations.submit(replace(submission, door_facts=facts.as_json())))


def _make_destination(
    service: Runtime,
    caller: Caller,
    request: GenerationRequest,
    destination: Destination,
    new: NewDestination,
) -> None:
    """Make the destination of a training, unless the training would be refused now."""
    service.loop.run(service.generations.check_room(caller))
    service.loop.run(service.trainings.check_budget(caller, request))
    service.loop.run(service.trainings.make_destination(caller, destination.name, new))


def _examined(
    sent: SentTraining, images: Path | None, address: Any, caller: Caller, problems: list[Problem]
) -> tuple[Path, Dataset]:
    """The zip of a training, made of the files of its form or at an `address`, and its content. Raises InvalidRequest
    with its problems and those that were found before."""
    if sent.files and images is None:
        refuse(problems)
    with training_images.beside(problems):
        path = images or training_images.zip_at(address, sent.directory, caller)
        dataset = training_images.examined(path, caller)
    refuse_if_any(problems)
    return path, dataset


def _earlier(
    service: Runtime, caller: Caller, key: str, fingerprint: BodyFingerprint, request: GenerationRequest
) -> Work | Stored | None:
    """The training that the same request began before. Raises IdempotencyConflict and LedgerDown."""
    kept = ledger_key(key, simulated=service.settings.REPLICATE_SIMULATE) or ""
    found = service.generations.keys.known(caller.id, [KeyRequest(kept, fingerprint, "")])
    work_id = service.loop.run(found).get(kept)
    if work_id is None:
        return None
    return service.loop.run(service.generations.find(work_id, caller, request))


def _hidden(body: Mapping[str, Any], request: GenerationRequest, service: Runtime) -> dict[str, Any]:
    """The body with a keyed hash in place of each secret, since a digest of it is written to the ledger."""
    secrets, keyed = request.model.inputs.secrets, service.authenticator.keyed_hash
    return {**body, INPUT: with_hashes(body.get(INPUT, {}), secrets, keyed)}


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for the images of this request, which is deleted with it. Raises LedgerDown."""
    spool = incoming.service().uploads_dir
    with ExitStack() as stack:
        with training_images.stored():
            if spool is not None:
                spool.mkdir(mode=0o700, exist_ok=True)  # it may have been deleted
            directory = stack.enter_context(scratch_directory(spool))
        yield directory


@contextmanager
def _sent(caller: Caller, directory: Path) -> Iterator[SentTraining]:
    """The body of this request, with its files on disk. Raises the error of a body that cannot be used."""
    if request.mimetype != "multipart/form-data":
        with incoming.body(caller.turn) as body:
            yield SentTraining(body, (), directory)
        return
    request.max_content_length = _MOST_BYTES
    with training_images.stored(), incoming.unreadable():
        form = read_training_form(request.stream, options=request.mimetype_params, directory=directory)
    yield SentTraining(form.fields, tuple(form.files), directory)


def _opened(path: Path) -> Upload:
    return Upload(path.open("rb"))


def id_of(target: str) -> str:
    """The id of a training in a path. Raises NotFound if it is no such id."""
    if not is_training_id(target):
        raise NotFound("No training has this id.")
    return target
