"""A training: begun, looked at until it ends, cancelled, listed; and its weights deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from replicate_concurrent.errors import NotFound
from replicate_concurrent.operations.generating import Order, failure, late, looked, posted
from replicate_concurrent.operations.looking import present, work
from replicate_concurrent.operations.references import Payload, form
from replicate_concurrent.operations.sending import Call, Service, json_of, quoted, send
from replicate_concurrent.operations.steps import Emit, Operation, Pause, do, now
from replicate_concurrent.operations.training_images import IMAGES, sent_images
from replicate_concurrent.training_results import Training, TrainingPlan, training, training_plan

KIND: Final = "trainings"
"""The first part of the paths."""

_ACCEPTED_WITHIN: Final = 180.0
"""Seconds until the answer: the service first fetches a zip from its address, within 120 seconds, and reads it all."""

_SHORTEST_LOOK, _LONGEST_LOOK = 0.5, 5.0
"""Seconds between two looks. They grow by a tenth of the time that has passed."""


def order(
    images: Any, trainer: str, destination: str, *, idempotency_key: str | None = None, **fields: Any
) -> Order:
    """An order from the arguments of `train` and `estimate_training`."""
    body = {"trainer": trainer, "destination": destination, **present(**fields), IMAGES: images}
    return Order(body, idempotency_key, f"/{KIND}")


def begin(service: Service, requested: Order) -> Operation[Training]:
    """A training that the service has accepted. Raises ApiError, and as `sent_images`."""
    deadline = (yield from now()) + service.timeout
    call = yield from _call(requested, requested.body)
    return training((yield from posted(service, call, deadline=deadline)))


def estimate(service: Service, requested: Order) -> Operation[TrainingPlan]:
    """The forecast of a training. No money is spent. Raises as `begin`."""
    deadline = (yield from now()) + service.timeout
    call = yield from _call(requested, {**requested.body, "dry_run": True})
    return training_plan(json_of((yield from send(service, call, deadline=deadline))))


def look(service: Service, target: str, *, deadline: float = float("inf")) -> Operation[Training]:
    """The training with this id, in any state. Raises NotFound, and TimedOut if the `deadline` passes."""
    response = yield from looked(service, Call("GET", _path(target)), target, deadline)
    return training(json_of(response, has_id=True))


def looks(service: Service, target: str, *, timeout: float | None) -> Operation[None]:
    """Emit the training at each look, until it has ended. Raises TimedOut after `timeout` seconds."""
    started = yield from now()
    deadline = float("inf") if timeout is None else started + timeout
    while True:
        made = yield from look(service, target, deadline=deadline)
        yield Emit(made)
        if made.has_ended:
            return
        at = yield from now()
        if at >= deadline:
            raise late(target)
        pause = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, (at - started) / 10))
        yield Pause(min(pause, deadline - at))


def raise_if_failed(made: Training) -> None:
    """Raise the error of a training that has failed."""
    if made.error is not None:
        raise failure(made.error, made.status)


def cancel(service: Service, target: str) -> Operation[Training]:
    """Cancel a training. Returns it as it then is: one that had ended stays as it was."""
    deadline = (yield from now()) + service.timeout
    response = yield from send(service, Call("DELETE", _path(target)), deadline=deadline)
    return training(json_of(response, has_id=True))


def delete_weights(service: Service, target: str) -> Operation[None]:
    """Delete the weights that the service keeps of a training. Raises NotFound for one that is unknown, or without a
    model. Weights that are deleted stay so: the answer may have been lost."""
    deadline = (yield from now()) + service.timeout
    try:
        yield from send(service, Call("DELETE", f"{_path(target)}/weights"), deadline=deadline)
    except NotFound:
        if not (yield from look(service, target)).success:
            raise


def every(
    service: Service,
    *,
    limit: int | None,
    since: str | date | None,
    metadata: Mapping[str, str] | None,
    **filters: str | None,
) -> Operation[None]:
    """Emit the caller's trainings, the latest first, at most `limit`."""
    found = work(service, KIND, training, limit=limit, since=since, metadata=metadata, **filters)
    return (yield from found)


def _call(requested: Order, body: Mapping[str, Any]) -> Operation[Call]:
    sent: Payload = yield from do(_payload, body)
    return Call(
        "POST",
        requested.path,
        json=sent.json,
        parts=sent.parts,
        key=requested.key,
        answered_within=_ACCEPTED_WITHIN,
    )


def _payload(body: Mapping[str, Any]) -> Payload:
    """The body with its images. It may block."""
    found = sent_images(body[IMAGES])
    if isinstance(found, str):
        return Payload({**body, IMAGES: found})
    return form({name: value for name, value in body.items() if name != IMAGES}, found)


def _path(target: str) -> str:
    return f"/{KIND}/{quoted(target)}"
