"""Where a secret comes from if its variable does not hold it: a file, which `NAME_FILE` names, or a vault (`vault.py`).

A source is read again while the service runs, since Docker, Kubernetes and agents of vaults replace its secret.
Another kind of source has one function to write.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

SUFFIX: Final = "_FILE"

MOST_BYTES: Final = 65_536
"""The most bytes of a file with a secret."""


class SecretUnreadable(Exception):
    """A source has no secret. Its text has the reason, to follow a name and a colon, and never the secret.
    `is_missing` means that the source works and has none of this name."""

    def __init__(self, reason: str, *, is_missing: bool = False) -> None:
        super().__init__(reason)
        self.is_missing = is_missing


class SecretSource(Protocol):
    """A secret that is kept outside of this process and may be replaced at any time."""

    def read(self, *, fresh: bool = False) -> str:
        """The secret as it is now. Blocks. A source that keeps it should look again if it must be `fresh`, since the
        one before was refused. Raises SecretUnreadable."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A secret in a file. Each reading opens the path anew, since Kubernetes replaces a link in it."""

    path: Path

    def read(self, *, fresh: bool = False) -> str:  # noqa: ARG002 - it is always read
        """The content without one newline at its end."""
        try:
            content = self._content()
        except OSError as error:
            raise SecretUnreadable(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            secret = content.decode()
        except UnicodeDecodeError:
            raise SecretUnreadable(f"{self.path} is not text in UTF-8") from None
        secret = secret.removesuffix("\n").removesuffix("\r") if secret.endswith("\n") else secret
        if not secret.strip():
            raise SecretUnreadable(f"{self.path} is empty")
        return secret

    def _content(self) -> bytes:
        # A named pipe would block until another process writes to it.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SecretUnreadable(f"{self.path} is not a file")
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise SecretUnreadable(f"{self.path} has more than {MOST_BYTES} bytes")
        return content
