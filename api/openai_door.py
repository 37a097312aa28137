"""The routes of the door for OpenAI's clients: `/v1/images/generations`, `/v1/images/edits` and `/v1/models`. That for
chats is in `chat_door.py`.

A call becomes a generation, or a batch of several, as from `POST /generate`. All functions run in a Flask thread,
inside a request.
"""

import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import closing
from itertools import compress

from flask import Blueprint, Response, g, jsonify, request

from api import deliveries, incoming, request_files, responses
from api.files import kept_file
from api.models import found_model
from auth import Caller
from doors import OPENAI_ROOT
from doors.openai import catalogue, results
from doors.openai.errors import as_called
from doors.openai.images import became_of_images
from doors.openai.requests import FORM_NAMES, Call, renamed, translated, wait_seconds
from doors.openai.results import Picture
from errors import InvalidRequest, StillRunning
from errors.content import ContentRefused
from generations import views
from generations.archive import Stored
from generations.batch import Work, items_of
from generations.lost_calls import DOOR, call_of
from generations.submission import Submission
from ledger.records import GenerationRecord
from parsing.batch import parse_batch
from parsing.generation import parse_generation
from parsing.shapes import BatchRequest, GenerationRequest
from service import Runtime

routes = Blueprint("openai_door", __name__, url_prefix=OPENAI_ROOT)


@routes.post("/images/generations")
def generate_images() -> Response:
    """Make pictures, and respond when they are there."""
    return _images(edits=False)


@routes.post("/images/edits")
def edit_images() -> Response:
    """Edit pictures, and respond when that is done."""
    return _images(edits=True)


@routes.get("/models")
def list_models_of_door() -> Response:
    """The declared models that make pictures, and the text models, which the caller may run."""
    service, caller = incoming.service(), incoming.authenticate().caller
    pictures = filter(catalogue.may_make_images, service.context.registry.models)
    models = [
        each
        for each in (*pictures, *service.context.texts.models)
        if caller is None or service.core.resolver.may_run(caller, each)
    ]
    return jsonify({"object": "list", "data": [catalogue.entry(each) for each in models]})


@routes.get("/models/<path:name>")
def get_model_of_door(name: str) -> Response:
    """One model, by its name or alias."""
    incoming.authenticate()
    return jsonify(catalogue.entry(incoming.service().context.texts.find(name) or found_model(name)))


def _images(*, edits: bool) -> Response:
    service, caller = incoming.service(), incoming.require_payer()
    place = incoming.quota(incoming.WAITS).held(caller.turn, retry_after=service.seconds_per_release)
    with deliveries.refusals(service, caller.id), place:
        call, submission = _call(service, caller, edits=edits)
        work = _work(service, submission)
    return _answer(call, work, submission.address, edits=edits)


def _work(service: Runtime, submission: Submission) -> Work | Stored:
    """The work of a call, once it has ended. Raises StillRunning before the client stops waiting."""
    if submission.key is not None:
        waiting = service.generations.submit(submission)
    else:
        waiting = service.core.lost_calls.call(submission, number=deliveries.number())
    work = service.loop.run(waiting, disconnect=incoming.connection())
    if not work.has_ended:
        raise StillRunning
    if submission.key is None:
        deliveries.watch(service, call_of(work, submission))
    return work


def patience() -> float | None:
    """Seconds from now until this request is answered although its work still runs; None without a limit."""
    seconds = wait_seconds(request.headers.get("x-stainless-read-timeout"))
    return None if seconds is None else max(0.0, seconds - (time.perf_counter() - g.began))


def _call(service: Runtime, caller: Caller, *, edits: bool) -> tuple[Call, Submission]:
    """The call, and its submission. The body is released from memory on return. Raises InvalidRequest."""
    address, key = incoming.address(), incoming.idempotency_key()
    with incoming.body(caller.turn, forms=edits, names=FORM_NAMES) as body:
        fields = renamed(body)
        context = incoming.context(fields, caller)
        catalogue.refuse_others(fields, context.find)
        fingerprint = incoming.fingerprint(request.path, fields, context).current if key is None else None
        model = context.find(str(fields.get("model_name")))
        default = service.settings.OPENAI_RESPONSE_FORMAT
        try:
            call = translated(fields, model, default=default, edits=edits)
            sent = request_files.with_files(call.body, context, caller)
            parsed: GenerationRequest | BatchRequest = (
                parse_batch(sent, context) if call.is_batch else parse_generation(sent, context)
            )
        except (InvalidRequest, ContentRefused) as refused:
            images = became_of_images(model, fields) if edits else None
            raise refused.about(as_called(refused.problems, images)) from None
        plan = None
        if isinstance(parsed, BatchRequest):
            plan = service.loop.run(service.generations.forecast(parsed, caller)).plan
        return call, incoming.submission(
            "batch" if call.is_batch else "gen", parsed, sent, context=context, caller=caller, address=address,
            key=key, seconds=patience(), plan=plan, door=DOOR, door_fingerprint=fingerprint,
        )  # fmt: skip


def _answer(call: Call, work: Work | Stored, address: str, *, edits: bool) -> Response:
    """The response to a call with ended work. Raises the error of the first generation if none has a picture."""
    records = [each.record() for each in items_of(work)]
    bodies = [views.generation(each, address) for each in records]
    made = [each.error is None or each.placeholder for each in records]
    if not any(made):
        responses.raise_if_failed(records[0], address)
    with_content = call.streams or call.response_format == "b64_json"
    pictures = [
        picture
        for record, body in compress(zip(records, bodies, strict=True), made)
        for picture in _pictures(record, body["files"], with_content=with_content)
    ]
    found = results.images(call, work.id, bodies, pictures, created=records[0].accepted_at)
    if call.streams:
        events = "".join(results.events(call, found, pictures, edits=edits))
        return Response(events, mimetype="text/event-stream")
    return jsonify(found)


def _pictures(record: GenerationRecord, links: Sequence[str], *, with_content: bool) -> Sequence[Picture]:
    """The pictures of a generation: the kept files, which have these links, or Replicate's outputs if none is kept."""
    if not links:
        return [Picture(each) for each in record.outputs if isinstance(each, str)]
    return [
        Picture(link, _content(record.id, name) if with_content else None)
        for name, link in zip(record.files, links, strict=True)
    ]


def _content(generation_id: str, name: str) -> str | None:
    """A kept file in base64; None if it is not kept any more."""
    if name.startswith("data:"):
        return name.partition(",")[2]
    opened = kept_file(generation_id, name)
    if opened is None:
        return None
    with closing(opened):
        return b64encode(opened.content()).decode()
