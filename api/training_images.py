"""The images of a training: makes one checked zip of them, from a form or an address.

All functions run in a Flask thread, inside a request.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api import incoming
from api.request_files import uploaded
from auth import Caller
from catalog.references import Upload
from datasets.build import Part, build
from datasets.captions import captions
from datasets.examine import Dataset, examine
from datasets.refusals import LARGEST, DatasetRefused, DatasetTooLarge
from errors import InvalidRequest, LedgerDown, PayloadTooLarge, Problem
from files.zips import ZipTooLarge, fetch_zip
from parsing.content import compared
from parsing.context import ParseContext
from parsing.shapes import GenerationRequest
from parsing.training_form import NamedFile
from parsing.trainings import IMAGES

_COPIED_AT_ONCE = 1024 * 1024


def zip_of_form(files: Sequence[NamedFile], directory: Path) -> Path:
    """The zip among the files of a form, or one that is made of them. Raises InvalidRequest, PayloadTooLarge and
    LedgerDown."""
    if len(files) == 1 and _is_zip(files[0]):
        return files[0].path
    target = directory / "images.zip"
    with _refusals():
        build([Part(each.name, each.path) for each in files], target)
    return target


def zip_at(address: Any, directory: Path, caller: Caller) -> Path:
    """The zip at an address, which may be that of an upload to this service. Raises InvalidRequest, PayloadTooLarge and
    LedgerDown."""
    if not isinstance(address, str):
        raise InvalidRequest([Problem(IMAGES, "must be the address of a zip, or files of a form", address)])
    target = directory / "images.zip"
    own = uploaded(caller, address, IMAGES)
    with _refusals():
        if own is not None:
            _copy(own, target)
            return target
        running = incoming.service()
        fetching = fetch_zip(
            address.strip(), target, most=LARGEST, loopback=running.settings.REPLICATE_SIMULATE
        )
        try:
            running.loop.run(fetching, disconnect=incoming.connection())
        except ZipTooLarge:
            raise DatasetTooLarge from None
        except ValueError as why:
            raise InvalidRequest([Problem(IMAGES, str(why), address)]) from None
    return target


def examined(path: Path, caller: Caller) -> Dataset:
    """The content of a zip that a training can use. Raises InvalidRequest, PayloadTooLarge and LedgerDown."""
    with incoming.limits().parsing.turn(caller.turn), _refusals():
        return examine(path)


def with_captions(
    request: GenerationRequest, path: Path, caller: Caller, context: ParseContext
) -> GenerationRequest:
    """The request, once its captions are compared with the rules for prompts. Raises ContentRefused and LedgerDown."""
    if context.rules is None:
        return request
    with incoming.limits().parsing.turn(caller.turn), _refusals(), path.open("rb") as file:
        return compared(request, ((f"{IMAGES}[{name}]", text) for name, text in captions(file)), context)


@contextmanager
def collected(problems: list[Problem]) -> Iterator[None]:
    """Adds the problems of an InvalidRequest that ends the block, and goes on."""
    try:
        yield
    except InvalidRequest as invalid:
        problems += invalid.problems


@contextmanager
def beside(problems: Sequence[Problem]) -> Iterator[None]:
    """Raises an InvalidRequest that ends the block with these problems, too."""
    try:
        yield
    except InvalidRequest as invalid:
        raise InvalidRequest([*problems, *invalid.problems]) from None


@contextmanager
def stored() -> Iterator[None]:
    """Turns the failure to store images into LedgerDown."""
    try:
        yield
    except OSError as error:
        raise LedgerDown(
            f"The images cannot be stored: {error.strerror or error}. Nothing was spent."
        ) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns refusals of zips into errors of this service, and failures of its disk into LedgerDown."""
    try:
        with stored():
            yield
    except DatasetTooLarge as large:
        text = str(large)
        raise PayloadTooLarge(f"{text[:1].upper()}{text[1:]}.") from None
    except DatasetRefused as refused:
        found = [
            Problem(IMAGES if each.name is None else f"{IMAGES}[{each.name}]", each.message)
            for each in refused.problems
        ]
        more = refused.count - len(found)
        raise InvalidRequest(
            found + ([Problem(IMAGES, f"has {more} more problems")] if more > 0 else [])
        ) from None


def _is_zip(file: NamedFile) -> bool:
    with file.path.open("rb") as content:
        return content.read(2) == b"PK"


def _copy(upload: Upload, target: Path) -> None:
    reader = upload.reader()
    with target.open("wb") as file:
        while part := reader.read(_COPIED_AT_ONCE):
            file.write(part)
