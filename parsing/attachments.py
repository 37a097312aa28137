"""Stores requests as text, and their uploaded files beside it, so that another process can read them.

An uploaded image may have 100 MB and is needed until its generation has ended. So it is stored by itself, under the id
of its generation or batch, and the text refers to it. Everything else is the JSON of the caller.

The files are stored before the ledger knows the work, and instances may share their storage. So only files that are
older than an hour, and that no unfinished work in the ledger needs, count as left behind.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import structlog

from catalog.references import Upload
from errors import LedgerDown
from files.caller_files import CallerFiles, has_expired, is_caller_file
from files.scratch import remove_left
from files.uploads import UploadStorage

SWEEP_EVERY: Final = 3600.0
"""Seconds between two removals of files that were left behind."""

LEFT_BEHIND: Final = 3600.0
"""Seconds after which a file was left behind if the ledger has no unfinished work with its owner's id."""

log = structlog.get_logger("uploads")

_REFERENCE: Final = "uploaded"

UPLOADED: Final = json.dumps({_REFERENCE: 0})[:-2]
"""A text that every stored request with files contains."""


class Gone(Exception):
    """A file of the request does not exist any more."""


class Attachments:
    """The uploaded files of requests, in `storage`. Without one, no upload outlives this process. `spool` is the
    directory in which they arrive. `written`, `read`, `remove` and `sweep` block. Any thread may call all methods."""

    def __init__(
        self,
        storage: UploadStorage | None,
        *,
        spool: Path | None = None,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.storage = storage
        self._spool = spool
        self.caller_files = None if storage is None else CallerFiles(storage)
        """Files that callers have uploaded to use them later."""
        # Own threads, since a bucket may be slow.
        self._executor = executor or ThreadPoolExecutor(2, thread_name_prefix="uploads")
        self._clock = clock
        self._sweep_at = 0.0

    def written(self, owner: str, given: Mapping[str, Any], numbers: Iterator[int] | None = None) -> str:
        """The request as text. Its files are stored for `owner` under the next `numbers`, from 0 by default. Raises
        OSError if they cannot be stored."""
        numbers = numbers or count()
        return json.dumps(given, default=lambda upload: {_REFERENCE: self._keep(owner, upload, numbers)})

    def read(self, owner: str, written: str) -> dict[str, Any]:
        """The request that this text stores. Raises Gone, and LedgerDown if a file may be read later."""
        found: dict[str, Any] = json.loads(written, object_hook=lambda found: self._found(owner, found))
        return found

    def remove(self, owner: str) -> None:
        """Delete the files of this owner. Raises OSError."""
        if self.storage is not None:
            self.storage.remove(owner)

    def forget(self, owner: str) -> None:
        """Delete the files of this owner soon. If that fails, they are left behind."""
        if self.storage is not None:
            with suppress(RuntimeError):  # after `close`
                self._executor.submit(self.storage.remove, owner)

    def tidy_up(self, is_unfinished: Callable[[str], bool]) -> None:
        """Delete soon the files that were left behind, unless that has begun within the last hour."""
        if self.storage is not None and not 0 <= self._sweep_at - self._clock() <= SWEEP_EVERY:
            self._sweep_at = self._clock() + SWEEP_EVERY
            self._executor.submit(self.sweep, is_unfinished)

    def sweep(self, is_unfinished: Callable[[str], bool]) -> None:
        """Delete the files that were left behind, and those of callers that have expired. `is_unfinished` returns
        whether the ledger has unfinished work with this id, and may raise LedgerDown."""
        if self.storage is None:
            return
        now = self._clock()
        try:
            if self._spool is not None:
                remove_left(self._spool, before=now - LEFT_BEHIND)
            for owner in self.storage.owners(before=now - LEFT_BEHIND):
                is_left = has_expired(owner, now=now) if is_caller_file(owner) else not is_unfinished(owner)
                if is_left:
                    self.storage.remove(owner)
        except (OSError, LedgerDown) as error:
            log.warning("uploads_sweep_failed", reason=str(error))

    def close(self) -> None:
        """End the threads, once all removals have ended."""
        self._executor.shutdown()

    def _keep(self, owner: str, upload: Upload, numbers: Iterator[int]) -> int | None:
        if self.storage is None:
            return None
        number = next(numbers)
        self.storage.put(owner, number, upload.file)
        return number

    def _found(self, owner: str, found: dict[str, Any]) -> Any:
        if found.keys() != {_REFERENCE}:
            return found
        try:
            if self.storage is None or not isinstance(found[_REFERENCE], int):
                raise FileNotFoundError
            return Upload(self.storage.open(owner, found[_REFERENCE]))
        except FileNotFoundError:
            raise Gone("An image that was uploaded with the request is no longer stored.") from None
        except OSError as error:
            raise LedgerDown(f"An uploaded image cannot be read: {error}.") from error
