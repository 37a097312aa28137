"""The unpacked content of one file in a zip, read forward in blocks. At most a few blocks are in memory."""

import zlib
from collections.abc import Callable
from typing import BinaryIO, Final

STORED: Final = 0
DEFLATED: Final = 8

BLOCK: Final = 256 * 1024
"""Bytes that are read or unpacked at once."""


class Broken(Exception):
    """The zip, or the file in it of this name, is not whole. The message goes on after the name."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        self.reason, self.name = reason, name
        super().__init__(reason)


class Effort:
    """The reads that are left for the contents of a zip. The time to look at an image depends on their number, and a
    caller could make an image of a million tiny parts."""

    def __init__(self, most: int) -> None:
        self._left = most

    def spend(self) -> None:
        """Take one read. Raises Broken if there is none."""
        self._left -= 1
        if self._left < 0:
            raise Broken("has too many parts")


class Inflater:
    """Unpacks what `read` returns block by block, in a format by its number in zlib (`wbits`)."""

    def __init__(self, read: Callable[[], bytes], wbits: int) -> None:
        self._read = read
        self._inflater = zlib.decompressobj(wbits)

    def block(self, most: int) -> bytes:
        """The next bytes, at most `most`, none at the end. Raises Broken if there is no end, or more after it."""
        inflater = self._inflater
        while not inflater.eof:
            data = inflater.unconsumed_tail or self._read()
            try:
                block = inflater.decompress(data, most)
            except zlib.error:
                raise Broken("is damaged: its data cannot be unpacked") from None
            if block:
                return block
            if not data:
                raise Broken("is damaged: its data ends early")
        if inflater.unused_data or self._read():
            raise Broken("has bytes after its data")
        return b""


class Content:
    """A file that can be read, and sought within what the last call of `read` returned, or forward. `size` is the
    unpacked size in bytes by its header.

    `read` and `finish` raise Broken when the data is damaged, too short or too long.
    """

    def __init__(
        self, file: BinaryIO, offset: int, method: int, sizes: tuple[int, int], effort: Effort
    ) -> None:
        self._file, self._next = file, offset
        self._packed_left, self.size = sizes
        self._effort = effort
        self._inflater = Inflater(self._raw, -zlib.MAX_WBITS) if method == DEFLATED else None
        self._kept, self._kept_at = b"", 0
        self._at = 0
        self._crc = self._unpacked = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position as in `io`, which may be behind the end. Going back further than the last read began makes
        the next read fail."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def read(self, size: int) -> bytes:
        """At most `size` bytes, fewer only at the end."""
        self._effort.spend()
        begin = self._at - self._kept_at
        if begin < 0:
            raise ValueError("this was read already")
        while len(self._kept) < begin + size and (block := self._unpack()):
            if begin >= len(self._kept):
                self._kept_at += len(self._kept)
                self._kept = block
            else:
                self._kept_at += begin
                self._kept = self._kept[begin:] + block
            begin = self._at - self._kept_at
        found = self._kept[begin : begin + size]
        self._at += len(found)
        return found

    def finish(self, crc: int) -> None:
        """Read the rest, and raise Broken unless the whole file has this checksum."""
        while self._unpack():
            pass
        if self._crc != crc:
            raise Broken("is damaged: its checksum is wrong")

    def _unpack(self) -> bytes:
        """The next block, empty at the end."""
        block = self._inflater.block(BLOCK) if self._inflater else self._raw()
        self._unpacked += len(block)
        if self._unpacked > self.size:
            raise Broken("is longer than its header says")
        if not block and self._unpacked < self.size:
            raise Broken("is shorter than its header says")
        self._crc = zlib.crc32(block, self._crc)
        return block

    def _raw(self) -> bytes:
        self._file.seek(self._next)
        data = self._file.read(min(BLOCK, self._packed_left))
        self._next += len(data)
        self._packed_left -= len(data)
        if not data and self._packed_left:
            raise Broken("is cut short")
        return data
