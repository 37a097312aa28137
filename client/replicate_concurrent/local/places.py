"""Where the service of this user on this machine has its files: one directory, which only the user can read.

    ~/.local/state/rcg/service        $XDG_STATE_HOME on Linux; below ~/Library/Application Support on macOS
        lock                          held while the service runs or is being started
        state.json                    its port, its process and its private key
        service.log  service.log.1    its log, and the earlier one
        .env                          further settings of the service, if the user writes one
        data/                         its ledger and its outputs

The simulated service has all of this in `simulator` beside it, so that a script never mistakes one for the other. The
runtime directory ($XDG_RUNTIME_DIR) would not do: a job of cron has none, and it goes when its user logs out.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from replicate_concurrent.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """The directory of one local service."""

    directory: Path

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def log(self) -> Path:
        return self.directory / "service.log"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def make(self) -> None:
        """Make the directory, readable by its user alone. Raises ConfigError if it is not the user's own."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.stat()
            if found.st_uid != os.getuid():
                raise ConfigError(f"{self.directory} belongs to another user.")
            if stat.S_IMODE(found.st_mode) & 0o077:
                self.directory.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"{self.directory} cannot be used: {error.strerror}.") from error


def place(environ: Mapping[str, str], *, simulated: bool) -> Place:
    """The place of the service, or of the simulated one, for a script with these variables."""
    home = environ.get("XDG_STATE_HOME", "")
    if not Path(home).is_absolute():  # as the specification of these directories demands
        own = "Library/Application Support" if sys.platform == "darwin" else ".local/state"
        home = str(Path.home() / own)
    return Place(Path(home) / "rcg" / ("simulator" if simulated else "service"))
