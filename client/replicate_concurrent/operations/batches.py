"""A batch: submitted, looked at until it ends, cancelled, and its results as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from replicate_concurrent.operations.generating import HELD, Order, accepted, late, looked
from replicate_concurrent.operations.sending import Call, Service, json_of, quoted, send
from replicate_concurrent.operations.steps import Emit, Operation, Pause, now
from replicate_concurrent.results import Batch, batch

_SHORTEST_LOOK, _LONGEST_LOOK = 0.25, 2.0
"""Seconds between two looks. They grow by a twentieth of the time that has passed."""

_SHARE = 4.0
"""How much longer the client rests than a look took, since each look at a large batch has all results so far."""


def order(
    prompts: Sequence[str] | None,
    model: str | None,
    *,
    requests: Sequence[Mapping[str, Any]] | None,
    idempotency_key: str | None,
    webhook: str | None,
    metadata: Mapping[str, str] | None,
    common: Mapping[str, Any],
) -> Order:
    """An order from the arguments of `batch` and `submit_batch`. Raises TypeError if they contradict each other."""
    if common.get("dry_run"):
        raise TypeError("dry_run makes no outputs; call estimate(…) for the forecast")
    return Order(
        {**body(prompts, model, requests, common), **_given(webhook=webhook, metadata=metadata)},
        idempotency_key,
        "/generate-batch",
    )


def body(
    prompts: Sequence[str] | None,
    model: str | None,
    requests: Sequence[Mapping[str, Any]] | None,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """The body of `POST /generate-batch`."""
    if isinstance(prompts, str):
        raise TypeError("prompts is a list of texts, and not one text")
    if requests is None:
        if model is None or (prompts is None and "inputs" not in common):
            raise TypeError("a batch needs a list of prompts and model=…, or requests=[…]")
        return {"model_name": model, **common, **({} if prompts is None else {"prompts": list(prompts)})}
    if prompts is not None:
        raise TypeError("a batch has prompts or requests, and not both")
    of_all = {} if model is None else {"model_name": model}
    return {**common, "requests": [{**of_all, **each} for each in requests]}


def submit(service: Service, requested: Order, *, wait: int = 0) -> Operation[Batch]:
    """A batch that the service has accepted. It has ended if it did within `wait` seconds. Raises ApiError."""
    deadline = (yield from now()) + service.timeout
    return batch((yield from accepted(service, requested, wait=wait, deadline=deadline)))


def run(service: Service, requested: Order) -> Operation[Batch]:
    """The batch with all results, in input order. Failed items do not raise. Raises ApiError if it is refused."""
    made = yield from submit(service, requested, wait=HELD)
    if made.has_ended:
        return made
    return (yield from wait(service, made.id, timeout=None, is_text=requested.is_text))


def wait(service: Service, target: str, *, timeout: float | None, is_text: bool = False) -> Operation[Batch]:
    """The batch with this id, once it has ended. Raises TimedOut after `timeout` seconds."""
    started = yield from now()
    deadline = float("inf") if timeout is None else started + timeout
    while True:
        at = yield from now()
        made = yield from look(service, target, deadline=deadline, is_text=is_text)
        if made.has_ended:
            return made
        yield from _rest(started, at, target, deadline)


def results(service: Service, target: str) -> Operation[None]:
    """Emit each result of the batch as it ends."""
    started = yield from now()
    seen: set[int] = set()
    while True:
        at = yield from now()
        made = yield from look(service, target)
        for each in made.results:
            if each.index not in seen:
                seen.add(each.index or 0)
                yield Emit(each)
        if made.has_ended:
            return
        yield from _rest(started, at, target, float("inf"))


def look(
    service: Service, target: str, *, deadline: float = float("inf"), is_text: bool = False
) -> Operation[Batch]:
    """The batch with this id, with the results so far. Raises NotFound, and TimedOut if the `deadline` passes."""
    call = Call("GET", f"/batches/{quoted(target)}", is_text=is_text)
    response = yield from looked(service, call, target, deadline)
    return batch(json_of(response, has_id=True))


def cancel(service: Service, target: str) -> Operation[Batch]:
    """Cancel the generations of a batch that have not ended. Returns the batch as it then is."""
    deadline = (yield from now()) + service.timeout
    response = yield from send(service, Call("DELETE", f"/batches/{quoted(target)}"), deadline=deadline)
    return batch(json_of(response, has_id=True))


def _rest(started: float, looked: float, target: str, deadline: float) -> Operation[None]:
    """Pause until the next look. `looked` is when the last one began."""
    at = yield from now()
    if at >= deadline:
        raise late(target)
    pause = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, (at - started) / 20))
    yield Pause(min(max(pause, _SHARE * (at - looked)), deadline - at))


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
