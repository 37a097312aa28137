"""The routes to read and cancel work: generations and batches by id, the list, events and usage."""

import json
import queue
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

import structlog
from flask import Blueprint, Response, g, jsonify, request

from api import incoming, lists, roles
from api.usage_csv import usage_as_csv
from auth import Principal
from contract.ids import is_prediction_id
from errors import NotFound
from generations import views
from generations.archive import Stored
from generations.batch import Batch, Work
from generations.events import Subscription
from ledger import Period
from parsing.queries import (
    Owner,
    cursor,
    parse_list,
    parse_owner,
    parse_places,
    parse_usage,
    place_cursor,
)
from service import Runtime

_STILL_HERE: Final = 15.0
"""Seconds between the comments that keep a silent connection open through proxies."""

log = structlog.get_logger("http")

routes = Blueprint("generations", __name__)


@routes.get("/generations/<target>")
def generation(target: str) -> Response:
    """A generation: its state, or its result."""
    return looked_up(incoming.authenticate(), _of_kind("gen", target))


@routes.get("/batches/<target>")
def batch(target: str) -> Response:
    """A batch, with the results so far."""
    return looked_up(incoming.authenticate(), _of_kind("batch", target))


@routes.delete("/generations/<target>")
def cancel_generation(target: str) -> Response:
    """Cancel a generation. One that has ended does not change."""
    return cancelled(roles.require_change(), _of_kind("gen", target))


@routes.delete("/batches/<target>")
def cancel_batch(target: str) -> Response:
    """Cancel the unfinished generations of a batch."""
    return cancelled(roles.require_change(), _of_kind("batch", target))


@routes.get("/generations")
def generations() -> Response:
    """The caller's generations, the latest first."""
    service, principal = incoming.service(), incoming.authenticate()
    query = lists.query()
    page = parse_list(query, service.context.registry, owner_of(query, principal))
    # One more shows whether there is a next page.
    one_more = replace(page, limit=page.limit + 1, training=False)
    records = service.loop.run(service.generations.page(one_more))
    return lists.page(
        "generations",
        records,
        page.limit,
        view=partial(views.generation, address=incoming.address()),
        cursor=lambda record: cursor(record.seq or 0),
    )


@routes.get("/batches")
def batches() -> Response:
    """The caller's batches, the latest first, without the results."""
    service, principal = incoming.service(), incoming.authenticate()
    query = lists.query()
    limit, before = parse_places(query, "key")
    owner = owner_of(query, principal)
    found = service.loop.run(
        service.generations.batches(owner.caller_id, owner.key_name, limit=limit + 1, before=before)
    )
    return lists.page(
        "batches",
        found,
        limit,
        view=views.listed_batch,
        cursor=lambda batch: place_cursor(batch.record.accepted_at, batch.record.id),
    )


@routes.get("/generations/<target>/events")
def events(target: str) -> Response:
    """The events of a generation (server-sent events)."""
    return stream_of(incoming.authenticate(), _of_kind("gen", target))


def stream_of(principal: Principal, work_id: str) -> Response:
    """The events of the generation or training with this id."""
    service, address = incoming.service(), incoming.address()
    generations = service.generations
    work = service.loop.run(generations.get(work_id, principal))
    leave = incoming.limits().listeners.take(principal.id, retry_after=service.seconds_per_release)
    try:
        following = generations.subscribe(work, address, detach=principal.may_change)
        subscription = service.loop.run(following)
    except BaseException:
        leave()
        raise
    response = Response(_events(subscription), mimetype="text/event-stream")
    gone = service.loop.on_disconnect(incoming.connection(), partial(subscription.events.put, None))
    response.call_on_close(leave)
    response.call_on_close(gone.cancel)
    response.call_on_close(lambda: service.loop.run(generations.unsubscribe(subscription)))
    return response


@routes.get("/usage")
def usage() -> Response:
    """The number and cost of generations: all for the admin, their own for users."""
    service, principal = incoming.service(), incoming.authenticate()
    query = parse_usage(lists.query())
    period = Period(
        simulated=service.settings.REPLICATE_SIMULATE,
        caller_id=None if principal.sees_all else principal.id,
        since=query.since,
        until=query.until,
    )
    groups, total = service.loop.run(service.generations.usage(period, by=query.group_by))
    figures = [{**each, "usd": round(each["usd"], 6)} for each in (*groups, total)]
    if request.accept_mimetypes.best_match(("application/json", "text/csv")) == "text/csv":
        return Response(usage_as_csv(figures[:-1]), content_type="text/csv; charset=utf-8")
    return jsonify({**query.as_json(), "usage": figures[:-1], "total": figures[-1]})


def looked_up(principal: Principal, work_id: str) -> Response:
    """The work with this id, in any state."""
    service = incoming.service()
    return described(service, service.loop.run(service.generations.get(work_id, principal)))


def cancelled(principal: Principal, work_id: str) -> Response:
    """Cancel the work with this id, and show it. Work that has ended does not change."""
    service = incoming.service()
    work = service.loop.run(service.generations.cancel(work_id, principal, roles.actor()))
    log.info("cancelled", request=g.request_id, target=work_id, batch=isinstance(work, Batch))
    return described(service, work)


def described(service: Runtime, work: Work | Stored) -> Response:
    """The body of work in any state."""
    return jsonify(service.loop.run(service.generations.describe(work, incoming.address())))


def owner_of(query: Mapping[str, str], principal: Principal) -> Owner:
    """Whose work a list is to show."""
    return parse_owner(
        query.get("key"), own_id=principal.id, own_name=principal.name, sees_all=principal.sees_all
    )


def _of_kind(kind: str, target: str) -> str:
    if not (target.startswith(f"{kind}_") or (kind == "gen" and is_prediction_id(target))):
        raise NotFound("No generation or batch has this id.")
    return target


def _events(subscription: Subscription) -> Iterator[str]:
    while True:
        try:
            event = subscription.events.get(timeout=_STILL_HERE)
        except queue.Empty:
            yield ": still here\n\n"
            continue
        if event is None:
            return
        yield f"event: {event.name}\ndata: {json.dumps(event.data)}\n\n"
        if event.is_last:
            return
