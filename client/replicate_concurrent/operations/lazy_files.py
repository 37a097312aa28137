"""A file that is open only while it is read: a form may have more files than a process may open."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO


class LazyFile:
    """A file for a part of a form, as httpx reads it: measured by `seek` and `tell`, then read to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._opened: BinaryIO | None = None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence not in (os.SEEK_SET, os.SEEK_END):
            raise io.UnsupportedOperation("only from the start or the end")
        self.close()
        self._at = offset + (self._path.stat().st_size if whence == os.SEEK_END else 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next bytes. At the end there are none, and the file is closed."""
        if self._opened is None:
            self._opened = self._path.open("rb")
            self._opened.seek(self._at)
        content = self._opened.read(size)
        self._at += len(content)
        if not content:
            self.close()
        return content

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
