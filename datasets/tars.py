"""Reads a tar forward, and only names of it into memory.

`tarfile` reads a header of any declared length at once, and has had endless loops and slow expressions on bad headers
(CVE-2024-6232, CVE-2025-8194). Formats: ustar and pax (POSIX.1-2024, pax), and GNU's long names and sizes (GNU tar
manual, "Basic Tar Format").
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from datasets.contents import BLOCK, Broken

_RECORD: Final = 512
_LONGEST_HEADER: Final = 64 * 1024
"""Bytes of a long name, or of a pax header."""

_FILES: Final = frozenset(b"0\0" + b"7")
_SIZELESS: Final = frozenset(b"123456")
"""Links, devices, folders and pipes: their size has no meaning, since no data follow."""

_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK = b"xgLK"
_PAX_FIELD: Final = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]{1,100})=", re.DOTALL)
_OCTAL: Final = re.compile(rb"[ \0]*([0-7]{0,12})[ \0]*\Z")


class TarFile:
    """A file in a tar, of `size` bytes. `read` returns its next bytes, and fewer only at its end."""

    def __init__(self, name: str, size: int, read: Callable[[int], bytes]) -> None:
        self.name, self.size = name, size
        self._read, self._left = read, size

    def read(self, size: int) -> bytes:
        data = self._read(min(size, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Read to the end of the file and of its last record. Raises Broken if the tar ends before."""
        left = self._left + -self.size % _RECORD
        while left and (block := self._read(min(left, BLOCK))):
            left -= len(block)
        if left:
            raise Broken("is cut short")


def tar_files(read: Callable[[int], bytes], most: int) -> Iterator[TarFile]:
    """The plain files of a tar with at most `most` entries. The unread rest of a file is skipped. `read` returns
    fewer bytes than requested only at the end. Raises Broken if the tar is not whole."""
    long: dict[str, bytes] = {}
    for _ in range(most):
        header = read(_RECORD)
        if header == bytes(_RECORD):
            return _check_end(read)
        if len(header) < _RECORD:
            raise Broken("is cut short")
        _check_sum(header)
        kind, size = header[156], _number(header[124:136])
        if kind in (_PAX, _GLOBAL_PAX, _LONG_NAME, _LONG_LINK):
            long |= _long(kind, size, read)
            continue
        size = _number(long["size"]) if "size" in long else size
        name = long.get("path") or _short_name(header)
        long = {}
        entry = TarFile(name.decode(errors="replace"), 0 if kind in _SIZELESS else size, read)
        if kind in _FILES:
            yield entry
        entry.skip()
    raise Broken(f"has more than {most:,} entries")


def _check_end(read: Callable[[int], bytes]) -> None:
    """Only zeros may follow the first record of zeros."""
    while block := read(BLOCK):
        if block.strip(b"\0"):
            raise Broken("has bytes after its end")


def _check_sum(header: bytes) -> None:
    """The sum of all bytes of the header, with its own field as spaces, and signed bytes in old programs."""
    own = _number(header[148:156])
    rest = header[:148] + b" " * 8 + header[156:]
    total = sum(rest)
    if own not in (total, total - 256 * sum(byte > 127 for byte in rest)):
        raise Broken("is damaged: the checksum of an entry is wrong")


def _number(data: bytes) -> int:
    """Octal digits, or binary after a set highest bit (GNU)."""
    if data[:1] == b"\x80":
        return int.from_bytes(data[1:], "big")
    if not (found := _OCTAL.match(data)):
        raise Broken("is damaged: an entry has no size")
    return int(found[1] or b"0", 8)


def _short_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _long(kind: int, size: int, read: Callable[[int], bytes]) -> dict[str, bytes]:
    """The name and size that a header for the next entry gives."""
    if size > _LONGEST_HEADER:
        raise Broken("has a header that is too long")
    entry = TarFile("", size, read)
    data = entry.read(size)
    entry.skip()
    if kind == _LONG_NAME:
        return {"path": data.rstrip(b"\0")}
    return _pax(data) if kind == _PAX else {}


def _pax(data: bytes) -> dict[str, bytes]:
    """Fields such as `18 path=a/long/name`, each with its own length and a line end."""
    found, at = {}, 0
    while at < len(data):
        field = _PAX_FIELD.match(data, at)
        end = at + int(field[1]) if field else 0
        if not field or end <= field.end() or data[end - 1 : end] != b"\n":
            raise Broken("is damaged: a header is not whole")
        value = data[field.end() : end - 1]
        if field[2] == b"path":
            found["path"] = value
        elif field[2] == b"size":
            if not value.isdigit() or len(value) > 19:
                raise Broken("is damaged: an entry has no size")
            found["size"] = b"\x80" + int(value).to_bytes(8, "big")
        at = end
    return found
