"""Downloads the weights of a training into a file. A download that breaks off goes on where it was, unless the file has
changed. Unlike outputs, weights are only for their owner, so the requests have the key."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

import httpx

from replicate_concurrent import filenames
from replicate_concurrent.errors import BadOutput, ConnectionLost, OutputLost
from replicate_concurrent.operations.fetching import beside, remove, sync
from replicate_concurrent.operations.saving import renamed, taken
from replicate_concurrent.operations.sending import Call, Service, pause_after, quoted, send
from replicate_concurrent.operations.steps import Chunk, Close, Operation, Pause, do, now
from replicate_concurrent.operations.trainings import look, raise_if_failed
from replicate_concurrent.training_results import Training

FIELDS: Final = ("model",)
"""The fields of a name, beside those that any name may have. `model` is the name of the destination."""


def save(
    service: Service, target: str, directory: str | Path, name: str, *, overwrite: bool
) -> Operation[Path]:
    """Write the weights of a training that has ended into the directory, by the template `name`. Returns their path.

    Raises FileExistsError before anything is fetched, ValueError for a name that is none, OutputLost if the service has
    no weights, BadOutput, ConnectionLost, and the error of a training that failed.
    """
    filenames.check(name, FIELDS)
    made = yield from look(service, target)
    raise_if_failed(made)
    if made.weights is None:
        raise OutputLost(f"The service has no weights of {target}: {_reason(made)}")
    kept = unquote(PurePosixPath(urlsplit(made.weights).path).name)
    path = Path(directory) / _named(name, made, kept)
    if not overwrite and (yield from do(path.exists)):
        raise taken(path)
    fetched = yield from do(beside, path.parent)
    try:
        with (yield from do(_opened, fetched)) as file:
            yield from _download(service, f"/trainings/{quoted(target)}/weights/{quoted(kept)}", file)
            yield from do(sync, file)
        yield from do(_publish, fetched, path, overwrite)
    finally:
        remove(fetched)
    return path


def _reason(made: Training) -> str:
    if not made.has_ended:
        return f"it is {made.status}."
    # Other warnings are of its images.
    reasons = [each for each in made.warnings if "weights could not be kept" in each]
    return " ".join(reasons) or "they were deleted, or are not kept any more."


def _named(template: str, made: Training, kept: str) -> str:
    named = filenames.rendered(template, {"model": made.destination.rpartition("/")[2]})
    return filenames.completed(named, extension=PurePosixPath(kept).suffix, generation=made.id)


def _opened(path: Path) -> BinaryIO:
    return path.open("wb")


def _publish(fetched: Path, path: Path, overwrite: bool) -> None:
    renamed(fetched, path, overwrite=overwrite)


def _download(service: Service, path: str, file: BinaryIO) -> Operation[None]:
    """Write the whole file. Raises ConnectionLost if no bytes come within the client's timeout, and BadOutput if it is
    empty."""
    size, attempt, etag = 0, 0, ""
    heard = yield from now()
    while True:
        headers = {"Accept-Encoding": "identity"}  # so that its length is that of the file
        if size and etag:
            headers |= {"Range": f"bytes={size}-", "If-Range": etag}
        call = Call("GET", path, headers=headers, is_streamed=True)
        response = yield from send(service, call, deadline=heard + service.timeout)
        if response.status_code != 206:
            size = 0
            yield from do(file.seek, 0)
            yield from do(file.truncate)
        etag, stated = response.headers.get("etag", ""), response.headers.get("content-length")
        whole = None if stated is None else size + int(stated)
        lost: httpx.RequestError | None = None
        try:
            while chunk := (yield Chunk(response)):
                yield from do(file.write, chunk)
                size, attempt = size + len(chunk), 0
                heard = yield from now()
        except httpx.RequestError as error:
            lost = error
        yield Close(response)
        if lost is None and whole in (None, size):
            if not size:
                raise BadOutput(f"{path} is empty")
            return
        pause = pause_after(lost, attempt, service.jitter())
        attempt += 1
        if (yield from now()) + pause > heard + service.timeout:
            raise ConnectionLost(f"{path} broke off after {size} bytes: {lost or f'it has {whole}'}")
        yield Pause(pause)
