"""The events of a generation or a training, as a stream of server-sent events that is opened again when it breaks."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import replace

import httpx

from replicate_concurrent.errors import BadAnswer, ConnectionLost
from replicate_concurrent.operations.sending import Call, Service, quoted, send
from replicate_concurrent.operations.steps import Chunk, Close, Emit, Operation, Pause, now
from replicate_concurrent.results import Event

_LAST = ("done", "interrupted")

_AGAIN = 1.0
"""Seconds until a stream that ended early is opened again."""


def events(service: Service, target: str, *, kind: str = "generations") -> Operation[None]:
    """Emit each event of the work once, from its start to its end. `kind` is the first part of its path.

    Raises ApiError, BadAnswer for no stream, and ConnectionLost if none brings anything within the client's timeout.
    """
    seen: set[tuple[str, str]] = set()
    logged = 0
    heard = yield from now()
    while True:
        call = Call("GET", f"/{kind}/{quoted(target)}/events", is_streamed=True)
        response = yield from opened(service, call, deadline=heard + service.timeout)
        reader = Reader()
        try:
            while (chunk := (yield Chunk(response))) is not None:
                heard = yield from now()
                for event, key in reader.read(chunk):
                    if key in seen:
                        continue  # a stream begins with what has been
                    seen.add(key)
                    new, logged = _without_old_logs(event, logged)
                    if new is not None:
                        yield Emit(new)
                    if event.name in _LAST:
                        return
        except httpx.RequestError as error:
            if (yield from now()) - heard > service.timeout:
                raise ConnectionLost(f"the events of {target} broke off: {error}") from error
        yield Close(response)
        yield Pause(_AGAIN)


def opened(service: Service, call: Call, *, deadline: float) -> Operation[httpx.Response]:
    """The response with a stream of events, to be closed. Raises as `send`, and BadAnswer for no stream."""
    response = yield from send(service, call, deadline=deadline)
    kind = response.headers.get("content-type", "no content type")
    if not kind.startswith("text/event-stream"):
        yield Close(response)
        raise BadAnswer(f"{response.request.url} answered with {kind}, which is no stream of events.")
    return response


class Reader:
    """Reads events from chunks, which may end anywhere."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def read(self, chunk: bytes) -> Iterator[tuple[Event, tuple[str, str]]]:
        """The events that are whole now, each with its identity among the others."""
        *whole, self._rest = (self._rest + self._decode.decode(chunk)).replace("\r\n", "\n").split("\n\n")
        for block in whole:
            fields: dict[str, str] = {}
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            if "data" in fields:
                name, data = fields.get("event", "message"), fields["data"]
                yield Event(name, _object(data)), (name, data)


def _without_old_logs(event: Event, logged: int) -> tuple[Event | None, int]:
    """The event without the part of its logs that came before, None if no text is left. `logged` counts the characters
    of all logs so far, as the `end` of such an event does; also returns the new count."""
    text, end = event.data.get("text"), event.data.get("end")
    if event.name != "logs" or not isinstance(text, str) or not isinstance(end, int):
        return event, logged
    left = text[max(0, len(text) - (end - logged)) :] if end > logged else ""
    return (replace(event, data={**event.data, "text": left}) if left else None), max(end, logged)


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
