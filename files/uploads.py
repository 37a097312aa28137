"""The storage of images that came with requests, by their owner, which is the id of a generation or batch.

Instances on one ledger share it, so that each can continue the work of another: it is a directory (here) or a part of
the bucket of outputs (`bucket.py`).
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol


class UploadStorage(Protocol):
    """Every method blocks and is safe on any thread. It raises OSError if the storage fails."""

    def put(self, owner: str, number: int, file: BinaryIO) -> None:
        """Store the whole file under a number that the owner has not used."""

    def open(self, owner: str, number: int) -> BinaryIO:
        """The stored file. Raises FileNotFoundError if it is gone, and another OSError if it may be read later."""

    def remove(self, owner: str) -> None:
        """Delete all files of an owner, if there are any."""

    def owners(self, *, before: float) -> list[str]:
        """The owners that have stored nothing since this Unix time."""


class UploadDirectory:
    """Stores files as `<owner>/<number>` below `path`. Only this user can read them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, owner: str, number: int, file: BinaryIO) -> None:
        place = self.path / owner
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.seek(0)
        with (place / str(number)).open("xb") as kept:
            shutil.copyfileobj(file, kept, 1024 * 1024)
            kept.flush()
            os.fsync(kept.fileno())
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def open(self, owner: str, number: int) -> BinaryIO:
        try:
            return (self.path / owner / str(number)).open("rb")
        except OSError as error:  # also of a broken disk, which a retry does not mend
            raise FileNotFoundError(error.errno, error.strerror) from error

    def remove(self, owner: str) -> None:
        shutil.rmtree(self.path / owner, ignore_errors=True)

    def owners(self, *, before: float) -> list[str]:
        names = []
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for each in entries:
                with suppress(FileNotFoundError):  # another process has just removed it
                    if each.is_dir(follow_symlinks=False) and each.stat().st_mtime < before:
                        names.append(each.name)
        return names
