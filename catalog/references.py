"""Files among the inputs: reference images, and files of any type for models that take them. Each is a URL, a `data:`
URI, or a file uploaded with the request.

The type of a reference image follows from its content and not from its name, and it must be whole
(`media/pictures.py`). An image of up to 256 kB is sent to Replicate inline, as a `data:` URI. A larger one goes through
Replicate's files (up to 100 MB, kept for 24 hours). Replicate fetches a URL, and this service only those of the images
for text models (`files/pictures.py`), so the URL must name a public host.

Facts: replicate.com/docs/topics/predictions/input-files.
"""

import base64
import io
import re
import weakref
from io import BytesIO
from threading import Lock
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

from catalog.text_values import usable_text
from media.formats import GIF, HEAD, JPEG, PNG, UNKNOWN, WEBP, media_type
from media.pictures import check_whole
from network.addresses import public_host
from network.urls import encoded_url

NAMES = ("image", "input_image", "image_input", "image_prompt", "start_image")
"""The names of parameters that take reference images."""

INLINE = 256_000
"""The most bytes of an image that is sent inline."""

LARGEST = 100_000_000
"""The most bytes of a file at Replicate."""

LONGEST_URL = 8192

_TAKEN = (PNG, JPEG, WEBP, GIF)
_URL = re.compile(r"https://[!-~]+", re.IGNORECASE)
_ANY_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_DATA = re.compile(r"data:[^,]{0,200};\s*base64\s*,", re.IGNORECASE)
_BARE = re.compile(r"[A-Za-z0-9+/_-]{24,}")
_ESCAPES = {"%2B": "+", "%2F": "/", "%3D": "=", "%20": " ", "%09": "\t", "%0A": "\n", "%0D": "\r"}
"""Characters of base64 in percent-encoding."""

JSON_SCHEMA = {
    "type": "string",
    "format": "uri",
    "pattern": rf"^\s*(?:[Hh][Tt][Tt][Pp][Ss]://[^\u0000-\u001f\u007f\\]{{1,{LONGEST_URL - 8}}}"
    r"|[Hh][Tt][Tt][Pp]://[^\u0000-\u0020\u007f\\?#]+/replicate/v1/files/[0-9a-f]{48}\s*"
    r"|[Dd][Aa][Tt][Aa]:[^,]*;\s*[Bb][Aa][Ss][Ee]64\s*,[A-Za-z0-9+/_=%\s-]+)$",
    "description": "An https URL, the address of an upload, or a base64 data: URI of a PNG, JPEG, WebP or GIF "
    "image, which must be whole.",
}
"""The JSON Schema of a reference."""

FILE_SCHEMA = {
    "type": "string",
    "format": "uri",
    "pattern": rf"^\s*(?:[Hh][Tt][Tt][Pp][Ss]?://[^\u0000-\u001f\u007f\\]{{1,{LONGEST_URL - 7}}}"
    r"|[Dd][Aa][Tt][Aa]:[^,]*,[^\u0000]*)$",
    "description": "The URL of a file, or a data: URI. A file may be uploaded with the request instead.",
}
"""The JSON Schema of the address of any file."""


class Upload:
    """An image in a file, which is closed when this object is garbage-collected. The generations of a batch may share
    it, so any threads may call `head`, `content` and `reader` at the same time."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        self._lock = Lock()
        self.media = media_type(self.head(HEAD)) or UNKNOWN
        weakref.finalize(self, file.close)

    def head(self, size: int) -> bytes:
        """The first bytes."""
        return self.part(0, size)

    def content(self) -> bytes:
        """All bytes."""
        return self.part(0, self.size)

    def part(self, begin: int, size: int) -> bytes:
        """At most `size` bytes from `begin` on."""
        with self._lock:
            self.file.seek(begin)
            return self.file.read(size)

    def reader(self) -> BinaryIO:
        """A file with a position of its own."""
        return cast("BinaryIO", _Reader(self))

    def __str__(self) -> str:
        return f"a file of {self.size} bytes"


class _Reader(io.RawIOBase):
    """Reads an upload, at a position of its own."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._upload.size}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        found = self._upload.part(self._position, len(buffer))
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)


def reference(given: Any, *, accepted: bool = False) -> str | Upload:
    """The valid reference: a URL or `data:` URI that is sent as it is, or an `Upload` that must be uploaded first. The
    structure of an `accepted` image, which an earlier version checked, is not checked again. Raises ValueError."""
    if isinstance(given, Upload):
        return _uploaded(given, accepted)
    if not isinstance(given, str):
        raise ValueError("must be a string: an https URL or a data: URI")
    given = given.strip()
    if given[:5].lower() == "data:":
        return _data(given, accepted)
    if given[:8].lower() != "https://":
        what = "an https URL, a data: URI, or a file uploaded with the request"
        raise ValueError(f"must be {what}{_hint_of_base64(given)}")
    url = given if len(given) > LONGEST_URL else encoded_url(given)
    if len(url) > LONGEST_URL:
        raise ValueError(f"must be at most {LONGEST_URL} characters")
    if not _URL.fullmatch(url):
        raise ValueError("must be an https URL with a host")
    if public_host(url) is None:
        raise ValueError("must name a public host, since it is fetched over the internet")
    return url


