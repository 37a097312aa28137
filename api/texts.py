"""The routes of calls to text models: chats, structured output and stories, single and in batches.

A call becomes a generation, and a batch a batch, as from `POST /generate` and `/generate-batch`. All functions run in a
Flask thread, inside a request.
"""

from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, jsonify, request

from api import incoming, request_files, responses, text_streams
from api.item_keys import item_keys as item_keys_of
from api.text_callers import sent_call, text_context
from auth import Caller
from contract.tasks import CHAT, STORY, STRUCTURED
from errors import InvalidRequest, Problem
from generations import views
from generations.submission import Submission
from parsing.shapes import BatchRequest
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


def route_of(service: Runtime, task: str) -> TextRoute:
    """The route of a task, with the defaults of the settings."""
    settings = service.settings
    if task == CHAT:
        return TextRoute.of(task, settings.GEMINI_CHAT_MODEL, settings.GEMINI_CHAT_TOKENS)
    return TextRoute.of(task, settings.GEMINI_STRUCTURED_MODEL, settings.GEMINI_STRUCTURED_TOKENS)


def _single(task: str) -> Response:
    service, preference = incoming.service(), incoming.preference()
    with sent_call(forms=True) as (fields, caller):
        leave = incoming.quota(preference).take(caller.turn, retry_after=service.seconds_per_release)
        try:
            streams = _streams(fields) if task == CHAT else False
            submission = _call_of(service, caller, task, fields, None if streams else preference.seconds)
        except BaseException:
            leave()
            raise
    try:
        if isinstance(submission, Response):
            response = submission
        elif streams:
            response = text_streams.stream(service, submission, incoming.connection())
        else:
            work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
            response = responses.answer(service, work, submission.address, preference)
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


def _batch(task: str) -> Response:
    service, preference = incoming.service(), incoming.preference()
    with sent_call(forms=True) as (fields, caller):
        leave = incoming.quota(preference).take(caller.turn, retry_after=service.seconds_per_release)
        try:
            submission = _batch_of(service, caller, task, fields, preference.seconds)
        except BaseException:
            leave()
            raise
    try:
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
    address, key = incoming.address(), incoming.idempotency_key()
    route = route_of(service, task)
    translated = route.single(fields)
    sent = translated.body
    context = text_context(sent, caller)
    parsed = route.parse(request_files.with_files(sent, context, caller), context, translated.problems)
    if parsed.dry_run:
        batch = BatchRequest([parsed], semaphore=parsed.semaphore)
        forecast = service.loop.run(service.generations.forecast(batch, caller))
        return jsonify(views.dry_run(parsed, forecast, is_token_checked=True))
    return incoming.submission(
        "gen",
        parsed,
        sent,
        context=context,
        caller=caller,
        address=address,
        key=key,
        seconds=seconds,
        door=task,
    )


def _batch_of(
    service: Runtime, caller: Caller, task: str, fields: Any, seconds: float | None
) -> Submission | Response:
    """The requested batch with its plan, or the response to a dry run."""
    address, key = incoming.address(), incoming.idempotency_key()
    route = route_of(service, task)
    translated = route.batch(fields)
    sent = translated.body
    context = text_context(sent, caller)
    with incoming.turn_for(sent, caller.turn):
        parsed = route.parse_batch(
            request_files.with_files(sent, context, caller), context, translated.problems
        )
        item_keys = item_keys_of(parsed, sent, context, beside=key)
        may_exist = key is not None and not parsed.dry_run
        joined = (
            {}
            if may_exist or not item_keys
            else service.loop.run(service.generations.joined(item_keys, caller))
        )
        planned = parsed.without(joined) if joined else parsed
        forecast = service.loop.run(service.generations.forecast(planned, caller, may_exist=may_exist))
        if parsed.dry_run:
            return jsonify(views.forecast(len(parsed.requests), forecast, joined))
        submission = incoming.submission(
            "batch", parsed, sent, context=context, caller=caller, address=address, key=key, seconds=seconds,
            plan=forecast.plan, door=task,
        )  # fmt: skip
    return replace(submission, item_keys=item_keys)
