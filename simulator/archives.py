"""Counts the images of an archive that streams through, without keeping it.

The names of a zip are at its end, so its last 4 MB are kept until then: enough for ten thousand files with long names.
A tar has each name in front of its file.
"""

import io
import zipfile
from pathlib import PurePosixPath

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

_TAIL = 4 * 2**20
_BLOCK = 512


class ImageCounter:
    """Counts the images in the bytes that it is fed."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._head = b""
        self._skip = 0
        self._is_tar: bool | None = None
        self._in_tar = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the archive."""
        self._tail += chunk
        if len(self._tail) > 2 * _TAIL:
            del self._tail[:-_TAIL]
        if self._is_tar is not False:
            self._feed_tar(chunk)

    def number(self) -> int:
        """The number of images so far, 0 if the bytes are neither a zip nor a tar."""
        if self._is_tar:
            return self._in_tar
        try:
            with zipfile.ZipFile(io.BytesIO(self._tail)) as archive:
                return sum(_is_image(name) for name in archive.namelist())
        except (zipfile.BadZipFile, ValueError, OSError):
            return 0

    def _feed_tar(self, chunk: bytes) -> None:
        """Read the headers of a tar, and skip the files between."""
        while chunk:
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            chunk = chunk[skipped:]
            missing = _BLOCK - len(self._head)
            self._head, chunk = self._head + chunk[:missing], chunk[missing:]
            if len(self._head) < _BLOCK:
                return
            head, self._head = self._head, b""
            if self._is_tar is None:
                self._is_tar = head[257:262] == b"ustar"
                if not self._is_tar:
                    return
            self._read_header(head)

    def _read_header(self, head: bytes) -> None:
        size = head[124:136].strip(b" \0")
        if not size or not size.isdigit():
            return
        self._skip = -(-int(size, 8) // _BLOCK) * _BLOCK
        self._in_tar += _is_image(head[:100].rstrip(b"\0").decode(errors="replace"))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return "__MACOSX" not in path.parts and not path.name.startswith(".") and path.suffix.lower() in IMAGES
