"""The route of the door for OpenAI's clients to text models: `/v1/chat/completions`.

A call becomes a generation, as from `POST /chat`. Its client retries without an idempotency key: until the answer has
begun, a call goes on for its retry after its connection is lost (`generations/lost_calls.py`). All functions run in a
Flask thread, inside a request, except `_work` and those of `_Reader` with another thread in their docstrings.
"""

import queue
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, jsonify, request

from api import deliveries, incoming, request_files, responses
from api.openai_door import patience
from api.text_callers import sent_call, text_context
from api.text_streams import ended, streamed
from auth import Caller
from catalog.texts.runnable import CallModel
from contract.tasks import COMPLETIONS
from doors import OPENAI_ROOT
from doors.openai.chat import ChatCall, names_of_models, translated
from doors.openai.completions import Completion, is_answer, text_of
from errors import InvalidRequest, ServiceError, ShuttingDown, StillRunning
from errors.content import ContentRefused
from generations import views
from generations.archive import Stored
from generations.batch import Work
from generations.generation import Generation
from generations.lost_calls import AT_ONCE, call_of
from generations.submission import Submission
from ledger.records import GenerationRecord
from loop_thread import ClientDisconnected
from parsing.generation import parse_generation
from service import Runtime

routes = Blueprint("chat_door", __name__, url_prefix=OPENAI_ROOT)


@routes.post("/chat/completions")
def complete_chat() -> Response:
    """Answer a conversation; with `stream`, in pieces as they come."""
    service = incoming.service()
    with ExitStack() as place:
        with sent_call(forms=False) as (fields, caller), deliveries.refusals(service, caller.id):
            place.callback(incoming.take_place(caller, incoming.WAITS))
            call, submission = _call(service, caller, fields)
        response = _streamed(service, call, submission) if call.streams else _whole(service, call, submission)
        response.call_on_close(place.pop_all().close)
    return response


def _call(service: Runtime, caller: Caller, fields: Any) -> tuple[ChatCall, Submission]:
    """The call, and its submission. Raises InvalidRequest."""
    address, key = incoming.address(), incoming.idempotency_key()
    named = names_of_models(fields)
    context = text_context(named, caller)
    fingerprint = incoming.fingerprint(request.path, fields, context).current if key is None else None
    model = context.find(str(named["model_name"]))
    call = translated(
        fields,
        model if isinstance(model, CallModel) else None,
        max_output_tokens=service.settings.GEMINI_CHAT_TOKENS,
    )
    try:
        sent = request_files.with_files(call.body, context, caller)
        parsed = parse_generation(sent, context)
    except (InvalidRequest, ContentRefused) as refused:
        raise refused.about(call.as_called(refused.problems)) from None
    return call, incoming.submission(
        "gen", parsed, sent, context=context, caller=caller, address=address, key=key,
        seconds=None if call.streams else patience(), door=COMPLETIONS, door_fingerprint=fingerprint,
    )  # fmt: skip


async def _work(
    service: Runtime, submission: Submission, number: int, reader: "_Reader | None"
) -> Work | Stored:
    """The work of a call, once it has ended. Runs on the loop."""
    if submission.key is None:
        return await service.core.lost_calls.call(submission, number=number, reader=reader)
    if reader is None:
        return await service.generations.submit(submission)
    work = await service.generations.submit(replace(submission, wait_seconds=0))
    reader.begin(work)
    return await service.generations.wait(work, submission)


def _whole(service: Runtime, call: ChatCall, submission: Submission) -> Response:
    """The answer in one document. Raises StillRunning before the client stops waiting."""
    waiting = _work(service, submission, deliveries.number(), None)
    future = service.loop.submit(waiting, disconnect=incoming.connection())
    record, body = _answer(service, submission, future)
    return jsonify(_completion(call, record).document(body))


