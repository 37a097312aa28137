"""Types of files, by their first bytes, by the end of an address, and by a Content-Type."""

from __future__ import annotations

import codecs
import mimetypes
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

_SIGNATURES = (
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("jpg", re.compile(rb"\xff\xd8\xff")),
    ("gif", re.compile(rb"GIF8[79]a")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
)

PICTURES = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
"""The types that are known by their bytes, by extension."""

_MEDIA = (
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), ("avif",)),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), ("heic", "heif", "avif")),
    (re.compile(rb"....ftypqt  ", re.DOTALL), ("mov", "qt", "mp4")),
    (re.compile(rb"....ftypM4A", re.DOTALL), ("m4a", "mp4")),
    (re.compile(rb"....ftyp", re.DOTALL), ("mp4", "m4v", "mov", "m4a", "m4b", "3gp")),
    (re.compile(rb"\x1a\x45\xdf\xa3.{0,60}webm", re.DOTALL), ("webm", "weba", "mkv", "mka")),
    (re.compile(rb"\x1a\x45\xdf\xa3"), ("mkv", "mka", "webm")),
    (re.compile(rb"RIFF....WAVE", re.DOTALL), ("wav",)),
    (re.compile(rb"RIFF....AVI ", re.DOTALL), ("avi",)),
    (re.compile(rb"OggS"), ("ogg", "oga", "ogv", "opus", "spx")),
    (re.compile(rb"fLaC"), ("flac",)),
    (re.compile(rb"ID3"), ("mp3", "aac", "flac")),
    (re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"), ("mp3",)),
)
"""Media beside those pictures: how they begin, and the extensions that they may have, the usual one first. `ftyp` is
the first box of ISO/IEC 14496-12, 1A 45 DF A3 begins EBML, and the last line is a frame of MPEG audio, layer III."""

MEDIA = {extension for _, extensions in _MEDIA for extension in extensions} | {
    *PICTURES, "aif", "bmp", "ico", "mpeg", "mpg", "tif", "tiff", "wmv",
}  # fmt: skip
"""The extensions of pictures, audio and video that are no text."""

_TEXT_CONTROLS = frozenset(b"\t\n\f\r")

_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}")

_ALIASES = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg"}


def sniffed(content: bytes) -> str | None:
    """The extension of a picture, by its first bytes."""
    return next((extension for extension, begins in _SIGNATURES if begins.match(content)), None)


def medium(content: bytes, named: str | None) -> str | None:
    """The extension of audio, of video, or of a picture that is none of `PICTURES`, by its first bytes: `named` if they
    may have that. None if they are of no known kind, or if `named` is none of a medium, and so may be any file."""
    if named is not None and named not in MEDIA:
        return None
    extensions = next((each for begins, each in _MEDIA if begins.match(content)), ())
    return named if named in extensions else next(iter(extensions), None)


def is_text(content: bytes) -> bool:
    """Whether these first bytes are a text, such as an error as JSON. The last letter may be cut off."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return all(letter >= " " or ord(letter) in _TEXT_CONTROLS for letter in text)


def type_of(content: bytes) -> str | None:
    """The media type of a picture, by its first bytes."""
    return PICTURES.get(sniffed(content) or "")


def is_page(content: bytes) -> bool:
    """Whether it begins as a web page, such as the error of a proxy."""
    return _PAGE.match(content) is not None


def extension_of(url: str) -> str | None:
    """The extension at the end of the path of an address, without a dot."""
    if url.startswith("data:"):
        return of_type(url[5:].split(",", 1)[0])
    ending = PurePosixPath(unquote(urlsplit(url).path)).suffix[1:].lower()
    return _ALIASES.get(ending, ending) if _EXTENSION.fullmatch(ending) else None


def of_type(content_type: str) -> str | None:
    """The extension that a Content-Type usually has, without a dot."""
    kind = content_type.split(";")[0].strip().lower()
    guessed = next((each for each, known in PICTURES.items() if known == kind), None)
    ending = guessed or (mimetypes.guess_extension(kind) or "")[1:]
    return None if kind == "application/octet-stream" else _ALIASES.get(ending, ending) or None
