"""Reads the `multipart/form-data` (RFC 7578) of a training: its fields, and images with their captions as files.

Files are streamed to disk, and keep their names, since a caption belongs to the image of the same name. A field
`input.steps`, and a JSON object `input`, give the inputs of the trainer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Field, File

from catalog.model import text_fields
from catalog.text_values import FormText
from errors import InvalidRequest, PayloadTooLarge, Problem
from parsing.multipart_form import json_or_text, read_parts, text_of
from parsing.params import INPUT
from parsing.trainings import IMAGES, TrainingFields

MOST_PARTS: Final = 2_100
_MOST_TEXT: Final = 1_000_000

_REPEATED: Final = "is there more than once"

_TEXTS: Final = frozenset({*text_fields(TrainingFields.model_json_schema()), IMAGES})
"""Fields that hold text, also if it looks like a number."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file of the form: its name there, and the path of its content."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class TrainingForm:
    fields: Mapping[str, Any]
    files: Sequence[NamedFile]


def read_training_form(stream: IO[bytes], *, options: Mapping[str, str], directory: Path) -> TrainingForm:
    """The fields and files of a form. `options` are the parameters of its Content-Type, and `directory` gets the files.
    Raises InvalidRequest, and PayloadTooLarge for too many parts or too much text."""
    reader = _Reader(directory)
    try:
        for part, content in read_parts(
            stream, options, most_parts=MOST_PARTS, most_text=_MOST_TEXT, open_file=reader.open_file
        ):
            reader.take(part, content)
    except RequestEntityTooLarge:
        raise PayloadTooLarge(
            f"The form is too large: more than {MOST_PARTS} parts, or {_MOST_TEXT} bytes of text."
        ) from None
    except ValueError:
        raise InvalidRequest([Problem("body", "is not the multipart/form-data that it should be")]) from None
    finally:
        reader.close()
    return reader.form()


class _Reader:
    """Collects the parts of a form."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: list[tuple[Path, IO[bytes]]] = []
        self._fields: dict[str, Any] = {}
        self._inside: dict[str, FormText] = {}
        self._files: list[NamedFile] = []
        self._problems: list[Problem] = []

    def open_file(self) -> IO[bytes]:
        path = self._directory / str(len(self._opened))
        self._opened.append((path, path.open("w+b")))
        return self._opened[-1][1]

    def close(self) -> None:
        for _, file in self._opened:
            file.close()

    def form(self) -> TrainingForm:
        """Raises InvalidRequest."""
        self._put_inside()
        if self._files and IMAGES in self._fields:
            self._problems.append(Problem(IMAGES, "is both an address and files"))
        if self._problems:
            raise InvalidRequest(self._problems)
        return TrainingForm(self._fields, self._files)

    def take(self, part: Field | File, content: IO[bytes]) -> None:
        if isinstance(part, Field):
            self._put(part.name or "", text_of(part, content))
            return
        is_empty = not part.filename and not content.read(1)
        content.close()
        if is_empty:
            return
        if part.name == IMAGES:
            self._files.append(NamedFile(part.filename or "", self._opened[-1][0]))
        else:
            self._problems.append(Problem(part.name or "", f"takes no file; files are sent as `{IMAGES}`"))

    def _put(self, name: str, text: str) -> None:
        if "\ufffd" in name + text:
            self._problems.append(Problem(name, "is not UTF-8"))
            return
        inside = name.removeprefix(f"{INPUT}.") if name.startswith(f"{INPUT}.") else None
        if name in self._fields or inside in self._inside:
            self._problems.append(Problem(name, _REPEATED))
        elif inside is not None:
            self._inside[inside] = FormText(text)
        else:
            self._fields[name] = text if name in _TEXTS else json_or_text(text)

    def _put_inside(self) -> None:
        """Put the fields `input.…` into the object `input`, which may have come before or after them."""
        if not self._inside:
            return
        place = self._fields.setdefault(INPUT, {})
        if not isinstance(place, dict):
            self._problems.append(Problem(INPUT, _REPEATED))
            return
        self._problems += [Problem(f"{INPUT}.{name}", _REPEATED) for name in self._inside if name in place]
        place |= self._inside
