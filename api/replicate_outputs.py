"""Answers with the output of a prediction: links to its kept files if PUBLIC_URL is https, and else their content.

The official client makes files of `https:` and `data:` addresses only.
"""

from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from flask import Response, jsonify

from api import incoming
from api.files import kept_file
from doors.replicate import predictions
from errors import QueueFull
from files.storage import OpenFile
from ledger.records import GenerationRecord

LARGEST: Final = 16_000_000
"""The most bytes of a file that is part of an answer. A larger one is a link."""


def answer(body_of: Callable[..., dict[str, Any]], record: GenerationRecord, caller_id: str) -> Response:
    """The response with a prediction, made by `body_of`. Its files count as memory of the caller's until the response
    is sent. Raises QueueFull if there is no memory for them; a creation is then answered without its output."""
    address = incoming.address()
    found = _Outputs(record, address, most=incoming.limits().large_bodies.share * 3 // 4)
    is_public = address.startswith("https://")
    link, size = (found.link, 0) if is_public else (found.inline, found.size())
    if not size:
        return jsonify(body_of(record, address, link=link, content=found.content))
    try:
        leave = incoming.take_memory(caller_id, size)
    except QueueFull:
        if body_of is not predictions.created:
            raise
        return jsonify(predictions.as_starting(record, address))
    try:
        response = jsonify(body_of(record, address, link=link, content=found.content))
    except BaseException:
        leave()
        raise
    response.call_on_close(leave)
    return response


class _Outputs:
    """The kept files of one generation, of which at most so many bytes in all are part of an answer."""

    def __init__(self, record: GenerationRecord, address: str, *, most: int) -> None:
        self._record = record
        self._links = predictions.links(record, address)
        self._most = self._left = most

    def size(self) -> int:
        """The bytes of memory that the content of all files takes in an answer, of those that are small enough."""
        total = 0
        for name in self._record.files if self._record.succeeded else ():
            opened = self._open(name)
            if opened is not None:
                with closing(opened):
                    total += opened.size if opened.size <= LARGEST else 0
        return min(total, self._most) * 4 // 3

    def link(self, name: str) -> str | None:
        """The link to a file, None if it is not kept any more."""
        if name.startswith("data:"):
            return name
        opened = self._open(name)
        if opened is None:
            return None
        opened.close()
        return self._links(name)

    def inline(self, name: str) -> str | None:
        """The content of a file as a `data:` URI, or the link to one that is too large."""
        if name.startswith("data:"):
            return name
        opened = self._open(name)
        if opened is None:
            return None
        with closing(opened):
            if opened.size > min(LARGEST, self._left):
                return self._links(name)
            self._left -= opened.size
            content = b64encode(opened.content()).decode()
            return f"data:{opened.media_type};base64,{content}"

    def content(self, name: str) -> bytes | None:
        """The content of a file that holds an output which was too large for the ledger."""
        opened = self._open(name)
        if opened is None:
            return None
        with closing(opened):
            return opened.content() if opened.size <= LARGEST else None

    def _open(self, name: str) -> OpenFile | None:
        return kept_file(self._record.id, name)