def file(given: Any) -> str | Upload:
    """The valid address of a file of any type: a URL or `data:` URI that is sent as it is, or an `Upload` that must be
    uploaded first. Raises ValueError."""
    if isinstance(given, Upload):
        if given.size > LARGEST:
            raise ValueError(f"must be at most {LARGEST // 1_000_000} MB")
        return given
    if not isinstance(given, str):
        raise ValueError("must be a string: a URL or a data: URI")
    given = usable_text(given.strip())
    if given[:5].lower() == "data:":
        return str(given)
    url = str(given) if len(given) > LONGEST_URL else encoded_url(given)
    if len(url) > LONGEST_URL:
        raise ValueError(f"must be at most {LONGEST_URL} characters")
    if not _ANY_URL.fullmatch(url):
        raise ValueError("must be a URL with a host, a data: URI, or a file uploaded with the request")
    if public_host(url) is None:
        raise ValueError("must name a public host, since it is fetched over the internet")
    return url


def weights(given: Any) -> Upload | None:
    """The upload of weights. A `data:` URI becomes one at any size, since no model reads it in a text. None if this is
    another text, or no text. Raises ValueError."""
    if isinstance(given, str) and given[:200].lstrip()[:5].lower() == "data:":
        given = Upload(BytesIO(decoded_data_uri(given.strip())[1]))
    if not isinstance(given, Upload):
        return None
    file(given)
    return given


def large_file(given: str) -> bytes | None:
    """The content of a `data:` URI that is too large to be sent inline; else None."""
    if len(given) <= INLINE or given.lstrip()[:5].lower() != "data:":
        return None
    try:
        _, content = decoded_data_uri(given.strip())
    except ValueError:
        return None
    return content if len(content) > INLINE else None


def large_image(given: str) -> bytes | None:
    """The content of a `data:` URI that is a valid reference and too large to be sent inline; else None."""
    given = given.strip()
    head = _DATA.match(given) if len(given) > INLINE else None
    if head is None:
        return None
    try:
        content = decoded_base64(given[head.end() :])
    except ValueError:
        return None
    return content if len(content) > INLINE and media_type(content[:HEAD]) in _TAKEN else None


def _data(given: str, accepted: bool) -> str | Upload:
    head = _DATA.match(given)
    if head is None:
        raise ValueError("must be a base64 data: URI of a PNG, JPEG, WebP or GIF image")
    return _uploaded(Upload(BytesIO(decoded_base64(given[head.end() :]))), accepted)


def decoded_data_uri(uri: str) -> tuple[str, bytes]:
    """The media type that a `data:` URI announces, in lower case, and its bytes. Raises ValueError."""
    announced, _, data = uri[5:].partition(",")
    name, *parameters = (each.strip() for each in announced.lower().split(";"))
    return name, decoded_base64(data) if "base64" in parameters else unquote_to_bytes(data)


def decoded_base64(encoded: str) -> bytes:
    """The bytes of base64, which may be wrapped, percent-encoded, URL-safe or unpadded. Raises ValueError."""
    for escape, character in _ESCAPES.items() if "%" in encoded else ():
        encoded = encoded.replace(escape, character).replace(escape.lower(), character)
    lines = [line.strip() for line in encoded.splitlines()]
    if any(" " in line and not _is_even(line.split(" ")) for line in lines):
        raise ValueError("must be base64 after the comma of the data: URI; a space in it may have been a +")
    text = "".join("".join(lines).split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError("must be base64 after the comma of the data: URI") from None


def _is_even(groups: list[str]) -> bool:
    """Whether spaces joined lines of equal length. A form that decodes `+` as a space puts spaces anywhere."""
    return len(groups[0]) % 4 == 0 and all(len(each) == len(groups[0]) for each in groups[:-1])


def _hint_of_base64(given: str) -> str:
    """A hint to put `data:` before bare base64; empty for any other text."""
    text = "".join(given[:1000].split())[:100]
    bare = _BARE.match(text)
    if bare is None or "." in text:
        return ""
    found = media_type(base64.urlsafe_b64decode(bare[0][:24].translate(str.maketrans("+/", "-_"))))
    if found not in _TAKEN and (found is not None or len(bare[0]) < 100 or " " in given[:100].strip()):
        return ""
    name = found.name if found else "image/…"
    return f"; it reads like base64, so put data:{name};base64, before it"


def _uploaded(upload: Upload, accepted: bool) -> str | Upload:
    if upload.media not in _TAKEN:
        raise ValueError("must be a PNG, JPEG, WebP or GIF image, by its content")
    if upload.size > LARGEST:
        raise ValueError(f"must be at most {LARGEST // 1_000_000} MB")
    if not accepted:
        check_whole(upload.file, upload.media)
    if upload.size > INLINE:
        return upload
    return f"data:{upload.media.name};base64,{base64.b64encode(upload.head(INLINE)).decode()}"
