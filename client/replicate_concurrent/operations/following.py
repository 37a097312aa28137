"""The events of a generation, as a stream of server-sent events that is opened again when it breaks."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

import httpx

from replicate_concurrent.errors import BadAnswer, ConnectionLost
from replicate_concurrent.operations.sending import Call, Service, quoted, send
from replicate_concurrent.operations.steps import Chunk, Close, Emit, Operation, Pause, now
from replicate_concurrent.results import Event

_LAST = ("done", "interrupted")

_AGAIN = 1.0
"""Seconds until a stream that ended early is opened again."""


def events(service: Service, target: str) -> Operation[None]:
    """Emit each event of the generation once, from its start to its end.

    Raises ApiError, BadAnswer for no stream, and ConnectionLost if none brings anything within the client's timeout.
    """
    seen: set[tuple[str, str]] = set()
    heard = yield from now()
    while True:
        call = Call("GET", f"/generations/{quoted(target)}/events", is_streamed=True)
        response = yield from opened(service, call, deadline=heard + service.timeout)
        reader = Reader()
        try:
            while (chunk := (yield Chunk(response))) is not None:
                heard = yield from now()
                for event, key in reader.read(chunk):
                    if key in seen:
                        continue  # a stream begins with what has been
                    seen.add(key)
                    yield Emit(event)
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


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
