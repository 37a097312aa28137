"""Reads the `multipart/form-data` (RFC 7578) that uploads one file: `content`, and beside it JSON in `metadata`.

The file is streamed to disk, and never whole in memory.
"""

import json
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import File

from catalog.references import LARGEST
from catalog.text_values import usable_text
from errors import InvalidRequest, PayloadTooLarge, Problem
from parsing.multipart_form import SpooledPart, read_parts

CONTENT: Final = "content"
METADATA: Final = "metadata"

MOST_BYTES: Final = LARGEST + 1_000_000
"""The most bytes of such a form."""

_MOST_PARTS: Final = 10
_MOST_TEXT: Final = 1_000_000
_LONGEST_NAME: Final = 255
_UNKNOWN_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """The file is open, and the caller closes it. `metadata` is JSON."""

    file: BinaryIO
    name: str
    content_type: str
    metadata: Mapping[str, Any]


def read_upload(stream: IO[bytes], *, options: Mapping[str, str], spool: Path | None) -> UploadedFile:
    """The uploaded file of a form. `options` are the parameters of its Content-Type, and `spool` is the directory for
    the file. Raises InvalidRequest, or PayloadTooLarge for more than 100 MB."""
    if spool:
        spool.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    opened: list[SpooledPart] = []

    def open_file() -> IO[bytes]:
        opened.append(SpooledPart(spool, most=LARGEST))
        return opened[-1]

    kept: object = None
    try:
        found = _read(stream, options, open_file)
        kept = found.file
    except RequestEntityTooLarge:
        raise PayloadTooLarge(f"A file may have at most {LARGEST // 1_000_000} MB.") from None
    except ValueError:
        raise InvalidRequest(
            [Problem("body", "must be multipart/form-data with a file in `content`")]
        ) from None
    finally:
        for file in opened:
            if file is not kept:
                file.close()
    return found


def _read(stream: IO[bytes], options: Mapping[str, str], open_file: Callable[[], IO[bytes]]) -> UploadedFile:
    """Raises ValueError if there is no such file, and RequestEntityTooLarge."""
    found: UploadedFile | None = None
    metadata: Any = {}
    parts = read_parts(stream, options, most_parts=_MOST_PARTS, most_text=_MOST_TEXT, open_file=open_file)
    for part, content in parts:
        if part.name == METADATA:
            metadata = json.loads(content.read(_MOST_TEXT))
        elif part.name == CONTENT and isinstance(part, File):
            name = usable_text(part.filename or CONTENT)[:_LONGEST_NAME]
            guessed = mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
            content_type = part.headers.get("Content-Type", guessed)[:_LONGEST_NAME]
            found = UploadedFile(cast("BinaryIO", content), name, content_type, {})
    if found is None or not isinstance(metadata, dict):
        raise ValueError("a file in content, and an object in metadata")
    return replace(found, metadata=metadata)
