"""The routes of named semaphores: limits for operators, leases for other services.

Viewers may list the semaphores. Each key that may generate may lease permits, and a user's Replicate token may not.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog
from flask import Blueprint, Response, g, jsonify

from admission.semaphores import SemaphoreSnapshot
from api import incoming, roles
from api.responses import no_content
from contract.states import iso8601
from generations.audit import noted
from generations.semaphores import NamedSemaphores
from generations.shared import SharedSemaphores
from ledger.access_records import AuditRecord
from ledger.records import SemaphoreLeaseRecord
from parsing.semaphores import parse_lease, parse_semaphore
from service import Runtime

T = TypeVar("T")

log = structlog.get_logger("http")

routes = Blueprint("semaphores", __name__)


@routes.get("/_admin/semaphores")
def semaphores() -> Response:
    """All semaphores with their use."""
    roles.require_view()
    return jsonify({"semaphores": listed(incoming.service())})


@routes.post("/_admin/semaphores")
def set_semaphore() -> Response:
    """Create a semaphore, or change its limit at once."""
    service, named = _for_admin()
    with incoming.body(g.caller) as body:
        fields = parse_semaphore(body)
    act = roles.actor().act("semaphores.set", fields.semaphore_id, {"limit": fields.limit})
    changed = service.loop.run(_noted(service, act, named.set_limit(fields.semaphore_id, fields.limit)))
    log.info("semaphore_set", request=g.request_id, semaphore=fields.semaphore_id, limit=fields.limit)
    return jsonify(_shown(changed))


@routes.delete("/_admin/semaphores/<semaphore>")
def remove_semaphore(semaphore: str) -> Response:
    """Delete a semaphore that is not in use."""
    service, named = _for_admin()
    act = roles.actor().act("semaphores.delete", semaphore)
    service.loop.run(_noted(service, act, named.remove(semaphore)))
    log.info("semaphore_removed", request=g.request_id, semaphore=semaphore)
    return no_content()


@routes.post("/semaphores/<semaphore>/leases")
def lease(semaphore: str) -> tuple[Response, int]:
    """Lease a permit, or refuse at once."""
    service, named = _for_lease()
    key = roles.own_idempotency_key()
    with incoming.body(g.caller) as body:
        ttl = parse_lease(body).ttl
    return jsonify(_lease(service.loop.run(named.lease(semaphore, ttl, key)))), 201


@routes.post("/semaphores/<semaphore>/leases/<lease_id>/renew")
def renew_lease(semaphore: str, lease_id: str) -> Response:
    """Let a lease last for its `ttl` from now."""
    service, named = _for_lease()
    return jsonify(_lease(service.loop.run(named.renew(semaphore, lease_id))))


@routes.delete("/semaphores/<semaphore>/leases/<lease_id>")
def end_lease(semaphore: str, lease_id: str) -> Response:
    """End a lease. Succeeds also if it has ended."""
    service, named = _for_lease()
    service.loop.run(named.release(semaphore, lease_id))
    return no_content()


def listed(service: Runtime) -> list[dict[str, Any]]:
    """All semaphores with their use, as JSON."""
    return [_shown(each) for each in service.loop.run(service.core.semaphores.all())]


def _for_admin() -> tuple[Runtime, NamedSemaphores | SharedSemaphores]:
    incoming.require_admin()
    return _semaphores()


def _for_lease() -> tuple[Runtime, NamedSemaphores | SharedSemaphores]:
    roles.require_lease()
    return _semaphores()


def _semaphores() -> tuple[Runtime, NamedSemaphores | SharedSemaphores]:
    service = incoming.service()
    return service, service.core.semaphores


async def _noted(service: Runtime, act: AuditRecord, change: Coroutine[Any, Any, T]) -> T:
    """The result of a change, which is noted in the audit trail."""
    async with noted(service.ledger, act):
        return await change


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
