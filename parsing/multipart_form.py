"""`multipart/form-data` as the body it stands for, so that images can be sent as files.

A part is a field: `model_name`, `prompt`, every parameter. Text stays text where a model takes text; anywhere else it
is read as JSON, so `seed=3` is a number and `fallback=["qwen-image"]` a list. A field that comes twice is a list. A
file is an image, and goes where its name says: `input_image`, `image_input` (up to three), or in a batch of whole
requests `requests[3].input_image`. Files are streamed to disk as they come in, and never whole in memory.
"""

import re
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from catalog.model import text_fields
from catalog.references import Upload
from catalog.registry import Registry
from errors import InvalidJSON, InvalidRequest, PayloadTooLarge, Problem
from parsing import strict_json
from parsing.shapes import BatchFields, OwnFields

if TYPE_CHECKING:
    from werkzeug.formparser import TStreamFactory

MAX_PARTS = 500
"""Fields and files of one form."""

_HEADERS = 1_000_000
"""Bytes that the headers of all parts may take, and what has been read and not yet looked at."""

_SMALL_FILE = 16_384
"""Bytes of a file that stays in memory: all of a form take less than one caller's share."""

_OWN_LISTS = ("prompts", "file_names")

_OWN_TEXTS = {
    *_OWN_LISTS,
    *(name for shape in (OwnFields, BatchFields) for name in text_fields(shape.model_json_schema())),
}

_PLACE = re.compile(r"requests\[(\d{1,5})\]\.(\w+)")


def read_form(
    stream: IO[bytes],
    *,
    registry: Registry,
    options: Mapping[str, str],
    length: int | None,
    most_text: int,
    hold: Callable[[int], object],
    spool: Path | None,
) -> Any:
    """The body that a form stands for. The models of the `registry` say which fields hold text, and which a list.

    `options` are the parameters of its Content-Type, `length` its bytes, if they are known. Text may take `most_text`
    bytes; files go to the directory `spool`. `hold` is called with the bytes in memory as they grow, and may raise.
    Raises InvalidRequest or PayloadTooLarge.
    """
    if spool:
        spool.mkdir(mode=0o700, exist_ok=True)  # it may have been deleted
    opened: list[_Spooled] = []

    def open_file(**_: Any) -> IO[bytes]:
        opened.append(_Spooled(_SMALL_FILE, dir=str(spool) if spool else None))
        return opened[-1]

    parser = FormDataParser(
        cast("TStreamFactory", open_file),
        max_form_memory_size=most_text,  # of one text; that of all together is counted
        max_form_parts=MAX_PARTS,
        silent=False,
    )
    try:
        counted = cast("IO[bytes]", _Counted(stream, opened, most_text, hold))
        _, fields, files = parser.parse(counted, "multipart/form-data", length, dict(options))
        return _Reader(registry).body(fields, files)
    except BaseException as error:
        for file in opened:
            file.close()
        if isinstance(error, RequestEntityTooLarge):
            raise PayloadTooLarge(
                f"The form is too large, has more than {MAX_PARTS} parts, or {most_text} bytes of text."
            ) from None
        if isinstance(error, ValueError):
            raise InvalidRequest(
                [Problem("body", "is not the multipart/form-data that it should be")]
            ) from None
        raise


class _Spooled(tempfile.SpooledTemporaryFile[bytes]):
    """A file in memory as long as it is small, which knows how much was written into it."""

    written = 0

    def write(self, content: Any) -> int:
        self.written += len(content)
        return super().write(content)


class _Counted:
    """A stream that stops the parser when the parts outside files use too much memory. `hold` learns how much it is."""

    def __init__(
        self, stream: IO[bytes], files: list[_Spooled], most_text: int, hold: Callable[[int], object]
    ) -> None:
        self._stream = stream
        self._files = files
        self._most = most_text + _HEADERS
        self._hold = hold
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._read += len(chunk)
        if self._read - len(chunk) - sum(file.written for file in self._files) > self._most:
            raise RequestEntityTooLarge
        self._hold(self._read - sum(file.written for file in self._files if file.written > _SMALL_FILE))
        return chunk


class _Reader:
    """Makes a body of fields and files. A field that holds text in any model stays text even if it reads like a number.
    A field that holds a list is a list even if it comes once."""

    def __init__(self, registry: Registry) -> None:
        self._lists = {*_OWN_LISTS, *registry.list_parameters}
        self._texts = _OWN_TEXTS | registry.text_parameters
        self._values = 0

    def body(self, fields: MultiDict[str, str], files: MultiDict[str, FileStorage]) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if not all([*fields, *files]):
            raise InvalidRequest([Problem("body", "has a part whose Content-Disposition gives no name")])
        texts_of = [*fields.items(multi=True), *((name, "") for name in files)]
        if garbled := [name for name, text in texts_of if "\ufffd" in name + text]:
            raise InvalidRequest([Problem(name, "is not UTF-8") for name in garbled])
        for name, texts in fields.lists():
            values = [self._value(name, text) for text in texts]
            is_whole = len(values) == 1 and (name not in self._lists or isinstance(values[0], list))
            body[name] = values[0] if is_whole else values
        for name, uploaded in files.items(multi=True):
            self._put(body, name, Upload(_taken_from(uploaded)))
        return body

    def _value(self, name: str, text: str) -> Any:
        if name in self._texts and not (name in self._lists and text.startswith("[")):
            return text
        content = text.encode()
        self._values += strict_json.count_values(content)
        strict_json.raise_if_too_many(self._values)
        try:
            return strict_json.loads(content)
        except InvalidJSON:
            return text  # and what takes no text will say so

    def _put(self, body: dict[str, Any], name: str, upload: Upload) -> None:
        """Put a file where its name says. Several files of one name make a list."""
        place: Any = body
        if found := _PLACE.fullmatch(name):
            requests = body.get("requests")
            index = int(found[1])
            if isinstance(requests, list) and index < len(requests) and isinstance(requests[index], dict):
                place, name = requests[index], found[2]
        if name not in place:
            place[name] = [upload] if name in self._lists else upload
        elif isinstance(place[name], list):
            place[name].append(upload)
        else:
            place[name] = [place[name], upload]


def _taken_from(uploaded: FileStorage) -> BinaryIO:
    """The uploaded file, detached from the HTTP request: its end would close the file, and a batch may outlive it."""
    file, uploaded.stream = uploaded.stream, BytesIO()
    return cast("BinaryIO", file)
