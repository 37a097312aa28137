"""Answers to chats as streams of events (Server-Sent Events): each piece of the text as it comes, then the answer."""

import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from flask import Response

from api import responses
from errors import ServiceError, ShuttingDown
from generations import views
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.service import HandedOver
from generations.submission import Submission
from loop_thread import ClientDisconnected, result
from service import Runtime


def stream(service: Runtime, submission: Submission, connection: Any) -> Response:
    """The stream of a chat. Raises errors of submission, and of a call that fails before its first piece of text."""
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    submitted = service.generations.submit(submission, on_delta=pieces.put)
    future = service.loop.submit(submitted, disconnect=connection)
    future.add_done_callback(lambda _: pieces.put(None))
    first = pieces.get()
    if first is None:
        _raise_if_failed(future, submission.address)

    def events() -> Iterator[str]:
        piece = first
        while piece is not None:
            yield _event({"delta": piece})
            piece = pieces.get()
        try:
            record = ended(future).record()
            error = views.error(record)
            if error is None:
                yield _event(views.generation(record, submission.address))
            else:
                yield _event(views.beside_error(record, submission.address) | error.as_item(), "error")
        except ClientDisconnected:
            return
        except ServiceError as error:
            yield _event(error.as_item(), "error")

    return streamed(events(), future)


def streamed(events: Iterator[str], future: "Future[Work | Stored]") -> Response:
    """The response with these events of the call, which is cancelled if the response is closed before its end."""
    response = Response(events, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(future.cancel)
    return response


def _event(data: Any, name: str | None = None) -> str:
    """One event of a stream."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n"


def ended(future: "Future[Work | Stored]") -> Any:
    """The work of a call, once it has ended. Raises the error of its submission, ShuttingDown and
    ClientDisconnected."""
    try:
        work = result(future)
    except HandedOver as handed_over:
        raise handed_over.error from None
    assert not isinstance(work, Batch)  # noqa: S101 - it is one call
    return work


def _raise_if_failed(future: "Future[Work | Stored]", address: str) -> None:
    work = ended(future)
    if not work.has_ended:
        raise ShuttingDown
    responses.raise_if_failed(work.record(), address)
