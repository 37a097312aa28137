"""Requests the status of a local service, without a proxy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any

from replicate_concurrent.local.state import State

_SECONDS = 10.0
_NAME = "replicate-concurrent-generation"


def figures(known: State) -> Mapping[str, Any] | None:
    """The `/status` of the service as its admin sees it. None if it does not accept work, or something else answers."""
    try:
        with closing(HTTPConnection("127.0.0.1", known.port, timeout=_SECONDS)) as connection:
            if _answer(connection, "/health/ready") is None:
                return None
            found = _answer(connection, "/status", {"X-Admin-API-Key": known.key})
    except (OSError, HTTPException, ValueError):
        return None
    is_ours = isinstance(found, dict) and found.get("service") == _NAME and "configured_limits" in found
    return found if is_ours else None


def _answer(connection: HTTPConnection, path: str, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON of a successful answer, else None."""
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    return json.loads(body) if response.status == 200 else None
