"""Files that callers have uploaded to use as inputs later, each kept for a day and seen only by its caller.

They are in the storage of uploads, so all instances on the ledger see them: the content under number 0, and then its
facts as JSON under number 1. The owner in the storage is `file_<hash of the caller>_<id>`, and the id begins with the
time and the size. So a list of owners is enough to find the files of a caller, and those that have expired.
"""

import hashlib
import json
import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any, BinaryIO, Final

from files.uploads import UploadStorage

LIFETIME: Final = 86_400.0
"""Seconds for which a file is kept."""

MOST_FILES: Final = 10_000
MOST_BYTES: Final = 20_000_000_000
"""The most that one caller may have, about. The oldest files are deleted for new ones."""

_CHECKED_EACH: Final = 100
"""Uploads of one caller, by this process, of which the first checks how much the caller has."""

_OWNER: Final = re.compile(
    r"file_[0-9a-f]{32}_(?P<id>(?P<time>[0-9a-f]{8})(?P<size>[0-9a-f]{8})[0-9a-f]{32})"
)
_ID: Final = re.compile(r"[0-9a-f]{48}")
_LISTED: Final = 100
"""The most files of a list."""

_CONTENT: Final = 0
_FACTS: Final = 1


@dataclass(frozen=True, slots=True)
class CallerFile:
    """`size` is in bytes, `sha256` and `md5` are in hexadecimal digits, and `created_at` is a Unix time. `metadata` is
    the JSON of its caller."""

    id: str
    name: str
    content_type: str
    size: int
    sha256: str
    md5: str
    created_at: float
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expires_at(self) -> float:
        return self.created_at + LIFETIME


class CallerFiles:
    """Every method blocks, is safe on any thread, and raises OSError if the `storage` fails. `clock` returns Unix
    time."""

    def __init__(self, storage: UploadStorage, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._created: Counter[str] = Counter()
        """Uploads since the start of this process, by caller."""

    def create(
        self, caller_id: str, content: BinaryIO, *, name: str, content_type: str, metadata: Mapping[str, Any]
    ) -> CallerFile:
        """Store a file of this caller. The oldest ones are deleted if the caller has too many."""
        content.seek(0)
        sha256 = hashlib.file_digest(content, "sha256")  # type: ignore[arg-type] # `BinaryIO` omits `readinto`
        content.seek(0)
        md5 = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False))  # type: ignore[arg-type]
        size, now = content.seek(0, 2), self._clock()
        found = CallerFile(
            id=f"{int(now):08x}{size:08x}{secrets.token_hex(16)}",
            name=name,
            content_type=content_type,
            size=size,
            sha256=sha256.hexdigest(),
            md5=md5.hexdigest(),
            created_at=now,
            metadata=metadata,
        )
        if self._created[caller_id] % _CHECKED_EACH == 0:
            self._make_room(caller_id)
        self._created[caller_id] += 1
        owner = _owner(caller_id, found.id)
        self._storage.put(owner, _CONTENT, content)
        self._storage.put(owner, _FACTS, BytesIO(json.dumps(asdict(found)).encode()))
        return found

    def find(self, caller_id: str, file_id: str) -> CallerFile | None:
        """The facts of a file, None if this caller has none with this id, or it has expired."""
        if not _ID.fullmatch(file_id):
            return None
        return self._read(_owner(caller_id, file_id))

    def open(self, caller_id: str, file_id: str) -> BinaryIO | None:
        """The content of a file, None if this caller has none with this id, or it has expired."""
        if self.find(caller_id, file_id) is None:
            return None
        with suppress(FileNotFoundError):
            return self._storage.open(_owner(caller_id, file_id), _CONTENT)
        return None

    def latest(self, caller_id: str) -> list[CallerFile]:
        """The latest of the caller's files, the last one first."""
        latest = sorted(self._owners(caller_id), reverse=True)[:_LISTED]
        return [found for each in latest if (found := self._read(each)) is not None]

    def delete(self, caller_id: str, file_id: str) -> bool:
        """Delete a file. Returns whether there was one."""
        if self.find(caller_id, file_id) is None:
            return False
        self._storage.remove(_owner(caller_id, file_id))
        return True

    def _read(self, owner: str) -> CallerFile | None:
        try:
            opened = self._storage.open(owner, _FACTS)
        except FileNotFoundError:
            return None
        with closing(opened):
            found = CallerFile(**json.load(opened))
        return found if self._clock() < found.expires_at else None

    def _owners(self, caller_id: str) -> list[str]:
        mine = _owner(caller_id, "")
        return [each for each in self._storage.owners(before=math.inf) if each.startswith(mine)]

    def _make_room(self, caller_id: str) -> None:
        """Delete the oldest files of a caller who has too many. The next check comes after some more."""
        total = 0
        for number, owner in enumerate(sorted(self._owners(caller_id), reverse=True)):
            found = _OWNER.fullmatch(owner)
            total += int(found["size"], 16) if found else 0
            if number >= MOST_FILES or total > MOST_BYTES:
                self._storage.remove(owner)


def is_caller_file(owner: str) -> bool:
    """Whether an owner in the storage is a file of a caller, and not a generation or batch."""
    return _OWNER.fullmatch(owner) is not None


def has_expired(owner: str, *, now: float) -> bool:
    """Whether a file of a caller has expired at this Unix time, by its owner in the storage."""
    found = _OWNER.fullmatch(owner)
    return found is not None and int(found["time"], 16) + LIFETIME < now


def _owner(caller_id: str, file_id: str) -> str:
    return f"file_{hashlib.sha256(caller_id.encode()).hexdigest()[:32]}_{file_id}"
