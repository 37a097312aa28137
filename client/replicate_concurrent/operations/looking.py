"""What the service knows: models, usage, its own state, lists, forecasts; and any other request to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any
from urllib.parse import quote

import httpx

from replicate_concurrent import results
from replicate_concurrent.operations import batches
from replicate_concurrent.operations.local_files import payload_with_files
from replicate_concurrent.operations.sending import Call, Service, json_of, send
from replicate_concurrent.operations.steps import Emit, Operation, now

_PAGE = 100
"""Items of a page of a list."""


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
    named = dict(headers or {})
    keys = [named.pop(name) for name in [*named] if name.lower() == "idempotency-key"]
    call = Call(method.upper(), path, json=json, params=params, headers=named, key=keys[0] if keys else None)
    return (yield from send(service, call, deadline=deadline))


def fetched(
    service: Service,
    path: str,
    params: Mapping[str, Any] | None = None,
    *,
    method: str = "GET",
    json: Any = None,
) -> Operation[dict[str, Any]]:
    """The JSON of a response."""
    return json_of((yield from request(service, method, path, params=params, json=json)))


def listed(
    service: Service,
    path: str,
    field: str,
    params: Mapping[str, Any],
    *,
    view: Callable[[Mapping[str, Any]], Any],
    limit: int | None = None,
) -> Operation[None]:
    """Emit the `view` of each item of a list, through its pages; the first `limit` of them."""
    left = float("inf") if limit is None else limit
    cursor: str | None = None
    while left > 0:
        place = {} if cursor is None else {"cursor": cursor}
        page = yield from fetched(service, path, {"limit": int(min(left, _PAGE)), **params, **place})
        for each in islice(_maps(page.get(field) or ()), None if limit is None else int(left)):
            yield Emit(view(each))
            left -= 1
        cursor = page.get("next_cursor")
        if not cursor:
            return


def generations(
    service: Service,
    *,
    limit: int | None,
    since: str | date | None,
    metadata: Mapping[str, str] | None,
    **filters: str | None,
) -> Operation[None]:
    """Emit the caller's generations, the latest first, at most `limit`."""
    view = results.generation
    found = work(service, "generations", view, limit=limit, since=since, metadata=metadata, **filters)
    return (yield from found)


def work(
    service: Service,
    name: str,
    view: Callable[[Mapping[str, Any]], Any],
    /,
    *,
    limit: int | None,
    since: str | date | None,
    metadata: Mapping[str, str] | None,
    **filters: str | None,
) -> Operation[None]:
    """Emit the `view` of the caller's work in the list of this `name`, the latest first, at most `limit`."""
    params = present(**filters, since=_moment(since))
    params |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
    return (yield from listed(service, f"/{name}", name, params, view=view, limit=limit))


def models(service: Service, search: str | None) -> Operation[list[results.Model]]:
    """The declared models; with `search`, those that fit it, also others at Replicate."""
    found = yield from fetched(service, "/models", present(search=search))
    return [
        results.model(each) for each in _maps([*(found.get("models") or ()), *(found.get("others") or ())])
    ]


def model(service: Service, name: str) -> Operation[results.Model]:
    return results.model((yield from fetched(service, f"/models/{quote(name, safe='/:')}")))


def usage(
    service: Service,
    group_by: str | Sequence[str] | None,
    since: str | date | None,
    until: str | date | None,
) -> Operation[results.Usage]:
    groups = group_by if isinstance(group_by, str) or group_by is None else ",".join(group_by)
    params = present(group_by=groups, since=_moment(since), until=_moment(until))
    return results.usage((yield from fetched(service, "/usage", params)))


def status(service: Service) -> Operation[results.Status]:
    return results.status((yield from fetched(service, "/status")))


def configure(service: Service, limits: Mapping[str, int | None]) -> Operation[results.Status]:
    """Change limits. None returns to those of the service's environment."""
    return results.status((yield from fetched(service, "/configure", method="POST", json=dict(limits))))


def estimate(
    service: Service,
    prompts: str | Sequence[str] | None,
    model: str | None,
    requests: Sequence[Mapping[str, Any]] | None,
    parameters: Mapping[str, Any],
) -> Operation[results.Plan]:
    """The forecast of a generation, if `prompts` is one text or none, or else of a batch. No money is spent."""
    if requests is None and "inputs" not in parameters and (prompts is None or isinstance(prompts, str)):
        body = {"model_name": model, **parameters, **present(prompt=prompts)}
        path = "/generate"
    else:
        body = batches.body(None if isinstance(prompts, str) else prompts, model, requests, parameters)
        path = "/generate-batch"
    deadline = (yield from now()) + service.timeout
    sent = yield from payload_with_files(service, {**body, "dry_run": True}, deadline=deadline)
    call = Call("POST", path, json=sent.json, parts=sent.parts)
    return results.plan(json_of((yield from send(service, call, deadline=deadline))))


def _maps(values: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    return (each for each in values if isinstance(each, Mapping))


def _moment(value: str | date | None) -> str | None:
    """A date, or a date and time, as the service reads it."""
    return value.isoformat() if isinstance(value, date) else value


def present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
