"""The routes that create a generation or a batch, or forecast one.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Mapping
from dataclasses import replace

from flask import Blueprint, Response, jsonify, request

from api import incoming, request_files, responses
from api.item_keys import item_keys as item_keys_of
from auth import Caller
from generations import views
from generations.submission import ItemKey, Submission
from parsing.batch import parse_batch
from parsing.generation import parse_generation
from parsing.shapes import BatchRequest
from service import Runtime

routes = Blueprint("generate", __name__)


@routes.post("/generate")
def generate() -> Response:
    """Create a generation and respond when it has ended, or earlier as `Prefer` says; or forecast it."""
    service, caller = incoming.service(), incoming.require_payer()
    preference = incoming.preference()
    with incoming.quota(preference).held(caller.turn, retry_after=service.seconds_per_release):
        submission = _generation_of(service, caller, preference)
        if isinstance(submission, Response):
            return submission
        work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
    return responses.answer(service, work, submission.address, preference)


@routes.post("/generate-batch")
def generate_batch() -> Response:
    """Create a batch and respond with all results in input order, or stream each when it is ready; or forecast it."""
    service, caller = incoming.service(), incoming.require_payer()
    preference = incoming.preference()
    leave = incoming.quota(preference).take(caller.turn, retry_after=service.seconds_per_release)
    try:
        submission = _batch_of(service, caller, preference)
        if isinstance(submission, Response):
            response = submission
        elif responses.wants_lines(request) and preference.seconds is None:
            response = responses.stream(service, submission, incoming.connection())
        else:
            work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
            response = responses.answer(service, work, submission.address, preference)
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _generation_of(
    service: Runtime, caller: Caller, preference: incoming.Preference
) -> Submission | Response:
    """The requested generation, or the response to a dry run. The body is released from memory on return."""
    address, key = incoming.address(), incoming.idempotency_key()
    with incoming.body(caller.turn, forms=True) as body:
        context = incoming.context(body, caller)
        wanted = parse_generation(request_files.with_files(body, context, caller), context)
        if wanted.dry_run:
            forecast = service.loop.run(
                service.generations.forecast(BatchRequest([wanted], semaphore=wanted.semaphore), caller)
            )
            return jsonify(views.dry_run(wanted, forecast, is_token_checked=caller.is_proven))
        return incoming.submission(
            "gen",
            wanted,
            body,
            context=context,
            caller=caller,
            address=address,
            key=key,
            seconds=preference.seconds,
        )


def _batch_of(service: Runtime, caller: Caller, preference: incoming.Preference) -> Submission | Response:
    """The requested batch with its plan, or the response to a dry run."""
    address, key = incoming.address(), incoming.idempotency_key()
    with incoming.body(caller.turn, forms=True) as body, incoming.turn_for(body, caller.turn):
        context = incoming.context(body, caller)
        wanted = parse_batch(request_files.with_files(body, context, caller), context)
        item_keys = item_keys_of(wanted, body, context, beside=key)
        may_exist = key is not None and not wanted.dry_run
        # Work under the key of the batch is answered as it is, whatever became of its items.
        joined = {} if may_exist else _joined(service, caller, item_keys)
        planned = wanted.without(joined) if joined else wanted
        forecast = service.loop.run(service.generations.forecast(planned, caller, may_exist=may_exist))
        if wanted.dry_run:
            return jsonify(views.forecast(len(wanted.requests), forecast, joined))
        submission = incoming.submission(
            "batch", wanted, body, context=context, caller=caller, address=address, key=key,
            seconds=preference.seconds, plan=forecast.plan,
        )  # fmt: skip
        return replace(submission, item_keys=item_keys)


def _joined(service: Runtime, caller: Caller, item_keys: Mapping[int, ItemKey]) -> Mapping[int, str]:
    """The ids of the items that are there already, by their places."""
    return service.loop.run(service.generations.joined(item_keys, caller)) if item_keys else {}
