"""Names of trained weights, and their storage in a local directory.

A name is the id of a training and a file: `trn_<32 hex>/flux-lora.tar`. The file is named as by its host, as far as
that is safe: letters, digits, `.`, `_` and `-`, and one of four endings. Any other string is refused before it becomes
part of a path or a key.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from files.directory import files_in, move_into, open_file
from files.names import is_usable
from files.storage import OpenFile, Source, StoredFile
from media.files import FILE_TYPES

_DEFAULT: Final = "weights.tar"

_MAX_STEM: Final = 100
"""Characters before the ending."""

_ENDING: Final = r"\.(?:tar|tar\.gz|zip|safetensors)"
_TRAINING: Final = re.compile(r"trn_[0-9a-f]{32}")
_FILE: Final = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{_MAX_STEM - 1}}}{_ENDING}")
_LAST: Final = re.compile(rf"(?P<stem>.+?)(?P<ending>{_ENDING})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WeightsName:
    """`training` is the id, `file` is as `flux-lora.tar`."""

    training: str
    file: str

    def __str__(self) -> str:
        return f"{self.training}/{self.file}"

    @property
    def media_type(self) -> str:
        return FILE_TYPES[Path(self.file).suffix].name


def parse_weights(name: str) -> WeightsName:
    """Split a name. Raises ValueError if it is malformed."""
    training, _, file = name.partition("/")
    if not (_TRAINING.fullmatch(training) and _FILE.fullmatch(file) and is_usable(file)):
        raise ValueError("not the name of kept weights")
    return WeightsName(training, file)


def name_of(training: str, url: str) -> WeightsName:
    """The name for the weights of a training at this URL. Raises ValueError if the id is malformed."""
    last = re.split(r"[/\\]", unquote(re.split("[?#]", url, maxsplit=1)[0]))[-1]
    found = _LAST.fullmatch(re.sub("[^A-Za-z0-9._-]+", "_", last))
    if found is not None:
        with suppress(ValueError):
            stem = found["stem"].lstrip(".")[:_MAX_STEM]
            return parse_weights(f"{training}/{stem}{found['ending'].lower()}")
    return parse_weights(f"{training}/{_DEFAULT}")


class WeightsDirectory:
    """Stores weights as `<training>/<file>` below `path`. Several processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, source: Source) -> None:
        known = parse_weights(name)
        move_into(source.file(True), self._path / str(known))

    def open(self, name: str) -> OpenFile | None:
        known = parse_weights(name)
        return open_file(self._path / str(known), known.media_type)

    def list(self) -> Iterator[StoredFile]:
        with suppress(FileNotFoundError), os.scandir(self._path) as trainings:
            for training in trainings:
                if _TRAINING.fullmatch(training.name) and training.is_dir(follow_symlinks=False):
                    yield from files_in(training, partial(_stored_name, training.name))

    def delete(self, name: str) -> bool:
        path = self._path / str(parse_weights(name))
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        with suppress(OSError):  # it has another file
            path.parent.rmdir()
        return True


def _stored_name(training: str, file: str) -> str:
    return str(parse_weights(f"{training}/{file}"))
