"""Responses to submitted work: its result once it has ended, 202 while it runs, a problem if it failed.

All functions run in a Flask thread, inside a request.
"""

import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from flask import Request, Response, g, jsonify, request

from api import incoming
from errors import ShuttingDown
from generations import views
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.service import HandedOver
from generations.submission import Submission
from ledger.records import GenerationRecord
from loop_thread import ClientDisconnected, result
from service import Runtime

NDJSON: Final = "application/x-ndjson"


def no_content() -> Response:
    """204: success, and nothing to say. Flask would add a type to the missing content."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def wants_lines(request: Request) -> bool:
    """Whether the caller prefers a stream of one line per result to one JSON document."""
    lines = (NDJSON, f"{NDJSON}; charset=utf-8")
    return request.accept_mimetypes.best_match(["application/json", *lines]) in lines


def answer(service: Runtime, work: Work | Stored, address: str, preference: incoming.Preference) -> Response:
    """The response to a submission. Raises the error of a single generation that failed."""
    if not work.has_ended:
        response = jsonify(service.loop.run(service.generations.describe(work, address)))
        response.status_code = 202
        kind = "batches" if isinstance(work, Batch) else "generations"
        response.headers["Location"] = f"{incoming.root()}/{kind}/{work.id}"
    elif isinstance(work, Batch):
        response = jsonify(work.result(address))
    else:
        record = work.record()
        raise_if_failed(record, address)
        response = jsonify(views.generation(record, address))
    if preference.applied and (response.status_code == 202 or preference.seconds):
        response.headers["Preference-Applied"] = preference.applied
    return response


def of_call(service: Runtime, submission: Submission | Response, preference: incoming.Preference) -> Response:
    """The response to the submission of one generation or a batch, which may be that to a dry run already. Raises as
    `answer`, and errors of submission."""
    if isinstance(submission, Response):
        return submission
    work = service.loop.run(service.generations.submit(submission), disconnect=incoming.connection())
    return answer(service, work, submission.address, preference)


def of_batch(
    service: Runtime, submission: Submission | Response, preference: incoming.Preference
) -> Response:
    """The response to the submission of a batch, in lines if the caller prefers them. Raises as `of_call`."""
    if isinstance(submission, Submission) and wants_lines(request) and preference.seconds is None:
        return stream(service, submission, incoming.connection())
    return of_call(service, submission, preference)


def refusal(handed_over: HandedOver, address: str) -> ShuttingDown:
    """The error for a caller whose work continues after a restart. The response also gets the id of the work."""
    work = handed_over.work
    g.beside_the_error = {"id": work.id} if isinstance(work, Batch) else views.facts(work.record(), address)
    return handed_over.error


def stream(service: Runtime, submission: Submission, connection: Any) -> Response:
    """A stream of one line per result as soon as it is ready, then the summary. Raises errors of submission."""
    ended: queue.SimpleQueue[tuple[Batch, int] | None] = queue.SimpleQueue()
    submitted = service.generations.submit(
        submission, on_item_done=lambda batch, index: ended.put((batch, index))
    )
    future = service.loop.submit(submitted, disconnect=connection)
    future.add_done_callback(lambda _: ended.put(None))
    first = _next(ended)
    if first is None and not (batch := _batch(future)).has_ended:
        raise HandedOver(batch, ShuttingDown())

    def lines() -> Iterator[str]:
        news = first
        while news is not None:
            batch, index = news
            yield json.dumps(batch.item(index, submission.address)) + "\n"
            news = _next(ended)
        with suppress(ClientDisconnected):
            yield json.dumps(_summary(future)) + "\n"

    response = Response(lines(), mimetype=NDJSON)
    response.call_on_close(
        future.cancel
    )  # not in `lines`, which never runs if it is closed before the first line
    return response


def _next(ended: "queue.SimpleQueue[tuple[Batch, int] | None]") -> tuple[Batch, int] | None:
    """The next item that has ended, skipping interrupted ones; None after the last."""
    while (news := ended.get()) is not None:
        batch, index = news
        if batch.items[index].has_ended:
            return news
    return None


def _batch(future: "Future[Work | Stored]") -> Batch:
    """The submitted batch, once it has ended or the service stops."""
    try:
        work = result(future)
    except HandedOver as handed_over:
        work = handed_over.work
    assert isinstance(work, Batch)  # noqa: S101 - what a batch's key stands for
    return work


def _summary(future: "Future[Work | Stored]") -> dict[str, Any]:
    batch = _batch(future)
    body = batch.summary()
    if not batch.has_ended:
        body["error"] = ShuttingDown().as_item()
    return body


def raise_if_failed(record: GenerationRecord, address: str) -> None:
    """Raise the error of a generation that failed. The response also gets the facts of the generation."""
    error = views.error(record)
    if error is not None and not record.placeholder:
        g.beside_the_error = views.beside_error(record, address)
        raise error
