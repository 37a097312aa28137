"""The routes of calls to text models: chats, structured output and stories, single and in batches.

A call becomes a generation, and a batch a batch, as from `POST /generate` and `/generate-batch`. All functions run in a
Flask thread, inside a request.
"""

from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response

from api import incoming, request_files, responses, submissions, text_streams
from api.text_callers import sent_call, text_context
from auth import Caller
from contract.tasks import CHAT, STORY, STRUCTURED
from errors import InvalidRequest, Problem
from generations.submission import Submission
from parsing.texts import TextRoute
from service import Runtime

routes = Blueprint("texts", __name__)


@routes.post("/chat")
def chat() -> Response:
    """Answer a prompt, or a conversation; with `stream`, in pieces as they come."""
    return _single(CHAT)


@routes.post("/structured-output")
def structured_output() -> Response:
    """Answer with JSON that fits the caller's schema."""
    return _single(STRUCTURED)


@routes.post("/cinematic-story-design")
def cinematic_story_design() -> Response:
    """Design a story with characters, chapters and scenes."""
    return _single(STORY)


@routes.post("/batch/chat")
def batch_chat() -> Response:
    """Answer several prompts."""
    return _batch(CHAT)


@routes.post("/batch/structured-output")
def batch_structured_output() -> Response:
    """Answer several times with JSON, each by a schema of its own."""
    return _batch(STRUCTURED)


@routes.post("/batch/cinematic-story-design")
def batch_cinematic_story_design() -> Response:
    """Design several stories."""
    return _batch(STORY)


def _route_of(service: Runtime, task: str) -> TextRoute:
    """The route of a task, with the defaults of the settings."""
    settings = service.settings
    if task == CHAT:
        return TextRoute.of(task, settings.GEMINI_CHAT_MODEL, settings.GEMINI_CHAT_TOKENS)
    return TextRoute.of(task, settings.GEMINI_STRUCTURED_MODEL, settings.GEMINI_STRUCTURED_TOKENS)


def _single(task: str) -> Response:
    service = incoming.service()
    with ExitStack() as place:
        with sent_call(forms=True) as (fields, caller):
            streams = _streams(fields) if task == CHAT else False
            preference = incoming.WAITS if streams else incoming.preference()
            place.callback(incoming.take_place(caller, preference))
            submission = _call_of(service, caller, task, fields, preference.seconds)
        if streams and isinstance(submission, Submission):
            response = text_streams.stream(service, submission, incoming.connection())
        else:
            response = responses.of_call(service, submission, preference)
        response.call_on_close(place.pop_all().close)
    return response


def _batch(task: str) -> Response:
    service, preference = incoming.service(), incoming.preference()
    with ExitStack() as place:
        with sent_call(forms=True) as (fields, caller):
            place.callback(incoming.take_place(caller, preference))
            submission = _batch_of(service, caller, task, fields, preference.seconds)
        response = responses.of_batch(service, submission, preference)
        response.call_on_close(place.pop_all().close)
    return response


def _streams(fields: Any) -> bool:
    """Take the field `stream` out. Raises InvalidRequest."""
    streams = fields.pop("stream", None) if isinstance(fields, dict) else None
    if not isinstance(streams, bool | None):
        raise InvalidRequest([Problem("stream", "must be true or false", streams)])
    return bool(streams)


def _call_of(
    service: Runtime, caller: Caller, task: str, fields: Any, seconds: float | None
) -> Submission | Response:
    """The requested call, or the response to a dry run."""
    terms = submissions.terms(caller, seconds, door=task)
    route = _route_of(service, task)
    translated = route.single(fields)
    context = text_context(translated.body, caller)
    sent = request_files.with_files(translated.body, context, caller)
    parsed = route.parse(sent, context, translated.problems)
    return submissions.of_generation(parsed, translated.body, context, terms, is_token_checked=True)


def _batch_of(
    service: Runtime, caller: Caller, task: str, fields: Any, seconds: float | None
) -> Submission | Response:
    """The requested batch with its plan, or the response to a dry run."""
    terms = submissions.terms(caller, seconds, door=task)
    route = _route_of(service, task)
    translated = route.batch(fields)
    context = text_context(translated.body, caller)
    with incoming.turn_for(translated.body, caller.turn):
        sent = request_files.with_files(translated.body, context, caller)
        parsed = route.parse_batch(sent, context, translated.problems)
        return submissions.of_batch(parsed, translated.body, context, terms)
