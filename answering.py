"""How work is answered: by its result when it has ended, by 202 while it goes on, by a problem if it failed.

On Flask's threads, inside a request.
"""

import json
import queue
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from flask import Request, Response, g, jsonify

import asked
import waiting
from desk import LeftToTheNext, Order
from errors import ShuttingDown
from generation import RETRY_AFTER
from records import Batch, Generation, Work
from service import Service
from telling import Recorded, View

NDJSON: Final = "application/x-ndjson"


def wants_lines(request: Request) -> bool:
    """Whether its caller would rather have a line a result than one document."""
    lines = (NDJSON, f"{NDJSON}; charset=utf-8")
    return request.accept_mimetypes.best_match(["application/json", *lines]) in lines


def answer(service: Service, work: Work | Recorded, view: View, preference: asked.Preference) -> Response:
    """The answer to a request that was to be done. Raises what a single generation failed for."""
    if not work.has_ended:
        response = jsonify(service.reception.standing(work, view))
        response.status_code = 202
        kind = "batches" if isinstance(work, Batch) else "generations"
        response.headers["Location"] = f"/{kind}/{work.id}"
    else:
        if not isinstance(work, Batch):
            _raise_if_failed(work, view)
        response = jsonify(work.result(view))
    if preference.applied and (response.status_code == 202 or preference.seconds):
        response.headers["Preference-Applied"] = preference.applied
    return response


def refusal(left: LeftToTheNext, view: View) -> ShuttingDown:
    """What a caller is told whose work goes on in the next process: by which id to find it then."""
    work = left.work
    g.beside_the_error = {"id": work.id} if isinstance(work, Batch) else work.told(view)
    return left.error


def stream(service: Service, order: Order, connection: Any) -> Response:
    """A line a result, the moment it is ready, then the summary; refusals come before the first line."""
    ended: queue.SimpleQueue[tuple[Batch, int] | None] = queue.SimpleQueue()
    future = waiting.submit(
        service.loop, service.desk.follow(order, lambda batch, index: ended.put((batch, index))), connection
    )
    future.add_done_callback(lambda _: ended.put(None))
    first = _next(ended)
    if first is None and not (batch := waiting.result(future)).has_ended:
        raise LeftToTheNext(batch, ShuttingDown(retry_after=RETRY_AFTER))

    def lines() -> Iterator[str]:
        news = first
        while news is not None:
            batch, index = news
            yield json.dumps(batch.item(index, order.view)) + "\n"
            news = _next(ended)
        with suppress(waiting.CallerGone):
            yield json.dumps(_summary(future)) + "\n"

    response = Response(lines(), mimetype=NDJSON)
    response.call_on_close(future.cancel)  # not in `lines`: what is closed before its first line never runs
    return response


def _next(told: "queue.SimpleQueue[tuple[Batch, int] | None]") -> tuple[Batch, int] | None:
    """The next item that has ended, and not merely been interrupted; None after the last."""
    while (news := told.get()) is not None:
        batch, index = news
        if batch.generations[index].has_ended:
            return news
    return None


def _summary(future: Any) -> dict[str, Any]:
    batch = waiting.result(future)
    told: dict[str, Any] = batch.summary()
    if not batch.has_ended:
        told["error"] = ShuttingDown(retry_after=RETRY_AFTER).as_item()
    return told


def _raise_if_failed(work: Generation | Recorded, view: View) -> None:
    if work.error is not None and not work.placeholder:
        g.beside_the_error = work.told(view)
        raise work.error
