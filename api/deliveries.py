"""Notices whether the answer to a call of the OpenAI door arrived. If it did not, a retry may join the call.

All functions run in a Flask thread, inside a request, except `_Delivery._ended`.
"""

import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from flask import Response, after_this_request, request

from api import incoming
from errors import ServiceError
from generations.lost_calls import AT_ONCE, Answered
from ledger.access_records import LostCallRecord
from service import Runtime

_RETRIES: Final = "x-stainless-retry-count"


def number() -> int:
    """The number of this try, from 0 for the first."""
    count = request.headers.get(_RETRIES, "")
    return int(count) if count.isascii() and count.isdecimal() and len(count) < 5 else 0


@contextmanager
def refusals(service: Runtime, caller_id: str) -> Iterator[None]:
    """Notes a refusal after which the client retries, and has lost no work."""
    try:
        yield
    except ServiceError as error:
        if error.status == 429 or error.status >= 500:
            service.loop.submit(service.core.lost_calls.refused(caller_id))
        raise


def watch(service: Runtime, lost: LostCallRecord) -> None:
    """Watch the delivery of the response to this request, which may be an error. `lost` is the row of its call if it is
    lost."""
    connection = incoming.connection()
    if connection is not None:
        delivery = _Delivery(service, Answered(lost, number()), connection, retries=retries())
        after_this_request(delivery.watched)


def watch_stream(service: Runtime, lost: LostCallRecord) -> None:
    """Watch the delivery of the stream that is the response to this request, once it is whole."""
    connection = incoming.connection()
    if connection is not None and retries():
        after_this_request(_Delivery(service, Answered(lost, number()), connection, retries=True).streamed)


def retries() -> bool:
    """Whether the client of this request is one that retries, by its headers."""
    return _RETRIES in request.headers


class _Delivery:
    """The delivery of one response on a connection (`server.peer.Peer`). Only a client that `retries` is watched after
    the response."""

    def __init__(self, service: Runtime, answered: Answered, connection: Any, *, retries: bool) -> None:
        self._service = service
        self._answered = answered
        self._connection = connection
        self._retries = retries
        self._began_at = time.monotonic()
        self._written_at: float | None = None

    def watched(self, response: Response) -> Response:
        content = response.get_data()
        response.content_length = len(content)
        response.response = self._parts(content)
        response.call_on_close(self._close)
        return response

    def streamed(self, response: Response) -> Response:
        """Watch a stream. If it ends early, its client may come back only if that is at once after its begin."""
        response.response = self._events(response.iter_encoded())
        response.call_on_close(self._close_stream)
        return response

    def _events(self, events: Iterator[bytes]) -> Iterator[bytes]:
        yield from events
        self._written_at = time.monotonic()

    def _close_stream(self) -> None:
        if self._written_at is not None or time.monotonic() - self._began_at <= AT_ONCE:
            self._close()

    def _parts(self, content: bytes) -> Iterator[bytes]:
        yield content
        self._written_at = time.monotonic()  # the server takes the next part once it has written this one

    def _close(self) -> None:
        calls, lost = self._service.core.lost_calls, self._answered.lost
        if self._written_at is None:
            self._run(calls.lose(replace(lost, lost_at=time.time())))
        elif self._retries:
            self._connection.on_end = self._ended
            self._run(calls.answered(lost.caller_id))

    def _ended(self) -> None:
        """On the accepting thread, once the connection has ended without another request."""
        if self._written_at is not None and time.monotonic() - self._written_at <= AT_ONCE:
            self._run(self._service.core.lost_calls.ended(self._answered))

    def _run(self, noting: Coroutine[Any, Any, None]) -> None:
        try:
            self._service.loop.submit(noting)
        except RuntimeError:  # the loop has ended, since the service stops
            noting.close()
