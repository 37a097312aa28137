"""Reads `multipart/form-data` (RFC 7578) into the equivalent JSON body, so that images can be sent as files.

A part without a file is a field, such as `model_name` or `prompt`. Its text is parsed as JSON, so `seed=3` is a number
and `fallback=["qwen-image"]` a list, unless models take text there. A repeated field is a list. A file is an image of
the field that its name says: `input_image`, `image_input` (up to three), or in a batch of requests
`requests[3].input_image`. `input.img`, `inputs[3].img` and `requests[3].input.img` lead into these objects. Files are
streamed to disk, and never whole in memory.
"""

import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from catalog.model import text_fields
from catalog.references import Upload
from catalog.registry import Registry
from catalog.text_values import FormText
from errors import InvalidJSON, InvalidRequest, PayloadTooLarge, Problem
from parsing import strict_json
from parsing.normal import OPTIONAL
from parsing.shapes import BatchFields, OwnFields

MAX_PARTS = 500
"""The most fields and files of one form."""

_HEADERS = 1_000_000
"""Bytes that the headers of all parts and the unparsed input may take."""

_SMALL_FILE = 16_384
"""The most bytes of a file that stays in memory. All such files of a form take less than the share of one caller."""


@dataclass(frozen=True, slots=True)
class FormNames:
    """The fields of a form that are special on its route. `others` has their other names, and the ones that they have
    here. Those of `once`, by their names here, hold one text. Those of `texts` hold text, beside the fields that the
    models declare; these are the models of the `registry` if there is one."""

    others: Mapping[str, str] = field(default_factory=dict)
    once: Set[str] = frozenset()
    texts: Set[str] = frozenset()
    registry: Registry | None = None

    def problems(self, texts: Mapping[str, Sequence[str]]) -> list[Problem]:
        """The problems of fields that these texts repeat."""
        called = {here: name for name, here in self.others.items()}
        repeated = (name for name, each in texts.items() if name in self.once and len(each) > 1)
        return [Problem(called.get(name, name), "is there more than once", texts[name]) for name in repeated]


NO_NAMES: Final = FormNames()

_OWN_LISTS = ("prompts", "file_names")

_OWN_TEXTS = {
    *_OWN_LISTS,
    *(name for shape in (OwnFields, BatchFields) for name in text_fields(shape.model_json_schema())),
}

_OWN: Final = {"model_name", "input", *OPTIONAL}

_CHUNK: Final = 64 * 1024

_CHARSETS: Final = {"utf-8", "ascii", "us-ascii", "iso-8859-1"}

_PLACE = re.compile(r"(?:(requests|inputs)\[(\d{1,5})\]\.)?(input\.)?(\w+)")
"""Where a file goes: the list and the index of an item, whether into its `input`, and the name of the parameter."""


def read_form(
    stream: IO[bytes],
    *,
    registry: Registry,
    options: Mapping[str, str],
    most_text: int,
    hold: Callable[[int], object],
    spool: Path | None,
    names: FormNames = NO_NAMES,
) -> Any:
    """The JSON body that a form is equivalent to. The `registry` knows which fields hold text, and which hold a list.
    `names` are those of its route.

    `options` are the parameters of its Content-Type. Text may take `most_text` bytes; large files go to the directory
    `spool`. `hold` is called with the bytes in memory as they grow, and may raise.
    Raises InvalidRequest or PayloadTooLarge.
    """
    if spool:
        spool.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    opened: list[SpooledPart] = []

    def open_file() -> IO[bytes]:
        opened.append(SpooledPart(spool))
        return opened[-1]

    reader = _Reader(names.registry or registry, names)
    try:
        counted = cast("IO[bytes]", _Counted(stream, opened, most_text, hold))
        for part, content in read_parts(
            counted, options, most_parts=MAX_PARTS, most_text=most_text, open_file=open_file
        ):
            reader.take(part, content)
        return reader.body()
    except BaseException as error:
        for file in opened:
            file.close()
        if isinstance(error, RequestEntityTooLarge):
            raise PayloadTooLarge(
                f"The form is too large: more than {MAX_PARTS} parts, or {most_text} bytes of text."
            ) from None
        if isinstance(error, ValueError):
            raise InvalidRequest(
                [Problem("body", "is not the multipart/form-data that it should be")]
            ) from None
        raise