def _streamed(service: Runtime, call: ChatCall, submission: Submission) -> Response:
    """The answer in pieces. Raises the error of a call that fails before its first piece of text."""
    reader, seconds = _Reader(sure_after=AT_ONCE if deliveries.retries() else 0.0), patience()
    waiting = _work(service, submission, deliveries.number(), None if call.is_whole_at_once else reader)
    future = service.loop.submit(waiting, disconnect=incoming.connection())
    future.add_done_callback(reader.end)
    with deliveries.refusals(service, submission.caller.id):
        try:
            first = reader.first(seconds)
        except queue.Empty:
            future.cancel()  # it goes on, and is lost
            raise StillRunning from None
    if first is None:
        record, body = _answer(service, submission, future)
        found = _completion(call, record)
        events: Iterator[str] = iter(
            [found.begin(), *map(found.piece, filter(None, [text_of(body)])), *found.end(body)]
        )
    else:
        events = _events(call, submission, reader, future, first)
        if submission.key is None and reader.work is not None:
            deliveries.watch_stream(service, call_of(reader.work, submission))
    return streamed(events, future)


def _events(
    call: ChatCall,
    submission: Submission,
    reader: "_Reader",
    future: "Future[Work | Stored]",
    first: str,
) -> Iterator[str]:
    """The events of a stream that begins with the text `first`."""
    assert reader.work is not None  # noqa: S101 - its text has begun
    found = _completion(call, reader.work.record())
    yield found.begin()
    piece: str | None = first
    while piece is not None:
        yield found.piece(piece)
        piece = reader.next()
    try:
        work = ended(future)
        if not work.has_ended:
            raise ShuttingDown
        body = views.generation(work.record(), submission.address)
        if is_answer(body):
            yield from found.end(body)
        else:
            yield found.failed(body["error"])
    except ClientDisconnected:
        return
    except ServiceError as error:
        yield found.failed(error.as_item())


def _answer(
    service: Runtime, submission: Submission, future: "Future[Work | Stored]"
) -> tuple[GenerationRecord, Mapping[str, Any]]:
    """The record and the body of a call that has ended. The delivery of its answer is watched. Raises StillRunning, and
    the error of a call that has no answer."""
    with deliveries.refusals(service, submission.caller.id):
        work = ended(future)
        if not work.has_ended:
            raise StillRunning
    if submission.key is None:
        deliveries.watch(service, call_of(work, submission))
    record = work.record()
    body = views.generation(record, submission.address)
    if not is_answer(body):
        responses.raise_if_failed(record, submission.address)
    return record, body


def _completion(call: ChatCall, record: GenerationRecord) -> Completion:
    return Completion(
        id=record.id,
        created=int(record.accepted_at),
        model=record.requested_model,
        changes=call.changes,
        with_usage=call.with_usage,
    )


class _Reader:
    """The pieces of the text of one call, in the order in which they come.

    A connection that ends with the first piece may have lost it, and then a client that retries comes back. So the
    answer has begun for sure only after some seconds (`sure_after`)."""

    def __init__(self, *, sure_after: float) -> None:
        self._sure_after = sure_after
        self._began_at: float | None = None
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.work: Generation | None = None

    @property
    def answers(self) -> bool:
        """Whether the client has the first piece."""
        return self._began_at is not None and time.monotonic() - self._began_at >= self._sure_after

    def begin(self, work: Work | Stored) -> None:
        """Read the text of this work if it runs in this process. On the loop."""
        if isinstance(work, Generation):
            self.work = work
            work.follow_text(self._pieces.put)

    def end(self, _ended: object) -> None:
        """No further piece comes. In any thread."""
        self._pieces.put(None)

    def first(self, seconds: float | None) -> str | None:
        """The first piece; None if the call has ended without one. Raises queue.Empty after so many seconds."""
        piece = self._pieces.get(timeout=seconds)
        if piece is not None:
            self._began_at = time.monotonic()
        return piece

    def next(self) -> str | None:
        """The next piece; None after the end."""
        return self._pieces.get()
