"""What the service knows: models, usage, its own status, lists; and any other request to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from replicate_concurrent.operations.sending import Call, Service, send
from replicate_concurrent.operations.steps import Operation, now


def request(
    service: Service,
    method: str,
    path: str,
    *,
    json: Any = None,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Operation[httpx.Response]:
    """The response to any request. An `Idempotency-Key` of the headers is kept. Raises ApiError from a status of 400,
    and ValueError unless the path is one."""
    if not path.startswith("/"):
        raise ValueError(f"path must begin with /, got {path!r}")
    deadline = (yield from now()) + service.timeout
    own = {name: value for name, value in (headers or {}).items() if name.lower() != "idempotency-key"}
    keys = [value for name, value in (headers or {}).items() if name.lower() == "idempotency-key"]
    call = Call(method.upper(), path, json=json, params=params, headers=own, key=keys[0] if keys else None)
    return (yield from send(service, call, deadline=deadline))
