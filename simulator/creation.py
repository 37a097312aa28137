"""Parses the requests that create predictions and trainings.

The body has the input, the path or the body names the model. The headers say how long to hold the response (`Prefer`)
and how long the prediction may take (`Cancel-After`). Everything that Replicate would refuse is refused here, with all
problems of an input at once.
"""

import json
import re
from typing import Any

from aiohttp import web

from simulator import responses, webhooks
from simulator.model import HIDDEN, Model
from simulator.predictions import Creation
from simulator.registry import Registry
from simulator.schemas import Schema
from simulator.trainings import TrainingCreation

SHORTEST_DEADLINE_SECONDS = 5
LONGEST_WAIT_SECONDS = 60

_VERSION = re.compile(r"(?:(?P<name>[\w.-]+/[\w.-]+):)?(?P<id>[0-9a-f]{64})")
_OPTIONAL = {"webhook", "webhook_events_filter", "webhook_completed", "stream"}
_OPTIONAL_OF_TRAININGS = {"webhook", "webhook_events_filter"}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_WAIT = re.compile(r"\bwait(?:\s*=\s*(\d+))?\b")


async def parse(
    request: web.Request,
    *,
    token: str,
    base_url: str,
    models: Registry,
    name: str | None = None,
    deployment: str | None = None,
) -> Creation:
    """Parse a creation for the official model `name`, for a `deployment`, or for the version in the body.

    Raises:
        ApiError: 400, 404 or 422, as Replicate responds.
    """
    released = models.deployment(deployment, token=token) if deployment else None
    official = models.find(name, token=token) if name else None
    if (deployment and released is None) or (name and not (official and official.is_official)):
        raise responses.not_found()
    content = await request.read()
    body = parsed_object(content)
    check_names(body, {"input"} if deployment or name else {"version", "input"}, _OPTIONAL)
    if released:
        model, version = models.deployed(released), released.version
    elif official:
        model, version = official, HIDDEN
    else:
        model, version = _run_by(body["version"], models, token=token)
    found = model.find(version)
    if found is None:
        raise responses.unknown_version()
    if found.is_disabled:
        raise responses.disabled_version()
    return Creation(
        model=model,
        version=version,
        deployment=released,
        token=token,
        input=_input(found.schema, body),
        body=body,
        headers=dict(request.headers),
        base_url=base_url,
        cancel_after=cancel_after(request.headers.get("Cancel-After")),
        webhook=_webhook(body),
        webhook_events=_events(body),
        size=len(content),
    )


async def parse_training(
    request: web.Request,
    *,
    token: str,
    username: str,
    base_url: str,
    models: Registry,
    name: str,
    version: str,
) -> TrainingCreation:
    """Parse the creation of a training by a version of the model `name`.

    Raises:
        ApiError: 400, 404 or 422. 404 if the version or the destination does not exist, or the destination does not
            belong to the account of this `username`.
    """
    trainer = models.find(name, token=token)
    release = trainer.find(version) if trainer and version != HIDDEN else None
    if trainer is None or release is None:
        raise responses.not_found()
    content = await request.read()
    body = parsed_object(content)
    check_names(body, {"destination", "input"}, _OPTIONAL_OF_TRAININGS)
    if release.is_disabled:
        raise responses.disabled_version()
    if release.schema.training is None:
        raise responses.not_trainable()
    destination = body["destination"]
    owner = destination.partition("/")[0] if isinstance(destination, str) else None
    if owner != username or models.find(destination, token=token) is None:
        raise responses.no_destination()
    return TrainingCreation(
        model=trainer,
        version=version,
        destination=destination,
        token=token,
        input=_input(release.schema.training, body),
        body=body,
        headers=dict(request.headers),
        base_url=base_url,
        cancel_after=None,
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


def parsed_object(content: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400 if it is none.
    """
    try:
        body = json.loads(content)
    except ValueError as reason:
        raise responses.malformed(f"JSON parse error - {reason}") from reason
    if not isinstance(body, dict):
        raise responses.malformed("Invalid data. Expected an object.")
    return body


def check_names(body: dict[str, Any], required: set[str], optional: set[str]) -> None:
    """Refuse a body that lacks a required field, or has a field that Replicate does not know.

    Raises:
        ApiError: 422 with all such fields.
    """
    problems = [
        responses.problem("required", "", f"{name} is required")
        for name in sorted(required, reverse=True)
        if body.get(name) is None
    ]
    problems += [
        responses.problem("additional_property_not_allowed", "", f"Additional property {name} is not allowed")
        for name in body
        if name not in required | optional
    ]
    if problems:
        raise responses.invalid_input(problems)


def _run_by(version: object, models: Registry, *, token: str) -> tuple[Model, str]:
    """The model and the version that a body names: `owner/name` of an official model, or 64 hexadecimal digits, with or
    without `owner/name:` in front. An official model does not run by its version.

    Raises:
        ApiError: 422 if there is none.
    """
    text = version if isinstance(version, str) else ""
    official = models.find(text, token=token)
    if official and official.is_official:
        return official, HIDDEN
    found = _VERSION.fullmatch(text)
    known = models.by_version(found["id"], token=token) if found else None
    if found is None or known is None or known[0].is_official or found["name"] not in (None, known[0].name):
        raise responses.unknown_version()
    return known[0], found["id"]


def _input(schema: Schema, body: dict[str, Any]) -> dict[str, Any]:
    inputs = body["input"]
    problems = responses.input_problems(schema, inputs)
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
