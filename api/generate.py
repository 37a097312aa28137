"""The routes that create a generation or a batch, or forecast one.

All functions run in a Flask thread, inside a request.
"""

from contextlib import ExitStack

from flask import Blueprint, Response

from api import incoming, request_files, responses, submissions
from auth import Caller
from generations.submission import Submission
from parsing.batch import parse_batch
from parsing.generation import parse_generation

routes = Blueprint("generate", __name__)


@routes.post("/generate")
def generate() -> Response:
    """Create a generation and respond when it has ended, or earlier as `Prefer` says; or forecast it."""
    service, caller = incoming.service(), incoming.require_payer()
    preference = incoming.preference()
    with incoming.quota(preference).held(caller.turn, retry_after=service.seconds_per_release):
        return responses.of_call(service, _generation_of(caller, preference), preference)


@routes.post("/generate-batch")
def generate_batch() -> Response:
    """Create a batch and respond with all results in input order, or stream each when it is ready; or forecast it."""
    service, caller = incoming.service(), incoming.require_payer()
    preference = incoming.preference()
    with ExitStack() as place:
        place.callback(incoming.take_place(caller, preference))
        response = responses.of_batch(service, _batch_of(caller, preference), preference)
        response.call_on_close(place.pop_all().close)
    return response


def _generation_of(caller: Caller, preference: incoming.Preference) -> Submission | Response:
    """The requested generation, or the response to a dry run. The body is released from memory on return."""
    terms = submissions.terms(caller, preference.seconds)
    with incoming.body(caller.turn, forms=True) as body:
        context = incoming.context(body, caller)
        parsed = parse_generation(request_files.with_files(body, context, caller), context)
        return submissions.of_generation(parsed, body, context, terms, is_token_checked=caller.is_proven)


def _batch_of(caller: Caller, preference: incoming.Preference) -> Submission | Response:
    """The requested batch with its plan, or the response to a dry run. The body is released from memory on return."""
    terms = submissions.terms(caller, preference.seconds)
    with incoming.body(caller.turn, forms=True) as body, incoming.turn_for(body, caller.turn):
        context = incoming.context(body, caller)
        parsed = parse_batch(request_files.with_files(body, context, caller), context)
        return submissions.of_batch(parsed, body, context, terms)
