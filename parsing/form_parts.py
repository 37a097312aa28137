"""The parts of a `multipart/form-data` body (RFC 7578), fields and files, as they come in.

werkzeug's decoder finds them. Two kinds of file that it refuses, or takes for text, are files here: one whose name is
not UTF-8, and one that is typed `image/*` and has no file name.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Final

from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

_CHUNK: Final = 64 * 1024

_CHARSETS: Final = {"utf-8", "ascii", "us-ascii", "iso-8859-1"}


def read_parts(
    stream: IO[bytes], boundary: bytes, *, most_parts: int, most_text: int, open_file: Callable[[], IO[bytes]]
) -> Iterator[tuple[Field | File, IO[bytes]]]:
    """Each part with its content, to be read from the start. A file is written into what `open_file` returns; a field
    has at most `most_text` bytes. Raises ValueError if it is no form, and RequestEntityTooLarge."""
    decoder = _Decoder(boundary, most_text, max_parts=most_parts)
    part: Field | File | None = None
    content: IO[bytes] = BytesIO()
    chunk: bytes | None = b""
    while chunk is not None:
        chunk = stream.read(_CHUNK) or None  # None: it has ended
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


def text_of(part: Field, content: IO[bytes]) -> str:
    """The text of a field, in the charset that it names if that is a usual one, with U+FFFD where it is garbled."""
    charset = parse_options_header(part.headers.get("Content-Type"))[1].get("charset", "").lower()
    return content.read().decode(charset if charset in _CHARSETS else "utf-8", "replace")


class _Decoder(MultipartDecoder):
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
