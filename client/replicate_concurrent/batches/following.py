"""Sends the rows of a batch, and follows them and those of earlier runs until each has ended.

Rows of earlier runs are looked up by the ids of their generations and batches, so the result is right also after
the service has forgotten their keys. Only a row whose batch was never answered is sent again, under its key.

The service keeps `max_concurrent` for each batch. So with that option, no batch is sent before all earlier ones have
ended, and the rows together obey it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from replicate_concurrent.batches import cancelling
from replicate_concurrent.batches.manifest import Line
from replicate_concurrent.batches.planning import RowsRefused, chunks, explained
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.client import Client
from replicate_concurrent.errors import InvalidRequest, NotFound, ReplicateConcurrentError
from replicate_concurrent.operations.sending import json_of
from replicate_concurrent.results import Generation

METADATA: Final = "rcg_row"
"""The name in the metadata of a generation under which the key of its row is."""

_MOST_METADATA: Final = 16
"""Pairs that the service takes. A row with as many gets none of ours."""

_REMEMBERED: Final = 20 * 3600.0
"""Seconds for which the service is relied on to know a key. It forgets ended work after 24 hours."""

_PAUSE: Final = 2.0
"""Seconds between two looks at a generation of an earlier run."""


@dataclass(frozen=True)
class Accepted:
    """The service has accepted a batch of the rows with these keys, in this order."""

    batch: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Arrived:
    """A row has ended at the service."""

    key: str
    generation: Generation


@dataclass(frozen=True)
class Unknown:
    """The service knows the row no more, by the ids that it once had."""

    key: str
    error: Mapping[str, Any]


@dataclass(frozen=True)
class Begun:
    """One more source of news, which will put an `Over`."""


@dataclass(frozen=True)
class Over:
    """A source of news has ended, perhaps with the error that ended it."""

    error: Exception | None = None


News = Accepted | Arrived | Begun | Over | Unknown


class NoItemKeys(ReplicateConcurrentError):
    """The service is too old for a batch that cannot be lost."""


class Follower:
    """Puts news of rows into a queue, from threads of its own. They are daemons, so they hold up no end of a program.

    `options` are further fields of the batch; `at` is the Unix time.
    """

    def __init__(
        self, client: Client, news: queue.SimpleQueue[Any], options: Mapping[str, Any], *, at: float
    ) -> None:
        self._client = client
        self._news = news
        self._options = options
        self._at = at
        self.batches: list[str] = []
        """The ids of all batches that were sent or joined."""
        self._single: list[str] = []
        """The ids of the running generations that no known batch has."""
        self.unsent = 0
        """Rows that are still to be sent, some perhaps a second time: an earlier run got no answer for them."""
        self._followed: list[threading.Thread] = []
        """Each ends when the batch, or the generations, that it follows have ended."""
        self._is_stopped = threading.Event()
        self._is_cancelled = threading.Event()

    def start(self, opened: Sequence[Line], new: Sequence[Line], rows: Mapping[str, Row]) -> int:
        """Follow the opened lines, and send the new ones; `rows` has the row of each by its digest. Returns the number
        of sources: each puts an `Over`."""
        joined: dict[str, list[Line]] = {}
        single, to_send = [], []
        for line in opened:
            if line.generation is None and line.batch is not None:
                joined.setdefault(line.batch, []).append(line)
            elif line.generation is not None or self._at - line.at > _REMEMBERED:
                single.append(line)
            else:
                to_send.append(line)
        self.unsent = len(to_send) + len(new)
        for batch, lines in joined.items():
            self.batches.append(batch)
            self._follow(self._join, batch, {line.place: line.key for line in lines})
        if single or to_send or new:
            self._source(self._look_up_and_send, single, [*to_send, *new], rows)
            return len(joined) + 1
        return len(joined)

    def stop(self) -> None:
        """Send no more rows. What was sent is followed to its end."""
        self._is_stopped.set()

    def cancel(self) -> None:
        """Cancel what has not ended. Rows that are not sent stay so, and a batch whose answer is not here yet is
        cancelled when it comes."""
        self.stop()
        self._is_cancelled.set()  # before the lists are read: a batch that is appended later looks at it
        cancelling.cancel(self._client, list(self.batches), list(self._single))

    def _follow(self, function: Callable[..., None], *arguments: Any) -> None:
        self._followed.append(self._source(function, *arguments))

    def _source(self, function: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        thread.start()
        return thread

    def _run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        error: Exception | None = None
        try:
            function(*arguments)
        except Exception as reason:
            self.stop()  # what it followed may still run
            error = reason  # raised in the thread that takes the news
        self._news.put(Over(error))

    def _join(self, batch: str, keys: Mapping[int, str]) -> None:
        """Follow a batch. `keys` are those of its items that this run has, by their index in it."""
        missing = dict(keys)
        try:
            for generation in self._client.batch_handle(batch).results():
                key = missing.pop(-1 if generation.index is None else generation.index, None)
                if key is not None:
                    self._news.put(Arrived(key, generation))
        except NotFound as error:
            reason: Mapping[str, Any] = error.raw
        else:
            reason = {"code": "not_found", "detail": f"{batch} has no such item."}
        for key in missing.values():
            self._news.put(Unknown(key, reason))

    def _look_up_and_send(
        self, single: Sequence[Line], lines: Sequence[Line], rows: Mapping[str, Row]
    ) -> None:
        """Look up the generations that no known batch has, send the others, and follow both."""
        to_send, running = list(lines), []
        for line in single:
            try:
                generation = self._looked_up(line)
            except NotFound as error:
                self._news.put(Unknown(line.key, error.raw))
                continue
            if generation is None:  # the service never got its batch
                to_send.append(line)
            elif generation.has_ended:
                self._news.put(Arrived(line.key, generation))
            else:
                running.append((line.key, generation.id))
                self._single.append(generation.id)
                if self._is_cancelled.is_set():
                    cancelling.cancel(self._client, [], [generation.id])
        if running:
            self._news.put(Begun())
            self._follow(self._end_each, running)
        self._send(to_send, rows)

    def _end_each(self, running: Sequence[tuple[str, str]]) -> None:
        """Follow generations. Each has the key of its row, and its id."""
        for key, generation_id in running:
            self._news.put(Arrived(key, self._ended(generation_id)))

    def _send(self, lines: Sequence[Line], rows: Mapping[str, Row]) -> None:
        """Send the rows of these lines, in as few batches as the service takes, and follow each."""
        of_row = {line.digest: line.key for line in lines}
        self.unsent = len(lines)
        for chunk in chunks([rows[line.digest] for line in lines]):
            if "max_concurrent" in self._options:
                for earlier in self._followed:
                    earlier.join()
            if self._is_stopped.is_set():
                break
            keys = [of_row[row.digest] for row in chunk]
            self.unsent -= len(chunk)
            batch = self._sent(chunk, keys)
            self.batches.append(batch)
            self._news.put(Accepted(batch, tuple(keys)))
            self._news.put(Begun())
            self._follow(self._join, batch, dict(enumerate(keys)))
            if self._is_cancelled.is_set():
                cancelling.cancel(self._client, [batch])

    def _looked_up(self, line: Line) -> Generation | None:
        """The generation of a row, by its id, or by the key in its metadata; None if there is none. Raises NotFound."""
        if line.generation is not None:
            return self._client.handle(line.generation).status()
        query = {f"metadata.{METADATA}": line.key}
        listed = json_of(self._client.request("GET", "/generations", params=query)).get("generations") or []
        found = [each["id"] for each in listed if (each.get("metadata") or {}).get(METADATA) == line.key]
        return self._client.handle(found[0]).status() if found else None

    def _ended(self, generation_id: str) -> Generation:
        """The generation, once it has ended."""
        while not (generation := self._client.handle(generation_id).status()).has_ended:
            time.sleep(_PAUSE)
        return generation

    def _sent(self, rows: Sequence[Row], keys: Sequence[str]) -> str:
        """Send a batch. Returns its id. Raises NoItemKeys, and ValueError for rows that the service refuses."""
        items = [_item(row, key) for row, key in zip(rows, keys, strict=True)]
        try:
            return self._client.submit_batch(requests=items, **self._options).id
        except InvalidRequest as error:
            if any(each.field.endswith(".idempotency_key") for each in error.fields):
                raise NoItemKeys(
                    "The service is older than this client: it takes no key for an item, so rows could be made twice. "
                    "Update the service, or send the rows by `Client.batch`."
                ) from error
            raise RowsRefused(explained(error, rows)) from error


def _item(row: Row, key: str) -> dict[str, Any]:
    """The item of a row as it is sent: the same in each run."""
    metadata = row.request.get("metadata") or {}
    if len(metadata) < _MOST_METADATA:
        metadata = {**metadata, METADATA: key}
    return {**row.request, "metadata": metadata, "idempotency_key": key}
