"""One generation: submitted, looked at until it ends, cancelled, followed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from replicate_concurrent.errors import ApiError, Canceled, ConnectionLost, TimedOut, Unavailable
from replicate_concurrent.operations.local_files import payload_with_files
from replicate_concurrent.operations.sending import Call, Service, json_of, quoted, send
from replicate_concurrent.operations.steps import Operation, Pause, now
from replicate_concurrent.results import Generation, generation

HELD = 20
"""Seconds for which the service holds an answer, so that no connection must live for long."""

_SHORTEST_LOOK, _LONGEST_LOOK = 0.25, 2.0
"""Seconds between two looks. They grow by a tenth of the time that has passed."""

_KEY = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True)
class Order:
    """What to generate: the JSON body of a POST to `path`, and the key under which the service knows it. `is_text` is
    as in `Call`."""

    body: Mapping[str, Any]
    key: str | None = None
    path: str = "/generate"
    is_text: bool = False

    def __post_init__(self) -> None:
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise ValueError(f"idempotency_key must be 1 to 255 visible ASCII characters, got {self.key!r}")


def order(
    prompt: str | None,
    model: str,
    *,
    idempotency_key: str | None,
    webhook: str | None,
    metadata: Mapping[str, str] | None,
    parameters: Mapping[str, Any],
) -> Order:
    """An order from the arguments of `generate` and `submit`."""
    if parameters.get("dry_run"):
        raise TypeError("dry_run makes no generation; call estimate(…) for the forecast")
    own = {"prompt": prompt, "webhook": webhook, "metadata": metadata}
    body = {
        "model_name": model,
        **parameters,
        **{name: each for name, each in own.items() if each is not None},
    }
    return Order(body, idempotency_key)


def accepted(
    service: Service, requested: Order, *, wait: int, deadline: float
) -> Operation[Mapping[str, Any]]:
    """The JSON of work that the service has accepted, a generation or a batch. Raises ApiError."""
    sent = yield from payload_with_files(service, requested.body, deadline=deadline)
    call = Call(
        "POST",
        requested.path,
        json=sent.json,
        parts=sent.parts,
        key=requested.key,
        wait=wait,
        is_text=requested.is_text,
    )
    return (yield from posted(service, call, deadline=deadline))


def posted(service: Service, call: Call, *, deadline: float) -> Operation[Mapping[str, Any]]:
    """The JSON of the work that a call has begun. Raises ApiError."""
    try:
        response = yield from send(service, call, deadline=deadline)
    except Unavailable as error:
        if error.id is None:
            raise
        return {"id": error.id, "status": "queued"}  # the next process continues it
    return json_of(response, has_id=True)


def submit(
    service: Service, requested: Order, *, wait: int = 0, deadline: float | None = None
) -> Operation[Generation]:
    """A generation that the service has accepted. It has ended if it did within `wait` seconds.

    Raises ApiError, also for a generation that has failed.
    """
    if deadline is None:
        deadline = (yield from now()) + service.timeout
    return generation((yield from accepted(service, requested, wait=wait, deadline=deadline)))


def generate(service: Service, requested: Order) -> Operation[Generation]:
    """The generation with its outputs.

    Raises ApiError if it failed, and TimedOut after the client's timeout.
    """
    deadline = (yield from now()) + service.timeout
    made = yield from submit(service, requested, wait=HELD, deadline=deadline)
    return (yield from _ended(service, made, deadline, is_text=requested.is_text))


def wait(service: Service, target: str, *, timeout: float | None) -> Operation[Generation]:
    """The generation with this id, once it has ended. Raises as `generate`; without `timeout` only if it failed."""
    deadline = float("inf") if timeout is None else (yield from now()) + timeout
    made = yield from look(service, target, deadline=deadline)
    return (yield from _ended(service, made, deadline))


def look(
    service: Service, target: str, *, deadline: float = float("inf"), is_text: bool = False
) -> Operation[Generation]:
    """The generation with this id, in any state. Raises NotFound, and TimedOut if the `deadline` passes."""
    call = Call("GET", f"/generations/{quoted(target)}", is_text=is_text)
    response = yield from looked(service, call, target, deadline)
    return generation(json_of(response, has_id=True))


def looked(service: Service, call: Call, target: str, deadline: float) -> Operation[httpx.Response]:
    """The answer to a look at the work with this id. Raises ConnectionLost if there is none within the client's
    timeout, and TimedOut if the `deadline` is earlier."""
    usual = (yield from now()) + service.timeout
    try:
        return (yield from send(service, call, deadline=min(usual, deadline)))
    except ConnectionLost as lost:
        if usual < deadline:
            raise
        raise late(target) from lost


def late(target: str) -> TimedOut:
    return TimedOut(f"{target} has not ended in time. It goes on at the service.", id=target)


def cancel(service: Service, target: str) -> Operation[Generation]:
    """Cancel a generation. Returns it as it then is: one that had ended stays as it was."""
    deadline = (yield from now()) + service.timeout
    response = yield from send(service, Call("DELETE", f"/generations/{quoted(target)}"), deadline=deadline)
    return generation(json_of(response, has_id=True))


def raise_if_failed(made: Generation) -> None:
    """Raise the error of a generation that has failed. One with a placeholder has not."""
    if made.error is not None and not made.placeholder:
        raise failure(made.error, made.status)


def failure(error: ApiError, status: str) -> ApiError:
    """The error of work in this state: a cancellation has a class of its own."""
    return Canceled(error.raw) if status == "canceled" else error


def _ended(
    service: Service, made: Generation, deadline: float, *, is_text: bool = False
) -> Operation[Generation]:
    started = yield from now()
    while not made.has_ended:
        at = yield from now()
        if at >= deadline:
            raise late(made.id)
        pause = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, (at - started) / 10))
        yield Pause(min(pause, deadline - at))
        made = yield from look(service, made.id, deadline=deadline, is_text=is_text)
    raise_if_failed(made)
    return made
