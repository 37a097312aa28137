"""Stores requests as text, and their uploaded files beside it, so that another process can read them.

An uploaded image may have 100 MB and is needed until its generation has ended. So it is kept in a directory named after
its generation or batch, and the text refers to it. Everything else is the JSON of the caller.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from catalog.references import Upload

_REFERENCE: Final = "uploaded"

UPLOADED: Final = json.dumps({_REFERENCE: 0})[:-2]
"""A text that every stored request with files contains."""


class Gone(Exception):
    """A file of the request does not exist any more."""


class Attachments:
    """The uploaded files of requests, in `directory`. Without one, no upload outlives this process. The methods block,
    and any thread may call them."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def written(self, owner: str, given: Mapping[str, Any]) -> str:
        """The request as text. Its files are kept for `owner`. Raises OSError if they cannot be stored."""
        return json.dumps(given, default=lambda upload: {_REFERENCE: self._keep(owner, upload)})

    def read(self, owner: str, written: str) -> dict[str, Any]:
        """The request that this text stores. Raises Gone."""
        found: dict[str, Any] = json.loads(written, object_hook=lambda found: self._found(owner, found))
        return found

    def remove(self, *owners: str) -> None:
        """Delete the files of these owners."""
        if self.directory is not None:
            for owner in owners:
                shutil.rmtree(self.directory / owner, ignore_errors=True)

    def sweep(self, owners: Collection[str]) -> None:
        """Delete all files except those of these owners."""
        if self.directory is not None and self.directory.is_dir():
            for owner in self.directory.iterdir():
                if owner.is_dir() and owner.name not in owners:
                    self.remove(owner.name)

    def _keep(self, owner: str, upload: Upload) -> int | None:
        if self.directory is None:
            return None
        place = self.directory / owner
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = sum(1 for _ in place.iterdir())
        upload.file.seek(0)
        with (place / str(number)).open("xb") as kept:
            shutil.copyfileobj(upload.file, kept, 1024 * 1024)
            kept.flush()
            os.fsync(kept.fileno())
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return number

    def _found(self, owner: str, found: dict[str, Any]) -> Any:
        if found.keys() != {_REFERENCE}:
            return found
        try:
            if self.directory is None or not isinstance(found[_REFERENCE], int):
                raise FileNotFoundError
            return Upload((self.directory / owner / str(found[_REFERENCE])).open("rb"))
        except OSError:
            raise Gone("An image that was uploaded with the request is no longer stored.") from None
