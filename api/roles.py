"""What the roles of keys may do, and who acts, for routes. All functions run in a Flask thread, inside a request."""

from flask import g

from api import incoming
from auth import Principal
from contract.callers import ADMIN
from errors import Forbidden
from generations.audit import Actor
from ledger.access_records import MAY_GENERATE


def require_view() -> Principal:
    """The sender of this request, who may see everything. Raises Unauthenticated or Forbidden."""
    found = incoming.authenticate()
    if not found.sees_all:
        raise Forbidden("This request requires a key of the role `admin` or `viewer`.")
    return found


def require_change() -> Principal:
    """The sender of this request, who may change its own work. Raises Unauthenticated or Forbidden."""
    found = incoming.authenticate()
    if not found.may_change:
        raise Forbidden(f"A key of the role `{found.role}` may change nothing.")
    return found


def require_lease() -> Principal:
    """The sender of this request, who may lease permits: any key that may generate. Raises Unauthenticated or
    Forbidden."""
    found = incoming.authenticate()
    if found.role not in MAY_GENERATE:
        raise Forbidden("Leases require a key of the role `admin` or `caller`.")
    return found


def actor() -> Actor:
    """The sender of this request, who was identified before, for the audit trail."""
    return Actor(g.caller, g.caller_name, g.request_id)


def own_idempotency_key() -> str | None:
    """The idempotency key, where all callers have one name space: with the id of the named key that sent it. Raises
    InvalidRequest."""
    key = incoming.idempotency_key()
    return key if key is None or g.caller == ADMIN else f"{g.caller} {key}"
