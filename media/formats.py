"""Detects pictures and films by their first bytes, not by their name or declared type (`files.py`: any other file).

Signatures: PNG (W3C PNG 5.2), JPEG (ITU-T T.81 B.1.1.3), GIF (GIF89a 17), WebP (RFC 9649), MP4 and QuickTime
(ISO/IEC 14496-12 4.3), WebM (RFC 9559).
"""

import codecs
import re
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

HEAD = 1445
"""Bytes that are enough to detect the type: 16 for an image or video, and as many as browsers read for a text (WHATWG
MIME Sniffing 5.2)."""


Kind = Literal["image", "video", "audio", "text", "3d", "data"]
"""What a file is to a caller. `data` is everything else."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """`name` as in Content-Type; `extension` begins with a dot."""

    name: str
    extension: str
    kind: Kind


PNG = MediaType("image/png", ".png", "image")
JPEG = MediaType("image/jpeg", ".jpg", "image")
WEBP = MediaType("image/webp", ".webp", "image")
GIF = MediaType("image/gif", ".gif", "image")
MP4 = MediaType("video/mp4", ".mp4", "video")
QUICKTIME = MediaType("video/quicktime", ".mov", "video")
WEBM = MediaType("video/webm", ".webm", "video")

UNKNOWN = MediaType("application/octet-stream", "", "data")

BY_EXTENSION = {each.extension: each for each in (PNG, JPEG, WEBP, GIF, MP4, QUICKTIME, WEBM)}

_STILL = rb"avif|avis|heic|heix|heim|heis|hevc|mif1|msf1"
"""Brands of ISO files that are still images. None of them is supported."""

_SIGNATURES = [
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PNG),
    (re.compile(rb"\xff\xd8\xff"), JPEG),
    (re.compile(rb"GIF8[79]a"), GIF),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WEBP),
    (re.compile(rb".{4}ftypqt  ", re.DOTALL), QUICKTIME),
    (re.compile(rb".{4}ftyp(?!%b).{4}" % _STILL, re.DOTALL), MP4),
    (re.compile(rb"\x1a\x45\xdf\xa3"), WEBM),
]

_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""By the first two bytes. All other texts are read as UTF-8."""

_SVG = re.compile(
    r"(?>\s|<!--.*?-->|<[?!](?!doctype h)[^>]*>|\]>)*+<(?:\w+:)?svg\b", re.DOTALL | re.IGNORECASE
)
_HTML = re.compile(r"<!doctype h|<html", re.IGNORECASE)
PAGES = {"text/html", "application/xhtml+xml"}
"""Media types of web pages."""

_NO_TEXT = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\ufffd]")
"""Control characters that texts do not have, and the replacement character of undecodable bytes."""


def media_type(head: bytes) -> MediaType | None:
    """The type of a file that begins with `head` (HEAD bytes, or the whole file), or None if it is not supported."""
    return next((media for signature, media in _SIGNATURES if signature.match(head)), None)


def is_page(head: bytes, declared: str = "") -> bool:
    """Whether a file without a `media_type` is a web page, other markup than SVG, or blank. `declared` is the type in
    its Content-Type header."""
    text = _text_of(head)
    return _is_page(text, declared) and not is_svg(text, declared)


def is_text(head: bytes, declared: str = "") -> bool:
    """Whether a file without a `media_type` is a page or any other text, except for SVG."""
    text = _text_of(head)
    return (_is_page(text, declared) or not _NO_TEXT.search(text)) and not is_svg(text, declared)


def plain_text(head: bytes) -> str | None:
    """The text, without the space before it. None if it has control characters or bytes that texts do not have."""
    text = _text_of(head)
    return None if _NO_TEXT.search(text) else text


def _is_page(text: str, declared: str) -> bool:
    return not text or text.startswith("<") or declared in PAGES


def is_svg(text: str, declared: str) -> bool:
    """Whether a text is an SVG."""
    is_declared = declared == "image/svg+xml" and text.startswith("<") and not _HTML.search(text)
    return is_declared or _SVG.match(text) is not None


def _text_of(head: bytes) -> str:
    decoder = codecs.getincrementaldecoder(_ENCODINGS.get(head[:2], "utf-8-sig"))("replace")
    return decoder.decode(head).lstrip()  # `head` may end inside a character


@cache
def black_png(width: int, height: int) -> bytes:
    """A black PNG of this size in pixels, the placeholder for a failed generation."""
    rows = (b"\0" + b"\0\0\0" * width) * height  # filter type 0, then RGB
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
