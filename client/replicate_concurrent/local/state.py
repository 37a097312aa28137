"""What scripts know of the local service: a lock, which proves that it runs, and a file with its address.

The script that starts a service takes the lock and hands it over: the service inherits the open file, and the kernel
frees the lock when the last process that has it ends, however it ends. So a held lock proves that a service of this
user runs or is being started, and the port in the file is its own. A number of a process alone proves neither.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

_OWN = 0o600


@dataclass(frozen=True)
class State:
    """A service. `pid` is None while it starts. `key` is its admin key."""

    port: int
    key: str = field(repr=False)
    pid: int | None = None
    host: str = field(default_factory=socket.gethostname)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def this_host() -> str:
    """The name of this machine: machines that share a home directory share the file, too."""
    return socket.gethostname()


def read(path: Path) -> State | None:
    """The state in the file, also of a service that has ended. None if there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        return State(int(found["port"]), str(found["key"]), found["pid"], str(found["host"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, state: State) -> None:
    """Replace the file at once, readable by the user alone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWN), "w") as file:
        json.dump(asdict(state), file)
    beside.replace(path)


@contextmanager
def lock(path: Path) -> Iterator[int | None]:
    """Take the lock for the duration of the context. Gives its file descriptor, which a child may inherit and so keep
    the lock; None if another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _OWN)
    try:
        yield descriptor if _taken(descriptor, fcntl.LOCK_EX) else None
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process has the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor, fcntl.LOCK_SH)  # shared, so that two that look do not see each other
    finally:
        os.close(descriptor)


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
