"""Calls to text models: chats, whole or in pieces, extractions by a schema, and batches of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from replicate_concurrent.answer_schemas import json_schema
from replicate_concurrent.errors import ConnectionLost, api_error
from replicate_concurrent.operations import batches, generating
from replicate_concurrent.operations.following import Reader, opened
from replicate_concurrent.operations.generating import Order
from replicate_concurrent.operations.local_files import is_path
from replicate_concurrent.operations.references import data_uri, is_file
from replicate_concurrent.operations.sending import Call, Service, new_key
from replicate_concurrent.operations.steps import Chunk, Close, Emit, Operation, Pause, do, now
from replicate_concurrent.results import Event, Upload
from replicate_concurrent.text_results import (
    ChatDelta,
    ExtractResult,
    Json,
    T,
    TextBatch,
    chat_result,
    extract_result,
    text_batch,
)

CHAT: Final = "/chat"
EXTRACT: Final = "/structured-output"

INSTRUCTION: Final = "Extract what the JSON Schema describes from the content."
"""The system prompt of an extraction without one."""

_OF_BATCH: Final = ("webhook", "metadata", "max_concurrent", "max_cost_usd", "external_semaphore_id")
"""The parameters of a batch that are those of the whole batch, and of no item."""

_AGAIN: Final = 0.5
"""Seconds until a stream that broke is joined again."""


def chat_order(
    prompt: str | None, parameters: Mapping[str, Any], *, idempotency_key: str | None = None
) -> Order:
    """An order of `POST /chat`, from the arguments of `chat` and `chat_stream`."""
    return _order(CHAT, {**parameters, "prompt": prompt}, idempotency_key)


def extract_order(
    content: str, schema: Any, parameters: Mapping[str, Any], *, idempotency_key: str | None = None
) -> Order:
    """An order of `POST /structured-output`. Raises TypeError for a schema that is none."""
    return _order(EXTRACT, _extraction(content, schema, parameters), idempotency_key)


def chat_batch_order(
    prompts: Sequence[str] | None,
    requests: Sequence[Mapping[str, Any]] | None,
    common: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
) -> Order:
    """An order of `POST /batch/chat`. Raises TypeError unless there are either prompts or requests."""
    if isinstance(prompts, str) or (prompts is None) == (requests is None):
        raise TypeError("chat_batch takes a list of prompts, or requests=[…]")
    of_batch, of_item = _parted(common)
    items = requests if requests is not None else [{"prompt": each} for each in prompts or ()]
    return _order(
        f"/batch{CHAT}", {**of_batch, "requests": [{**of_item, **each} for each in items]}, idempotency_key
    )


def extract_batch_order(
    contents: Sequence[str], schema: Any, common: Mapping[str, Any], *, idempotency_key: str | None = None
) -> Order:
    """An order of `POST /batch/structured-output`, with one schema or a list of one for each. Raises TypeError."""
    if isinstance(contents, str):
        raise TypeError("contents is a list of texts, and not one text")
    schemas = list(schema) if isinstance(schema, (list, tuple)) else [schema] * len(contents)
    if len(schemas) != len(contents):
        raise TypeError(f"there are {len(contents)} contents and {len(schemas)} schemas")
    of_batch, of_item = _parted(common)
    items = [_extraction(each, its, of_item) for each, its in zip(contents, schemas, strict=True)]
    return _order(f"/batch{EXTRACT}", {**of_batch, "requests": items}, idempotency_key)


def answer(service: Service, requested: Order, view: Callable[[Json], T]) -> Operation[T]:
    """The `view` of the JSON of a call that has ended. Raises as `generating.generate`."""
    ready = yield from do(_with_images, requested)
    return view((yield from generating.generate(service, ready)).raw)


def extracted(service: Service, requested: Order, schema: Any) -> Operation[ExtractResult]:
    """The extraction by a schema, once it has ended. Raises as `answer`."""
    return (yield from answer(service, requested, partial(extract_result, schema=schema)))


def answers(service: Service, requested: Order, view: Callable[[Json], T]) -> Operation[TextBatch[T]]:
    """The batch with the `view` of each item, in input order. Failed items do not raise."""
    ready = yield from do(_with_images, requested)
    return text_batch((yield from batches.run(service, ready)), view)


def all_extracted(service: Service, requested: Order, schema: Any) -> Operation[TextBatch[ExtractResult]]:
    """The batch of extractions by one schema, or by a list of one for each."""
    made = yield from answers(service, requested, partial(extract_result, schema=schema))
    if not isinstance(schema, (list, tuple)):
        return made
    return replace(made, results=tuple(replace(each, schema=schema[each.index or 0]) for each in made))


def stream(service: Service, requested: Order) -> Operation[None]:
    """Emit the text of a chat in pieces, and the result at its end.

    A stream that breaks is joined again by its key: its text goes on, or the whole answer comes. Raises ApiError, also
    for a chat that failed, BadAnswer for no stream, and ConnectionLost if no new text comes within the client's
    timeout.
    """
    ready = yield from do(_with_images, requested)
    body, key = {**ready.body, "stream": True}, ready.key or new_key()
    call = Call("POST", CHAT, json=body, key=key, is_streamed=True, is_text=True)
    text = _Text()
    heard = yield from now()
    while True:
        response = yield from opened(service, call, deadline=heard + service.timeout)
        reader, lost = Reader(), "it ended before its answer"
        text.replay()
        try:
            while (chunk := (yield Chunk(response))) is not None:
                for event, _ in reader.read(chunk):
                    for piece in text.pieces(event):
                        heard = yield from now()
                        yield Emit(piece)
                        if piece.result is not None:
                            return
        except httpx.RequestError as error:
            lost = str(error) or type(error).__name__
        except _Interrupted as interrupted:
            lost = str(interrupted)
        yield Close(response)
        if (yield from now()) - heard > service.timeout:
            raise ConnectionLost(f"the stream of the chat broke off: {lost}")
        yield Pause(_AGAIN)


class _Interrupted(Exception):
    """The service ended the stream, and the chat goes on under its key."""


class _Text:
    """The text of a chat so far. A stream that joins it begins with the text that was there already."""

    def __init__(self) -> None:
        self._shown = ""
        self._replayed: str | None = None

    def replay(self) -> None:
        """The text comes from its beginning now."""
        self._replayed = ""

    def pieces(self, event: Event) -> list[ChatDelta]:
        """The new text of this event. Raises ApiError, and _Interrupted if the chat can be joined again."""
        if event.name == "error":
            error = api_error(event.data)
            if error.retryable and error.id is None:
                raise _Interrupted(str(error))
            raise error
        if "delta" in event.data:
            piece = self._new(str(event.data["delta"]))
            return [ChatDelta(piece)] if piece else []
        if "success" not in event.data:
            return []  # of a newer service
        result = chat_result(event.data)
        rest = result.response[len(self._shown) :] if result.response.startswith(self._shown) else ""
        return [*([ChatDelta(rest)] if rest else []), ChatDelta("", result)]

    def _new(self, piece: str) -> str:
        """The part of a piece that was not there before."""
        if self._replayed is not None:
            self._replayed += piece
            if self._shown.startswith(self._replayed):
                return ""
            piece, self._replayed = self._replayed, None
            if piece.startswith(self._shown):
                piece = piece[len(self._shown) :]
            else:
                self._shown = ""  # a call that was repeated has another text
        self._shown += piece
        return piece


def _order(path: str, body: Mapping[str, Any], key: str | None) -> Order:
    if "stream" in body or "dry_run" in body:
        raise TypeError(
            "stream and dry_run are no parameters: call chat_stream(…), or request(…) for a forecast"
        )
    sent = {name: each for name, each in body.items() if each is not None}
    return Order(sent, key, path=path, is_text=True)


def _extraction(content: str, schema: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "system_prompt": INSTRUCTION,
        **{name: each for name, each in parameters.items() if each is not None},
        "user_content": content,
        "json_schema": json_schema(schema),
    }


def _parted(common: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of the batch, and those of each item."""
    of_item = {name: each for name, each in common.items() if name not in _OF_BATCH and each is not None}
    return {name: each for name, each in common.items() if name in _OF_BATCH}, of_item


def _with_images(requested: Order) -> Order:
    """The order with its images as `data:` URIs. It reads files, so it may block. Raises OSError and TypeError."""
    body = _embedded(requested.body)
    if "requests" in body:
        body["requests"] = [_embedded(each) for each in body["requests"]]
    return replace(requested, body=body)


def _embedded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its images, and those of its messages, as `data:` URIs."""
    found = dict(fields)
    if (listed := found.get("images")) is not None:
        found["images"] = [
            _image(each) for each in (listed if isinstance(listed, (list, tuple)) else [listed])
        ]
    if isinstance(found.get("messages"), (list, tuple)):
        found["messages"] = [
            _embedded(each) if isinstance(each, Mapping) else each for each in found["messages"]
        ]
    return found


def _image(image: Any) -> Any:
    if isinstance(image, Upload):
        raise TypeError("calls to text models take no upload: pass the file itself")
    if is_path(image):
        image = Path(image).expanduser()
    return data_uri(image) if is_file(image) else image
