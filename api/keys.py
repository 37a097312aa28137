"""The routes of named keys. Administrators make and change them, viewers list them, and each key may look at itself."""

import time
from typing import Any

import structlog
from flask import Blueprint, Response, g, jsonify

from api import incoming, lists, roles
from api.responses import no_content
from generations.keys import NamedKeys, view
from parsing.keys import parse_changes, parse_key, parse_rotation
from parsing.queries import parse_places, place_cursor
from service import Runtime

log = structlog.get_logger("http")

routes = Blueprint("keys", __name__)


@routes.post("/keys")
def create_key() -> tuple[Response, int]:
    """Make a key. Its text is in this response only, and in those to repetitions with the same idempotency key."""
    service, keys = _for_admin()
    idempotency_key = incoming.idempotency_key()
    with incoming.body(g.caller) as body:
        fields = parse_key(body, service.context.registry, time.time())
    made, text = service.loop.run(keys.create(fields, roles.actor(), idempotency_key))
    log.info("key_created", request=g.request_id, key=made.id, name=made.name, role=made.role)
    return _with_text(view(made), text), 201


@routes.get("/keys")
def list_keys() -> Response:
    """The keys that are not deleted, the newest first."""
    service = incoming.service()
    roles.require_view()
    limit, before = parse_places(lists.query())
    found = service.loop.run(service.core.keys.page(limit=limit + 1, before=before))
    return lists.page(
        "keys", found, limit, view=view, cursor=lambda key: place_cursor(key.created_at, key.id)
    )


@routes.get("/keys/self")
def own_key() -> Response:
    """The key of this request: its limits, and what of them is used."""
    service, principal = incoming.service(), incoming.authenticate(for_metrics=True)
    return jsonify(service.loop.run(service.core.keys.own(principal)))


@routes.get("/keys/<key_id>")
def get_key(key_id: str) -> Response:
    """A key, which may be deleted."""
    service = incoming.service()
    roles.require_view()
    return jsonify(view(service.loop.run(service.core.keys.get(key_id))))


@routes.patch("/keys/<key_id>")
def change_key(key_id: str) -> Response:
    """Change the fields that the body names."""
    service, keys = _for_admin()
    with incoming.body(g.caller) as body:
        fields = parse_changes(body, service.context.registry, time.time())
    changed = service.loop.run(keys.change(key_id, fields, roles.actor()))
    log.info("key_changed", request=g.request_id, key=key_id, fields=sorted(fields))
    return jsonify(view(changed))


@routes.delete("/keys/<key_id>")
def delete_key(key_id: str) -> Response:
    """Delete a key. Its waiting work is cancelled, and its running work ends."""
    service, keys = _for_admin()
    service.loop.run(keys.delete(key_id, roles.actor()))
    log.info("key_deleted", request=g.request_id, key=key_id)
    return no_content()


@routes.post("/keys/<key_id>/rotate")
def rotate_key(key_id: str) -> Response:
    """Give a key another text. Its identity stays."""
    service, keys = _for_admin()
    idempotency_key = incoming.idempotency_key()
    grace = _grace()
    rotated, text = service.loop.run(keys.rotate(key_id, grace, roles.actor(), idempotency_key))
    log.info("key_rotated", request=g.request_id, key=key_id, grace_seconds=grace)
    return _with_text(view(rotated), text)


def _grace() -> float:
    """The time of grace that the body names, in seconds. No body is an empty one."""
    if not incoming.has_body():
        return parse_rotation({})
    with incoming.body(g.caller) as body:
        return parse_rotation(body)


def _for_admin() -> tuple[Runtime, NamedKeys]:
    service = incoming.service()
    incoming.require_admin()
    return service, service.core.keys


def _with_text(shown: dict[str, Any], text: str) -> Response:
    response = jsonify({**shown, "key": text})
    response.headers["Cache-Control"] = "no-store"
    return response
