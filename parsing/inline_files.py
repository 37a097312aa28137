"""Moves large inline files of a body to the disk.

A request may wait for hours, and an image of 16 MB would take memory three times: as text, as bytes, and in the request
that the ledger keeps. In a file it takes none. The rest of the service treats it as an upload.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from catalog.inputs import Input
from catalog.references import Upload, large_file, large_image
from parsing.context import ParseContext
from parsing.file_inputs import with_changed_files


def moved(body: Any, directory: Path | None, context: ParseContext) -> Any:
    """The body with each large `data:` file replaced by an `Upload` in `directory`, also in the `requests` or `inputs`
    of a batch. Without a directory, the body is unchanged. Raises OSError if a file cannot be written."""
    return body if directory is None else with_changed_files(body, context, partial(_on_disk, directory))


def _on_disk(directory: Path, _: str, taker: Input | None, text: str) -> str | Upload:
    content = _content(taker, text)
    if content is None:
        return text
    directory.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    file = TemporaryFile(dir=directory)  # noqa: SIM115 - the upload closes it
    file.write(content)
    return Upload(file)


def _content(taker: Input | None, text: str) -> bytes | None:
    """The content of a `data:` URI that is to be moved; else None. Only images must be of a known type."""
    is_image = taker is None or "image" in {taker.content, taker.items and taker.items.content}
    return large_image(text) if is_image else large_file(text)
