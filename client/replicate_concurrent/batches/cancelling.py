"""Cancels batches and generations, several at once, since the service may take ten seconds to answer each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from replicate_concurrent.client import Client
from replicate_concurrent.errors import NotFound

_AT_ONCE: Final = 8
"""Requests at once."""

_POLL: Final = 0.5
"""Seconds until a wait is begun again, since Windows interrupts none."""


def cancel(client: Client, batches: Iterable[str], generations: Iterable[str] = ()) -> None:
    """Cancel what has not ended of these, with the items that the batches have joined, which the service leaves to run.
    Returns when all are answered. Raises the first error of a request, once all others are cancelled."""
    named = list(dict.fromkeys(batches))
    joined, unread = _each(partial(_joined, client), named)
    single = dict.fromkeys([*generations, *(each for found in joined for each in found)])
    paths = [*(f"/batches/{each}" for each in named), *(f"/generations/{each}" for each in single)]
    _, refused = _each(partial(_cancelled, client), paths)
    for error in (*unread, *refused):
        raise error


def _joined(client: Client, batch: str) -> list[str]:
    """The ids of the items that the batch has joined, and that have not ended."""
    try:
        found = client.batch_handle(batch).status()
    except NotFound:
        return []
    ended = {each.id for each in found.results if each.has_ended}
    return [each["id"] for each in found.raw.get("joined") or () if each["id"] not in ended]


def _cancelled(client: Client, path: str) -> None:
    with suppress(NotFound):  # the service has forgotten it, so it has ended
        client.request("DELETE", path)


def _each(function: Callable[[str], Any], arguments: Sequence[str]) -> tuple[list[Any], list[Exception]]:
    """The results of the function and its errors, in any order. Its threads are daemons, so they hold up no end of a
    program."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
    for argument in arguments:
        waiting.put(argument)
    for _ in arguments[:_AT_ONCE]:
        threading.Thread(target=_work, args=(function, waiting, done), daemon=True).start()
    answers = [_next(done) for _ in arguments]
    return (
        [found for found, error in answers if error is None],
        [error for _, error in answers if error is not None],
    )


def _work(
    function: Callable[[str], Any],
    waiting: queue.SimpleQueue[str],
    done: queue.SimpleQueue[tuple[Any, Exception | None]],
) -> None:
    while True:
        try:
            argument = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            done.put((function(argument), None))
        except Exception as error:
            done.put((None, error))


def _next(done: queue.SimpleQueue[Any]) -> tuple[Any, Exception | None]:
    while True:
        try:
            answer: tuple[Any, Exception | None] = done.get(timeout=_POLL)
        except queue.Empty:
            continue
        return answer
