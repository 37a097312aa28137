"""Reads the `multipart/form-data` (RFC 7578) of a training: its fields, and images with their captions as files.

Files are streamed to disk, and keep their names, since a caption belongs to the image of the same name. A field
`input.steps`, and a JSON object `input`, give the inputs of the trainer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import File

from catalog.text_values import FormText
from errors import InvalidJSON, InvalidRequest, PayloadTooLarge, Problem
from parsing import strict_json
from parsing.multipart_form import read_parts
from parsing.params import INPUT
from parsing.trainings import IMAGES

MOST_PARTS: Final = 2_100
_MOST_TEXT: Final = 1_000_000

_TEXTS: Final = frozenset({"trainer", "destination", "trigger_word", "webhook", IMAGES})
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
    fields: dict[str, Any] = {}
    files: list[NamedFile] = []
    problems: list[Problem] = []
    opened: list[Path] = []

    def open_file() -> IO[bytes]:
        opened.append(directory / str(len(opened)))
        return opened[-1].open("w+b")

    try:
        for part, content in read_parts(
            stream, options, most_parts=MOST_PARTS, most_text=_MOST_TEXT, open_file=open_file
        ):
            with content:
                if isinstance(part, File):
                    is_empty = not part.filename and not content.read(1)
                    if part.name != IMAGES and not is_empty:
                        problems.append(Problem(part.name, f"takes no file; files are sent as `{IMAGES}`"))
                    elif not is_empty:
                        files.append(NamedFile(part.filename or "", opened[-1]))
                else:
                    text = content.read().decode("utf-8", "replace")
                    _put(fields, part.name or "", text, problems)
    except RequestEntityTooLarge:
        raise PayloadTooLarge(
            f"The form is too large: more than {MOST_PARTS} parts, or {_MOST_TEXT} bytes of text."
        ) from None
    except ValueError:
        raise InvalidRequest([Problem("body", "is not the multipart/form-data that it should be")]) from None
    if files and IMAGES in fields:
        problems.append(Problem(IMAGES, "is both an address and files"))
    if problems:
        raise InvalidRequest(problems)
    return TrainingForm(fields, files)


def _put(fields: dict[str, Any], name: str, text: str, problems: list[Problem]) -> None:
    if "\ufffd" in name + text:
        problems.append(Problem(name, "is not UTF-8"))
        return
    inside = name.startswith(f"{INPUT}.")
    place = fields.setdefault(INPUT, {}) if inside else fields
    name = name.removeprefix(f"{INPUT}.") if inside else name
    if not isinstance(place, dict) or name in place:
        problems.append(Problem(name, "is there more than once", text))
        return
    place[name] = FormText(text) if inside else text if name in _TEXTS else _value(text)


def _value(text: str) -> Any:
    """The JSON of a field, or its text."""
    try:
        value = strict_json.loads(text.encode())
    except InvalidJSON:
        return text
    return text if value is None else value
