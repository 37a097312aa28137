"""The routes of named semaphores: limits for operators, leases for other services. All need the admin key."""

from typing import Any

import structlog
from flask import Blueprint, Response, g, jsonify

from admission.semaphores import SemaphoreSnapshot
from api import incoming
from contract.states import iso8601
from generations.semaphores import NamedSemaphores
from generations.shared import SharedSemaphores
from ledger.records import SemaphoreLeaseRecord
from parsing.semaphores import parse_lease, parse_semaphore
from service import Runtime

log = structlog.get_logger("http")

routes = Blueprint("semaphores", __name__)


@routes.get("/_admin/semaphores")
def semaphores() -> Response:
    """All semaphores with their use."""
    service, named = _for_admin()
    return jsonify({"semaphores": [_shown(each) for each in service.loop.run(named.all())]})


@routes.post("/_admin/semaphores")
def set_semaphore() -> Response:
    """Create a semaphore, or change its limit at once."""
    service, named = _for_admin()
    with incoming.body(g.caller) as body:
        fields = parse_semaphore(body)
    changed = service.loop.run(named.set_limit(fields.semaphore_id, fields.limit))
    log.info("semaphore_set", request=g.request_id, semaphore=fields.semaphore_id, limit=fields.limit)
    return jsonify(_shown(changed))


@routes.delete("/_admin/semaphores/<semaphore>")
def remove_semaphore(semaphore: str) -> tuple[str, int]:
    """Delete a semaphore that is not in use."""
    service, named = _for_admin()
    service.loop.run(named.remove(semaphore))
    log.info("semaphore_removed", request=g.request_id, semaphore=semaphore)
    return "", 204


@routes.post("/semaphores/<semaphore>/leases")
def lease(semaphore: str) -> tuple[Response, int]:
    """Lease a permit, or refuse at once."""
    service, named = _for_admin()
    key = incoming.idempotency_key()
    with incoming.body(g.caller) as body:
        ttl = parse_lease(body).ttl
    return jsonify(_lease(service.loop.run(named.lease(semaphore, ttl, key)))), 201


@routes.post("/semaphores/<semaphore>/leases/<lease_id>/renew")
def renew_lease(semaphore: str, lease_id: str) -> Response:
    """Let a lease last for its `ttl` from now."""
    service, named = _for_admin()
    return jsonify(_lease(service.loop.run(named.renew(semaphore, lease_id))))


@routes.delete("/semaphores/<semaphore>/leases/<lease_id>")
def end_lease(semaphore: str, lease_id: str) -> tuple[str, int]:
    """End a lease. Succeeds also if it has ended."""
    service, named = _for_admin()
    service.loop.run(named.release(semaphore, lease_id))
    return "", 204


def _for_admin() -> tuple[Runtime, NamedSemaphores | SharedSemaphores]:
    service = incoming.service()
    incoming.require_admin()
    return service, service.core.semaphores


def _shown(seen: SemaphoreSnapshot) -> dict[str, Any]:
    return {
        "semaphore_id": seen.id,
        "limit": seen.limit,
        "in_use": seen.in_use,
        "leases": len(seen.lease_ends),
        "waiting": seen.waiting,
    }


def _lease(record: SemaphoreLeaseRecord) -> dict[str, Any]:
    return {
        "lease_id": record.id,
        "semaphore_id": record.semaphore,
        "ttl": record.ttl,
        "expires_at": iso8601(record.expires_at),
    }
