"""Parses the requests that create predictions.

The body has the input, the path or the body names the model. The headers say how long to hold the response (`Prefer`)
and how long the prediction may take (`Cancel-After`). Everything that Replicate would refuse is refused here, with all
problems of an input at once.
"""

import json
import re
from typing import Any

from aiohttp import web

from simulator import catalog, responses, webhooks
from simulator.catalog import Model
from simulator.predictions import Creation

SHORTEST_DEADLINE_SECONDS = 5
LONGEST_WAIT_SECONDS = 60

_VERSION = re.compile(r"(?:(?P<name>[\w.-]+/[\w.-]+):)?(?P<id>[0-9a-f]{64})")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_WAIT = re.compile(r"\bwait(?:\s*=\s*(\d+))?\b")


async def parse(request: web.Request, *, token: str, base_url: str, name: str | None) -> Creation:
    """Parse a creation for the official model `name`, or without a name for the version in the body.

    Raises:
        ApiError: 400, 404 or 422, as Replicate responds.
    """
    client = None if name is None else catalog.find(name)
    if name is not None and client is None:
        raise responses.not_found()
    content = await request.read()
    body = _object(content)
    model, version = (client, "hidden") if client else _versioned(body)
    return Creation(
        model=model,
        version=version,
        token=token,
        input=_input(model, body),
        body=body,
        headers=dict(request.headers),
        base_url=base_url,
        cancel_after=cancel_after(request.headers.get("Cancel-After")),
        webhook=_webhook(body),
        webhook_events=_events(body),
        size=len(content),
    )


def wait_seconds(prefer: str | None) -> int | None:
    """The seconds to hold the response by a `Prefer` header: 1 to 60, or None without a hold."""
    found = _WAIT.search(prefer or "")
    if found is None:
        return None
    return min(max(int(found[1] or LONGEST_WAIT_SECONDS), 1), LONGEST_WAIT_SECONDS)


def cancel_after(header: str | None) -> float | None:
    """The seconds in a `Cancel-After` header: `30s`, `5m`, `1h30m`, or a plain number of seconds.

    Raises:
        ApiError: 422 if it has another form or is under five seconds.
    """
    if header is None:
        return None
    text = header.strip()
    found = _DURATION.fullmatch(f"{text}s" if text.isdecimal() else text)
    if not text or found is None:
        raise _invalid("Cancel-After", "Must be a duration such as 30s, 5m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total < SHORTEST_DEADLINE_SECONDS:
        raise _invalid("Cancel-After", f"Must be at least {SHORTEST_DEADLINE_SECONDS} seconds")
    return total


def model_of(version: object) -> Model:
    """The model of `version`: 64 hexadecimal digits, with or without `owner/name:` in front.

    Raises:
        ApiError: 422 if it has another form, or the named model does not have the version.
    """
    found = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if found is None:
        raise responses.unknown_version()
    model = catalog.community(found["name"] or "unknown/model", found["id"])
    if found["name"] not in (None, model.name):
        raise responses.unknown_version()
    return model


def _object(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except ValueError as reason:
        raise responses.malformed(f"JSON parse error - {reason}") from reason
    if not isinstance(body, dict):
        raise responses.malformed("Invalid data. Expected an object.")
    return body


def _versioned(body: dict[str, Any]) -> tuple[Model, str]:
    version = body.get("version")
    if version is None:
        raise _invalid("version", "version is required", kind="required")
    return model_of(version), str(version)[-64:]


def _input(model: Model, body: dict[str, Any]) -> dict[str, Any]:
    if "input" not in body:
        raise _invalid("input", "input is required", kind="required")
    inputs = body["input"]
    problems = responses.input_problems(model, inputs)
    if problems:
        raise responses.invalid_input(problems)
    if not isinstance(inputs, dict):
        raise _invalid("input", "Invalid type. Expected: object", kind="invalid_type")
    return inputs


def _webhook(body: dict[str, Any]) -> str | None:
    url = body.get("webhook")
    if url is None:
        return None
    if not webhooks.is_acceptable(url):
        raise _invalid("webhook", "Must be a valid HTTPS URL", kind="format")
    return str(url)


def _events(body: dict[str, Any]) -> frozenset[str]:
    events = body.get("webhook_events_filter")
    if events is None:
        return webhooks.DEFAULT_EVENTS
    known = isinstance(events, list) and all(event in webhooks.EVENTS for event in events)
    if not known:
        choices = ", ".join(sorted(webhooks.EVENTS))
        raise _invalid("webhook_events_filter", f"Must only contain {choices}", kind="enum")
    return frozenset(events)


def _invalid(where: str, description: str, *, kind: str = "invalid") -> responses.ApiError:
    return responses.invalid_input([responses.problem(kind, where, description)])
