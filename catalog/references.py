"""Reference images: an https URL, a `data:` URI, or a file uploaded with the request.

The type of an image follows from its content and not from its name. An image of up to 256 kB is sent to Replicate
inline, as a `data:` URI. A larger one goes through Replicate's files (up to 100 MB, kept for 24 hours). Replicate
fetches a URL, and this service never does, so the URL must name a public host.

Facts: replicate.com/docs/topics/predictions/input-files.
"""

import base64
import binascii
import re
import weakref
from io import BytesIO
from typing import Any, BinaryIO

from addresses import public_host
from media import GIF, HEAD, JPEG, PNG, UNKNOWN, WEBP, media_type

NAMES = ("image", "input_image", "image_input", "image_prompt", "start_image")
"""The names under which models take one reference image or several."""

INLINE = 256_000
"""Bytes of an image that is sent inline."""

LARGEST = 100_000_000
"""Bytes of an image that Replicate's files take."""

LONGEST_URL = 8192

_TAKEN = (PNG, JPEG, WEBP, GIF)
_URL = re.compile(r"[Hh][Tt][Tt][Pp][Ss]://[!-~]+")
_DATA = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

JSON_SCHEMA = {
    "type": "string",
    "format": "uri",
    "pattern": rf"^([Hh][Tt][Tt][Pp][Ss]://[!-~]{{1,{LONGEST_URL - 8}}}"
    "|[Dd][Aa][Tt][Aa]:[^,]*;base64,[A-Za-z0-9+/]+={0,2})$",
    "description": "An https URL, or a base64 data: URI of a PNG, JPEG, WebP or GIF image.",
}
"""The JSON Schema of a reference."""


class Upload:
    """An image's bytes in a file. It is read from its start, and closed when this object is no longer used."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        self.media = media_type(self.head(HEAD)) or UNKNOWN
        weakref.finalize(self, file.close)

    def head(self, size: int) -> bytes:
        """The first bytes."""
        self.file.seek(0)
        return self.file.read(size)

    def __str__(self) -> str:
        return f"a file of {self.size} bytes"


def reference(given: Any) -> str | Upload:
    """A valid reference: a URL or `data:` URI that is sent as it is, or an `Upload` that must be uploaded first. Raises
    ValueError."""
    if isinstance(given, Upload):
        return _uploaded(given)
    if not isinstance(given, str):
        raise ValueError("must be a string: an https URL or a data: URI")
    if given[:5].lower() == "data:":
        return _data(given)
    if not _URL.fullmatch(given):
        raise ValueError("must be an https URL, a data: URI, or a file uploaded with the request")
    if len(given) > LONGEST_URL:
        raise ValueError(f"must be at most {LONGEST_URL} characters")
    if public_host(given) is None:
        raise ValueError("must name a public host, since Replicate fetches it")
    return given


def large_image(given: str) -> bytes | None:
    """The content of a `data:` URI that is a valid reference and too large to be sent inline; else None."""
    head = _DATA.match(given) if len(given) > INLINE else None
    if head is None:
        return None
    try:
        content = base64.b64decode(given[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if len(content) > INLINE and media_type(content[:HEAD]) in _TAKEN else None


def _data(given: str) -> str | Upload:
    head = _DATA.match(given)
    if head is None:
        raise ValueError("must be a base64 data: URI of a PNG, JPEG, WebP or GIF image")
    encoded = given[head.end() :]
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64 after the comma of the data: URI") from None
    found = media_type(content[:HEAD])
    if found not in _TAKEN or len(content) > INLINE:
        return _uploaded(Upload(BytesIO(content)))
    return given if head[0] == f"data:{found.name};base64," else f"data:{found.name};base64,{encoded}"


def _uploaded(upload: Upload) -> str | Upload:
    if upload.media not in _TAKEN:
        raise ValueError("must be a PNG, JPEG, WebP or GIF image, by its content")
    if upload.size > LARGEST:
        raise ValueError(f"must be at most {LARGEST // 1_000_000} MB")
    if upload.size > INLINE:
        return upload
    return f"data:{upload.media.name};base64,{base64.b64encode(upload.head(INLINE)).decode()}"
