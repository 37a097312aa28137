"""Types of files, by their first bytes, by the end of an address, and by a Content-Type."""

from __future__ import annotations

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

_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)

_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}")

_ALIASES = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg"}


def sniffed(content: bytes) -> str | None:
    """The extension of a picture, by its first bytes."""
    return next((extension for extension, begins in _SIGNATURES if begins.match(content)), None)


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
