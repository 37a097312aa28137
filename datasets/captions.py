"""Reads the captions of a zip that was examined."""

import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from datasets.examine import CAPTION
from datasets.names import extension_of, is_leftover


def captions(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The name and the text of each caption. `file` is a zip that `examine` takes; it is not checked again."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if extension_of(entry.filename) == CAPTION and not is_leftover(entry.filename):
                yield entry.filename, archive.read(entry).decode("utf-8-sig")
