"""Moves large inline images of a body to files.

A request may wait for hours, and an image of 16 MB would take memory three times: as text, as bytes, and in the request
that the ledger keeps. In a file it takes none. The rest of the service treats it as an upload.
"""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from catalog.references import NAMES, Upload, large_image


def moved(body: Any, directory: Path | None) -> Any:
    """The body with each large `data:` image replaced by an `Upload` in `directory`, also in the `requests` of a batch.
    Without a directory, the body is unchanged. Raises OSError if an image cannot be written."""
    if directory is None or not isinstance(body, dict):
        return body
    requests = body.get("requests")
    if isinstance(requests, list):
        body = body | {"requests": [_moved(each, directory) for each in requests]}
    return _moved(body, directory)


def _moved(fields: Any, directory: Path) -> Any:
    if not isinstance(fields, dict):
        return fields
    return fields | {name: _image(fields[name], directory) for name in NAMES if name in fields}


def _image(given: Any, directory: Path) -> Any:
    if isinstance(given, list):
        return [_image(each, directory) if isinstance(each, str) else each for each in given]
    content = large_image(given) if isinstance(given, str) else None
    if content is None:
        return given
    directory.mkdir(mode=0o700, exist_ok=True)  # the directory may have been deleted
    file = TemporaryFile(dir=directory)  # noqa: SIM115 - the upload closes it
    file.write(content)
    return Upload(file)
