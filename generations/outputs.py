"""Keeps the outputs of a prediction: fetches its files, and finds out of which kind they are.

Text and other JSON is part of the answer and of the ledger. If it has more than `MAX_INLINE` bytes, it is kept as a
file instead, so that a row and an answer stay small. Outputs are made and paid for, so an error here does not fail the
attempt, unless none of them exists.
"""

import asyncio
import json
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Final

import structlog

from catalog.model import Model
from catalog.outputs import Url
from catalog.references import decoded_data_uri
from files import Files, StoredOutputs
from files.names import link_name
from files.storage import MAX_OUTPUTS
from generations.attempt import raise_no_outputs
from generations.attempts import Attempt
from generations.door_calls import keep_shape
from generations.generation import Generation
from media.files import FILE_TYPES, ending_of, file_type
from media.formats import HEAD, Kind

MAX_INLINE: Final = 1_000_000
"""Bytes of text and other JSON in the ledger and in answers."""

_NONE: Final = StoredOutputs((), None)
_CANCELLED: Final = StoredOutputs((), "The generation was cancelled before all outputs were fetched.")

_log = structlog.get_logger("files")


async def keep_outputs(files: Files | None, generation: Generation, attempt: Attempt) -> None:
    """Keep the outputs of an attempt that has succeeded. Raises ServiceError if none of them exists."""
    urls, is_any = attempt.produced.files, not attempt.model.output.is_media
    kept = await _fetched(files, generation, urls, any_type=is_any) if files and urls else _NONE
    if kept.missing:  # otherwise its cost stays as it is
        attempt.missing = kept.missing
    generation.outputs = attempt.made
    if not generation.outputs:
        raise_no_outputs(attempt, kept.error or "")
    generation.kinds = tuple(
        _kind(attempt.model, url, kept.names[number] if number < len(kept.names) else None)
        for number, url in enumerate(urls)
        if number not in kept.missing
    )
    generation.files = tuple(link_name(generation.id, name) for name in kept.names if name is not None)
    generation.files_error = kept.error
    if files and is_any and len(urls) < MAX_OUTPUTS:
        await _keep_if_large(files, generation, attempt, number=len(urls))
    keep_shape(generation, attempt, urls, kept.names)


async def _fetched(
    files: Files, generation: Generation, urls: tuple[Url, ...], *, any_type: bool
) -> StoredOutputs:
    try:
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError  # the prediction was done before it could be cancelled: do not fetch
        return await files.keep(generation.id, urls, any_type=any_type)
    except asyncio.CancelledError:
        if not generation.is_cancelled:
            raise
        return _CANCELLED


async def _keep_if_large(files: Files, generation: Generation, attempt: Attempt, *, number: int) -> None:
    """Move outputs that are too large for an answer to a file of this number: the text, or the JSON of the prediction.
    If it cannot be stored, they stay in the answer."""
    values = generation.outputs
    if all(isinstance(each, Url) for each in values) or len(json.dumps(values)) <= MAX_INLINE:
        return
    text = values[0] if len(values) == 1 and isinstance(values[0], str) else None
    output = attempt.prediction.output if attempt.prediction else None
    content = json.dumps(output, ensure_ascii=False) if text is None else text
    try:
        name = await files.put(generation.id, number, content.encode())
    except OSError as error:
        _log.error("output_store_failed", generation=generation.id, number=number, error=str(error))
        return
    except asyncio.CancelledError:
        if not generation.is_cancelled:
            raise
        return
    generation.outputs = ()
    generation.kinds = (*generation.kinds, "data" if text is None else "text")
    generation.files = (*generation.files, link_name(generation.id, name))


def _kind(model: Model, url: Url, name: str | None) -> Kind:
    """The kind of a file: by its content, if it is kept under this name or is a `data:` URI."""
    if model.output.is_media:
        return model.kind or "data"
    if name is None and url[:5].lower() == "data:":
        with suppress(ValueError):
            declared, content = decoded_data_uri(url)
            return file_type(content[:HEAD], declared).kind
    ending = PurePosixPath(name).suffix if name else ending_of(url)
    return FILE_TYPES[ending].kind if ending in FILE_TYPES else "data"
