"""Files among the parameters of a request: they are sent as the parts of a form, all else as JSON or as fields.

A file is a path (`pathlib.Path`), bytes, a file object that is open for bytes, or an image of PIL. Texts are passed as
they are: https URLs and `data:` URIs; `local_files.py` finds those that are paths. An `Upload` is at the service
already, and its address is sent. A form has at most 500 parts, and a file 100 MB.
"""

from __future__ import annotations

import json
import mimetypes
import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from replicate_concurrent.filetypes import sniffed, type_of
from replicate_concurrent.operations.sending import UPLOADS, Call, Service, json_of, send
from replicate_concurrent.operations.steps import Operation, Part, do, now
from replicate_concurrent.results import Upload, uploaded

LISTS = ("requests", "inputs")
"""Fields of a batch whose items have parameters of their own."""

_FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
"""The formats that the service takes, by PIL's names."""

_TAKEN = object()
"""In place of a value that is sent as a file."""

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


@dataclass(frozen=True)
class Payload:
    """A body: JSON, or the parts of a form if there are files."""

    json: Any = None
    parts: tuple[Part, ...] = ()


def payload(body: Mapping[str, Any]) -> Payload:
    """The body with its files as parts. It reads files, so it may block.

    Raises TypeError for a file where none can be sent, and OSError if one cannot be read.
    """
    files = _Files()
    rest = _fields("", body, files)
    if not files.parts:
        return Payload(rest)
    return form(rest, files.parts)


def form(fields: Mapping[str, Any], files: Sequence[Part]) -> Payload:
    """A form of the fields, which are texts or JSON, and of the files."""
    texts = [Part(name, _text(value)) for name, value in fields.items() if value is not None]
    return Payload(parts=(*texts, *files))


def upload(service: Service, file: object) -> Operation[Upload]:
    """Send a file to the service, which keeps it for a day. Raises TypeError, OSError and ApiError."""
    part = yield from do(_content_part, file)
    deadline = (yield from now()) + service.timeout
    response = yield from send(service, Call("POST", UPLOADS, parts=(part,)), deadline=deadline)
    return uploaded(json_of(response, has_id=True))


def _content_part(file: object) -> Part:
    if isinstance(file, str):
        file = Path(file).expanduser()
    if not is_file(file):
        raise TypeError(
            f"{type(file).__name__} is no file: pass a path, bytes, a file object or an image of PIL"
        )
    return _Files().part("content", file)


def is_file(value: object) -> bool:
    """Whether a parameter is a file to be sent."""
    return (
        isinstance(value, (bytes, bytearray, memoryview, os.PathLike))
        or hasattr(value, "read")
        or _is_image(value)
    )


def data_uri(file: object) -> str:
    """The content of a file as a `data:` URI. It may block. Raises OSError."""
    return _data_uri(_Files().part("file", file))


class _Files:
    """Collects the files of one request. An object that is there twice is read once."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._read: dict[int, Part] = {}

    def add(self, name: str, file: Any) -> None:
        self.parts.append(self.part(name, file))

    def part(self, name: str, file: Any) -> Part:
        if id(file) not in self._read:
            self._read[id(file)] = _part(name, file)
        return replace(self._read[id(file)], name=name)


def part_of(name: str, path: Path) -> Part:
    """The file at a path. Raises OSError if it cannot be opened, which is better found before the request."""
    with path.open("rb"):
        pass
    guessed, _ = mimetypes.guess_type(path.name)
    return Part(name, path, path.name, guessed)


def _part(name: str, file: Any) -> Part:
    if isinstance(file, os.PathLike):
        return part_of(name, Path(file))
    if _is_image(file):
        return _of_bytes(name, *_encoded(file))
    if hasattr(file, "read"):
        title = getattr(file, "name", "")
        return _of_bytes(name, _content(file), Path(title).name if isinstance(title, str) else "")
    return _of_bytes(name, bytes(file), "")


def _of_bytes(name: str, content: bytes, filename: str) -> Part:
    filename = filename or f"file.{sniffed(content) or 'bin'}"
    return Part(name, content, filename, type_of(content) or mimetypes.guess_type(filename)[0])


def _content(file: Any) -> bytes:
    """The bytes from the position of a file object, which is left there, so that the file can be sent again."""
    at = file.tell() if hasattr(file, "seekable") and file.seekable() else None
    content = file.read()
    if at is not None:
        file.seek(at)
    if not isinstance(content, bytes):
        raise TypeError("a file object must be open for bytes: open(…, 'rb')")
    return content


def _is_image(value: object) -> bool:
    """Whether it is an image of PIL, which need not be installed."""
    return callable(getattr(value, "save", None)) and hasattr(value, "mode") and hasattr(value, "size")


def _encoded(image: Any) -> tuple[bytes, str]:
    """The bytes of an image in its own format if the service takes that, else as PNG, and the name of the file."""
    kind = image.format if getattr(image, "format", None) in _FORMATS else "PNG"
    if kind == "PNG" and image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue(), f"image.{_FORMATS[kind]}"


def _fields(prefix: str, values: Mapping[str, Any], files: _Files) -> dict[str, Any]:
    """The parameters without those that are files."""
    rest = {name: _rest(f"{prefix}{name}", value, files) for name, value in values.items()}
    return {name: value for name, value in rest.items() if value is not _TAKEN}


def _rest(place: str, value: Any, files: _Files) -> Any:
    """The value without its files. `place` is its path in the body."""
    if isinstance(value, Upload):
        return value.url
    if is_file(value):
        files.add(place, value)
        return _TAKEN
    if isinstance(value, Mapping) and (place == "input" or place.endswith("].input")):
        return _fields(f"{place}.", value, files)
    if isinstance(value, (list, tuple)):
        if place in LISTS:
            return [
                _fields(f"{place}[{index}].", item, files) if isinstance(item, Mapping) else item
                for index, item in enumerate(value)
            ]
        return _list_without_files(place, value, files)
    if isinstance(value, Mapping) and any(is_file(each) for each in value.values()):
        raise TypeError(f"{place}: a file can be a parameter or an item of one, and not deeper")
    return value


def _list_without_files(place: str, values: Any, files: _Files) -> Any:
    """A list of files alone becomes parts. In one with texts they become `data:` URIs, so that the order stays."""
    values = [each.url if isinstance(each, Upload) else each for each in values]
    if not any(is_file(each) for each in values):
        return values
    if all(is_file(each) for each in values):
        for each in values:
            files.add(place, each)
        return _TAKEN
    return [_data_uri(files.part(place, each)) if is_file(each) else each for each in values]


def _data_uri(part: Part) -> str:
    content = part.content if isinstance(part.content, bytes) else part.content.read_bytes()
    return f"data:{type_of(content) or part.content_type};base64,{b64encode(content).decode()}"


def _text(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()
