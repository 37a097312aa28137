"""Checks that an image is whole, by its structure. Pixels are not decoded, and large files are not read into memory.

A PNG has chunks up to IEND (W3C PNG 5), a JPEG segments and scans up to EOI (ITU-T T.81 B.1.1), a GIF blocks up to its
trailer (GIF89a 27), and a WebP is as long as its RIFF header says (RFC 9649 2). Bytes after the end are allowed.
"""

import re
import struct
from collections.abc import Callable
from typing import Final, Protocol

from media.formats import GIF, JPEG, PNG, WEBP, MediaType

MAX_PIXELS: Final = 2**28

_MAX_PARTS: Final = 500_000
"""Chunks, segments or blocks of one image. A GIF of 100 MB has 400,000; more would take seconds to read."""

_FREE_PARTS: Final = 1000
_LEAST_BYTES: Final = {JPEG: 64, PNG: 8, GIF: 4, WEBP: 8}
"""The least average size of a part in bytes, beyond the first parts. So the size of an image bounds the time."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A JPEG marker, except for those inside a scan: stuffed and fill bytes, and restarts."""

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE, _SOI, _EOI, _SOS = 0x01, 0xD8, 0xD9, 0xDA

_ENDS: Final = {
    PNG: "its end is missing (IEND)",
    JPEG: "its end is missing (EOI)",
    GIF: "its end is missing (the trailer)",
    WEBP: "its end is missing",
}


class Readable(Protocol):
    """How an image is read. After the first seek to its start, seeking never goes back beyond the last read."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class _Cut(Exception):
    """The file ends before the image does."""


class _Damaged(Exception):
    """The file is not an image of its type; the message gives the reason."""


class _Parts:
    """Reads a file forward from its start, and counts its parts."""

    def __init__(self, file: Readable, media: MediaType) -> None:
        self.size = file.seek(0, 2)
        self._file = file
        self._left = min(_MAX_PARTS, _FREE_PARTS + self.size // _LEAST_BYTES[media])
        file.seek(0)

    def take(self, size: int) -> bytes:
        """Read the next bytes. Raises _Cut if there are fewer."""
        found = self._file.read(size)
        if len(found) < size:
            raise _Cut
        return found

    def skip(self, size: int) -> None:
        self._file.seek(size, 1)

    def count(self) -> None:
        """Count one part. Raises _Damaged if there are too many."""
        self._left -= 1
        if self._left < 0:
            raise _Damaged("it has too many parts")

    def marker(self) -> int:
        """Skip to the next JPEG marker and return its code. Raises _Cut."""
        self.count()
        head, size = b"", 2
        while block := self._file.read(size):
            if found := _MARKER.search(head + block):
                self._file.seek(found.end() - len(head + block), 1)
                return found[0][1]
            head, size = (b"\xff" if block.endswith(b"\xff") else b""), min(size * 8, 1024 * 1024)
        raise _Cut


def check_whole(file: Readable, media: MediaType) -> None:
    """Raise ValueError unless the file is a whole image of this type (PNG, JPEG, GIF or WebP) with 1 to MAX_PIXELS
    pixels. A message is as "must be a whole PNG image: its end is missing (IEND)"."""
    size_of(file, media)


def size_of(file: Readable, media: MediaType) -> tuple[int, int]:
    """The width and height in pixels of an image that passes `check_whole`. Raises ValueError for others."""
    try:
        width, height = _READERS[media](_Parts(file, media))
    except _Cut:
        reason = _ENDS[media]
    except _Damaged as damaged:
        reason = str(damaged)
    else:
        if not width or not height:
            raise ValueError(f"must be at least 1x1 pixels, not {width}x{height}")
        if width * height > MAX_PIXELS:
            raise ValueError(f"must have at most {MAX_PIXELS} pixels, not {width}x{height}")
        return width, height
    raise ValueError(f"must be a whole {media.name.removeprefix('image/').upper()} image: {reason}")


def _png(parts: _Parts) -> tuple[int, int]:
    parts.skip(8)
    size, has_pixels = None, False
    while True:
        parts.count()
        length, name = struct.unpack(">I4s", parts.take(8))
        if size is None:
            if name != b"IHDR" or length != 13:
                raise _Damaged("it does not begin with its header (IHDR)")
            size = struct.unpack(">II", parts.take(8))
            length -= 8
        elif not name.isalpha() or length >= 2**31:
            raise _Damaged("one of its chunks has no name")
        has_pixels = has_pixels or name == b"IDAT"
        parts.skip(length)
        if name == b"IEND":
            parts.take(4)  # its checksum
            break
        parts.skip(4)
    if not has_pixels:
        raise _Damaged("it has no pixels (IDAT)")
    return size


def _jpeg(parts: _Parts) -> tuple[int, int]:
    parts.skip(2)
    size, has_scan = None, False
    while (code := parts.marker()) != _EOI:
        if code == _ALONE:
            continue
        if code == _SOI:
            raise _Damaged("another begins before its end (EOI)")
        (length,) = struct.unpack(">H", parts.take(2))
        left = length - 2
        if code in _FRAMES and size is None:
            height, width = struct.unpack(">xHH", parts.take(5))
            size = width, height
            left -= 5
        if left < 0:
            raise _Damaged("one of its segments has no length")
        has_scan = has_scan or code == _SOS
        parts.skip(left)
    if size is None or not has_scan:
        raise _Damaged("it has no pixels (SOF, SOS)")
    return size


def _gif(parts: _Parts) -> tuple[int, int]:
    parts.skip(6)
    width, height, flags = struct.unpack("<HHB2x", parts.take(7))
    _skip_colors(parts, flags)
    has_image = False
    while (kind := parts.take(1)) != b";":
        if kind == b",":
            has_image = True
            _skip_colors(parts, parts.take(9)[8])
            parts.skip(1)  # the least size of a code
        elif kind == b"!":
            parts.skip(1)  # what it extends
        else:
            raise _Damaged("one of its blocks is of no known kind")
        parts.count()
        while length := parts.take(1)[0]:
            parts.count()
            parts.skip(length)
    if not has_image:
        raise _Damaged("it has no image")
    return width, height


def _skip_colors(parts: _Parts, flags: int) -> None:
    if flags & 0x80:
        parts.skip(3 * 2 ** ((flags & 7) + 1))


def _webp(parts: _Parts) -> tuple[int, int]:
    (length,) = struct.unpack("<4xI4x", parts.take(12))
    if parts.size < 8 + length:
        raise _Cut
    size, has_image, left = None, False, length - 4
    while left >= 8:
        parts.count()
        name, length = struct.unpack("<4sI", parts.take(8))
        left -= 8 + length
        if left < 0:
            raise _Damaged("one of its chunks is longer than it")
        head = parts.take(min(length, 10))
        size = size or _webp_size(name, head)
        has_image = has_image or name in {b"VP8 ", b"VP8L", b"ANMF"}
        parts.skip(length - len(head) + length % 2)
        left -= length % 2
    if size is None or not has_image:
        raise _Damaged("it has no image (VP8, VP8L)")
    return size


def _webp_size(name: bytes, head: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes of a chunk, or None if it has none."""
    match name, len(head):
        case b"VP8 ", 10 if head[3:6] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", head[6:])
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L", length if length >= 5 and head[0] == 0x2F:
            (bits,) = struct.unpack("<I", head[1:5])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X", 10:
            return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:], "little") + 1
    return None


_READERS: Final[dict[MediaType, Callable[[_Parts], tuple[int, int]]]] = {
    PNG: _png,
    JPEG: _jpeg,
    GIF: _gif,
    WEBP: _webp,
}
