"""Saves the outputs of a generation as files: written beside their names, checked, and renamed when all are whole."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from replicate_concurrent import filenames
from replicate_concurrent.errors import OutputLost
from replicate_concurrent.filetypes import extension_of
from replicate_concurrent.operations.fetching import Fetched, fetch, remove, write_beside
from replicate_concurrent.operations.generating import raise_if_failed, wait
from replicate_concurrent.operations.sending import Service
from replicate_concurrent.operations.steps import Operation, do, now
from replicate_concurrent.results import Generation

FIELDS = ("index", "model", "slug")
"""The fields of a name, beside those that any name may have."""

_TEXTS = ("text", "data")
"""The kinds whose output is no file."""


def save(
    service: Service, made: Generation, directory: str | Path, name: str, *, overwrite: bool
) -> Operation[list[Path]]:
    """Write the outputs into the directory, by the template `name`. Returns their paths, in order.

    Raises FileExistsError before anything is fetched where that is known, ValueError for a name that is none,
    OutputLost when the other outputs are saved, BadOutput, ConnectionLost, and the error of a generation that failed.
    """
    filenames.check(name, FIELDS)
    if not made.has_ended:
        made = yield from wait(service, made.id, timeout=service.timeout)
    raise_if_failed(made)
    target = _Target(Path(directory), name, made, overwrite)
    sources = list(_sources(made))
    if not sources:
        raise OutputLost(f"{made.id} has no output: {made.raw.get('files_error') or made.status}")
    yield from do(target.check, [_expected(each) for each in sources])
    deadline = (yield from now()) + service.timeout
    fetched: dict[int, Fetched] = {}
    lost: list[str] = []
    try:
        for number, each in enumerate(sources, 1):
            found = yield from _source(service, each, target.folder, deadline)
            if isinstance(found, OutputLost):
                lost += found.lost
            else:
                fetched[number] = found
        paths = yield from do(target.publish, fetched)
    finally:
        for left in fetched.values():
            remove(left.path)
    if lost:
        raise OutputLost(*lost, saved=paths)
    return paths


class _Target:
    """The names of the outputs of one generation."""

    def __init__(self, directory: Path, template: str, made: Generation, overwrite: bool) -> None:
        values = {
            "index": 1 if made.index is None else made.index + 1,
            "model": made.model_name.rpartition("/")[2].split(":")[0],
            "slug": filenames.slug(made.prompt or ""),
        }
        self._directory = directory
        self._name = filenames.rendered(template, values)
        self._id = made.id
        self._overwrite = overwrite

    @property
    def folder(self) -> Path:
        """Where the files are written, on the file system of their names."""
        return self._path(1, "bin").parent

    def check(self, extensions: Sequence[str | None]) -> None:
        """Raise FileExistsError for a name that is taken, as far as the names are known by now."""
        if not self._overwrite:
            for number, extension in enumerate(extensions, 1):
                path = self._path(number, extension or "bin")
                if (extension or "{ext}" not in self._name) and path.exists():
                    raise taken(path)

    def publish(self, fetched: Mapping[int, Fetched]) -> list[Path]:
        """Give the files their names, by their numbers from 1. Raises FileExistsError, and then none has one."""
        paths = [self._path(number, each.extension) for number, each in fetched.items()]
        done: list[Path] = []
        try:
            for each, path in zip(fetched.values(), paths, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                renamed(each.path, path, overwrite=self._overwrite)
                done.append(path)
        except BaseException:
            if not self._overwrite:
                for path in done:
                    remove(path)
            raise
        return paths

    def _path(self, number: int, extension: str) -> Path:
        named = filenames.completed(self._name, extension=extension, generation=self._id, number=number)
        return self._directory / named


def _sources(made: Generation) -> Iterator[list[str] | tuple[str, bytes]]:
    """Each output: the addresses that may have it, or its extension and its content."""
    links = list(_links(made.output))
    if made.files or made.kind not in _TEXTS:
        kept = {_number(each): each for each in made.files}
        numbers = range(1, len(links) + 1)
        if kept.keys() <= set(numbers) and len(kept) == len(made.files):
            yield from ([*filter(None, (kept.get(number), links[number - 1]))] for number in numbers)
        else:
            yield from ([each] for each in made.files)
        if made.files or links:
            return
    if made.output and all(isinstance(each, str) for each in made.output):
        yield "txt", "".join(made.output).encode()
    elif made.output:
        shown = made.output[0] if len(made.output) == 1 else made.output
        yield "json", json.dumps(shown, ensure_ascii=False, indent=1).encode()


def _number(link: str) -> int:
    """The number of an output, from 1, by the link to the kept file: `gen_….jpg`, `gen_…-2.jpg`."""
    found = re.search(r"-([0-9]{1,4})\Z", PurePosixPath(urlsplit(link).path).stem)
    return int(found[1]) if found else 1


def _links(output: Any) -> Iterator[str]:
    """The addresses in an output, in order, also inside lists and objects."""
    if isinstance(output, str):
        if output.startswith(("http://", "https://", "data:")):
            yield output
    elif isinstance(output, (list, tuple)):
        for each in output:
            yield from _links(each)
    elif isinstance(output, dict):
        for each in output.values():
            yield from _links(each)


def _expected(source: list[str] | tuple[str, bytes]) -> str | None:
    return source[0] if isinstance(source, tuple) else extension_of(source[0])


def _source(
    service: Service, source: list[str] | tuple[str, bytes], folder: Path, deadline: float
) -> Operation[Fetched | OutputLost]:
    """The output in a file, or the error if no place keeps it: the others are saved all the same."""
    if isinstance(source, list):
        try:
            return (yield from fetch(service, source, folder, deadline=deadline))
        except OutputLost as error:
            return error
    extension, content = source
    return Fetched((yield from do(write_beside, folder, content)), extension)


def renamed(beside: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a file. Without `overwrite`, this fails if the name is taken, also by another process just now."""
    if overwrite:
        beside.replace(path)
        return
    try:
        os.link(beside, path)
    except FileExistsError:
        raise taken(path) from None
    except OSError:  # a file system without links
        if os.name != "nt" and path.exists():
            raise taken(path) from None
        beside.rename(path)  # on Windows this fails if the name is taken
    else:
        with suppress(OSError):
            beside.unlink()


def taken(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists; overwrite=True replaces it")
