"""Named keys of the service: made, listed, changed, rotated and deleted by its administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicate_concurrent import results
from replicate_concurrent.errors import NotFound
from replicate_concurrent.operations.looking import fetched, listed, request
from replicate_concurrent.operations.sending import Service, quoted
from replicate_concurrent.operations.steps import Operation


def every(service: Service) -> Operation[None]:
    """Emit each key that is not deleted, the newest first."""
    return (yield from listed(service, "/keys", "keys", {}, view=results.key))


def create(service: Service, name: str, fields: Mapping[str, Any]) -> Operation[results.Key]:
    body = {"name": name, **fields}
    return results.key((yield from fetched(service, "/keys", method="POST", json=body)))


def get(service: Service, key_id: str) -> Operation[results.Key]:
    return results.key((yield from fetched(service, _path(key_id))))


def update(service: Service, key_id: str, fields: Mapping[str, Any]) -> Operation[results.Key]:
    return results.key((yield from fetched(service, _path(key_id), method="PATCH", json=dict(fields))))


def rotate(service: Service, key_id: str, grace_seconds: float) -> Operation[results.Key]:
    body = {"grace_seconds": grace_seconds}
    return results.key((yield from fetched(service, f"{_path(key_id)}/rotate", method="POST", json=body)))


def delete(service: Service, key_id: str) -> Operation[None]:
    """Raises NotFound for a key that never was. One that is deleted stays so: the answer may have been lost."""
    try:
        yield from request(service, "DELETE", _path(key_id))
    except NotFound:
        if (yield from get(service, key_id)).deleted_at is None:
            raise


def own(service: Service) -> Operation[results.Key]:
    return results.key((yield from fetched(service, "/keys/self")))


def _path(key_id: str) -> str:
    return f"/keys/{quoted(key_id)}"