class SpooledPart(tempfile.SpooledTemporaryFile[bytes]):
    """A file that stays in memory while it is small, and counts the bytes `written` to it. A larger one is in the
    directory `spool`. Raises RequestEntityTooLarge for more than `most` bytes."""

    def __init__(self, spool: Path | None, *, most: float = math.inf) -> None:
        super().__init__(_SMALL_FILE, dir=str(spool) if spool else None)
        self.written = 0
        self._most = most

    def write(self, content: Any) -> int:
        self.written += len(content)
        if self.written > self._most:
            raise RequestEntityTooLarge
        return super().write(content)


class _Counted:
    """A stream that limits the memory of the parts outside files, and reports the memory in use to `hold`."""

    def __init__(
        self, stream: IO[bytes], files: list[SpooledPart], most_text: int, hold: Callable[[int], object]
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
    """Builds a body from fields and files. A field that holds text in any model stays text even if it looks like a
    number. A field that holds a list is a list even if it occurs once. Empty inputs of a browser's form are dropped:
    a file without name and bytes, and empty text in a field that is no free text.

    What a field of a model that is not declared holds is said by its published schema, which is not known yet. So its
    text stays a text, unless it is a JSON list or object, and is read when the schema is there (`FormText`)."""

    def __init__(self, registry: Registry, names: FormNames) -> None:
        self._names = names
        self._known = {*OPTIONAL, *registry.takers, *registry.reference_names}
        self._registry = registry
        self._lists = set(_OWN_LISTS)
        self._texts = _OWN_TEXTS | registry.text_parameters | names.texts
        self._is_declared = True
        self._values = 0
        self._free_texts = registry.free_texts
        self._texts_by_name: dict[str, list[str]] = {}
        self._files: list[tuple[str, IO[bytes]]] = []

    def take(self, part: Field | File, content: IO[bytes]) -> None:
        name = self._names.others.get(part.name, part.name)
        if isinstance(part, Field):
            self._texts_by_name.setdefault(name, []).append(text_of(part, content))
        elif part.filename or content.read(1):
            self._files.append((name, content))
        else:
            content.close()

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {}
        fields = self._texts_by_name
        named = fields.get("model_name")
        self._is_declared = named is None or self._registry.find(named[0]) is not None
        self._lists = self._lists_of(fields.get("model_name", [""])[0])
        names = [*fields, *(name for name, _ in self._files)]
        if not all(names):
            raise InvalidRequest([Problem("body", "has a part whose Content-Disposition gives no name")])
        if garbled := [name for name in names if "\ufffd" in name + "".join(fields.get(name, ()))]:
            raise InvalidRequest([Problem(name, "is not UTF-8") for name in garbled])
        if repeated := self._names.problems(fields):
            raise InvalidRequest(repeated)
        for name, texts in fields.items():
            values = [self._value(name, text) for text in self._given(name, texts)]
            is_whole = len(values) == 1 and (name not in self._lists or isinstance(values[0], list))
            if values:
                body[name] = values[0] if is_whole else values
        for name, file in self._files:
            self._put(body, name, Upload(cast("BinaryIO", file)))
        return body

    def _lists_of(self, model_name: Any) -> set[str]:
        """The fields that hold a list in a request for this model."""
        model = self._registry.find(model_name) if isinstance(model_name, str) else None
        return {*_OWN_LISTS, *self._registry.list_parameters(model)}

    def _given(self, name: str, texts: list[str]) -> list[str]:
        """The texts of a field without empty inputs."""
        found = _PLACE.fullmatch(name)
        field = found[4] if found else name
        if not self._is_declared and name not in _OWN:
            return texts
        if field not in self._known or field in self._free_texts:
            return texts
        if name in _OWN_LISTS:  # these match the prompts by position
            return texts if any(texts) else []
        return [text for text in texts if text]

    def _value(self, name: str, text: str) -> Any:
        if not self._is_declared and name not in _OWN and not text.lstrip().startswith(("[", "{")):
            return FormText(text)
        if name in self._texts and not (name in self._lists and text.startswith("[")):
            return text
        self._values += strict_json.count_values(text.encode())
        strict_json.raise_if_too_many(self._values)
        return json_or_text(text)

    def _put(self, body: dict[str, Any], name: str, upload: Upload) -> None:
        """Put a file into the field that its name says. Several files of one name make a list."""
        place: Any = body
        if found := _PLACE.fullmatch(name):
            items, index = body.get(found[1]) if found[1] else [body], int(found[2] or 0)
            if isinstance(items, list) and index < len(items) and isinstance(items[index], dict):
                place, name = items[index], found[4]
                place = place.setdefault("input", {}) if found[3] else place
            if not isinstance(place, dict):
                place, name = body, found[0]  # which is no field
        if place.get(name) is None:
            lists = self._lists if place is body else self._lists_of(place.get("model_name"))
            place[name] = [upload] if name in lists else upload
        elif isinstance(place[name], list):
            place[name].append(upload)
        else:
            place[name] = [place[name], upload]


def read_parts(
    stream: IO[bytes],
    options: Mapping[str, str],
    *,
    most_parts: int,
    most_text: int,
    open_file: Callable[[], IO[bytes]],
) -> Iterator[tuple[Field | File, IO[bytes]]]:
    """Each part with its content, to be read from the start. `options` are the parameters of the Content-Type. A file
    is written into what `open_file` returns; a field has at most `most_text` bytes. Raises ValueError if it is no form,
    and RequestEntityTooLarge."""
    boundary = options.get("boundary", "").encode("ascii")
    if not boundary:
        raise ValueError("a form has a boundary")
    decoder = _Decoder(boundary, most_text, max_parts=most_parts)
    part: Field | File | None = None
    content: IO[bytes] = BytesIO()
    chunk: bytes | None = b""
    while chunk is not None:
        chunk = stream.read(_CHUNK) or None  # None ends the input
        decoder.receive_data(chunk)
        while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
            if isinstance(event, Field | File):
                part, content = event, open_file() if isinstance(event, File) else BytesIO()
            elif part is not None and isinstance(event, Data):
                content.write(event.data)
                if isinstance(part, Field) and content.tell() > most_text:
                    raise RequestEntityTooLarge
                if not event.more_data:
                    content.seek(0)
                    yield part, content


def json_or_text(text: str) -> Any:
    """The value of a field that is JSON, or else its text."""
    try:
        value = strict_json.loads(text.encode())
    except InvalidJSON:
        return text  # validation refuses it if the field takes no text
    return text if value is None else value  # in a form, `null` is plain text


def text_of(part: Field, content: IO[bytes]) -> str:
    """The text of a field, in the charset that it names if that is a usual one, with U+FFFD where it is garbled."""
    charset = parse_options_header(part.headers.get("Content-Type"))[1].get("charset", "").lower()
    return content.read().decode(charset if charset in _CHARSETS else "utf-8", "replace")


class _Decoder(MultipartDecoder):
    """Two kinds of file that werkzeug refuses, or takes for text, are files here: one whose name is not UTF-8, and one
    that is typed `image/*` and has no file name."""

    def next_event(self) -> Event:
        event = super().next_event()
        if isinstance(event, Field) and event.headers.get("Content-Type", "").lower().startswith("image/"):
            return File(name=event.name, filename="", headers=event.headers)
        return event

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("iso-8859-1").encode()
        return super()._parse_headers(data)
