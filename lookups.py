"""The routes of what is on record: generations and batches by id, a caller's list, events, usage; and where Replicate
tells how a prediction ended."""

import json
import queue
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import structlog
from flask import Blueprint, Response, g, jsonify, request

import asked
import waiting
from errors import NotFound
from events import Listener
from lookup import Page
from parsing.queries import cursor, each_once, parse_list, parse_usage
from records import Batch
from telling import Recorded

_STILL_HERE: Final = 15.0
"""Seconds after which a comment shows a listener, and everything in between, that the line is alive."""

log = structlog.get_logger("http")

blueprint = Blueprint("lookups", __name__)


@blueprint.get("/generations/<target>")
def generation(target: str) -> Response:
    """How a generation stands, or how it ended."""
    return _standing("gen", target)


@blueprint.get("/batches/<target>")
def batch(target: str) -> Response:
    """How a batch stands, with what has ended of it."""
    return _standing("batch", target)


@blueprint.delete("/generations/<target>")
def cancel_generation(target: str) -> Response:
    """Cancel a generation; one that has ended stays as it ended."""
    return _cancelled("gen", target)


@blueprint.delete("/batches/<target>")
def cancel_batch(target: str) -> Response:
    """Cancel what has not ended of a batch."""
    return _cancelled("batch", target)


@blueprint.get("/generations")
def generations() -> Response:
    """The caller's own generations, the latest first."""
    service, visitor = asked.service(), asked.visitor()
    wanted = parse_list(_query(), asked.service().registry)
    page = Page(visitor.id, wanted.limit + 1, wanted.state, wanted.model, wanted.since, wanted.before)
    rows = service.lookup.page(page)
    told = rows[: wanted.limit]
    more = cursor(told[-1]["seq"]) if len(rows) > len(told) else None
    recorded = (Recorded.of(row) for row in told)
    view = asked.view()
    return jsonify(
        {
            "generations": [each.result(view) if each.has_ended else each.told(view) for each in recorded],
            "next_cursor": more,
        }
    )


@blueprint.get("/generations/<target>/events")
def events(target: str) -> Response:
    """What happens to a generation, as it happens (server-sent events)."""
    service, visitor, view = asked.service(), asked.visitor(), asked.view()
    work = service.reception.find(_of_kind("gen", target), visitor)
    service.listener_seats.take(retry_after=service.seconds_per_release)
    try:
        listener = service.reception.listen(work, view)
    except BaseException:
        service.listener_seats.leave()
        raise
    response = Response(_events(listener), mimetype="text/event-stream")
    gone = waiting.until_gone(service.loop, asked.connection(), partial(listener.news.put, None))
    response.call_on_close(service.listener_seats.leave)
    response.call_on_close(gone.cancel)
    response.call_on_close(partial(service.reception.unlisten, listener))
    return response


@blueprint.get("/usage")
def usage() -> Response:
    """What was made and what it cost: of everybody for the admin, of their own for users."""
    visitor = asked.visitor()
    return jsonify(asked.service().reception.usage(parse_usage(_query()), visitor))


@blueprint.post("/webhooks/replicate")
def told_by_replicate() -> Response:
    """Replicate tells how a prediction ended."""
    asked.service().reception.told_by_replicate(
        request.args.get("generation", ""),
        request.args.get("attempt", ""),
        dict(request.headers),
        asked.bytes_of_body,
    )
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


def _standing(kind: str, target: str) -> Response:
    service, visitor = asked.service(), asked.visitor()
    return jsonify(
        service.reception.standing(service.reception.find(_of_kind(kind, target), visitor), asked.view())
    )


def _cancelled(kind: str, target: str) -> Response:
    service, visitor = asked.service(), asked.visitor()
    work = service.reception.cancel(_of_kind(kind, target), visitor)
    log.info("cancelled", request=g.request_id, target=target, batch=isinstance(work, Batch))
    return jsonify(service.reception.standing(work, asked.view()))


def _query() -> dict[str, str]:
    return each_once(request.args.to_dict(flat=False))


def _of_kind(kind: str, target: str) -> str:
    if not target.startswith(f"{kind}_"):
        raise NotFound("There is nothing by that id.")
    return target


def _events(listener: Listener) -> Iterator[str]:
    while True:
        try:
            event = listener.news.get(timeout=_STILL_HERE)
        except queue.Empty:
            yield ": still here\n\n"
            continue
        if event is None:
            return
        yield f"event: {event.name}\ndata: {_line(event.data)}\n\n"
        if event.is_last:
            return


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data)
