"""Finds the service of this user on this machine, or starts it: one for all scripts of the user, in any environment."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replicate_concurrent.errors import NoServer
from replicate_concurrent.local import installed, probing, state
from replicate_concurrent.local.places import Place, place
from replicate_concurrent.local.settings import CONCURRENT, PER_MINUTE, LocalSettings, local_settings
from replicate_concurrent.local.starting import PATIENCE, start
from replicate_concurrent.local.state import State

_PAUSE = 0.05

_SHOWN = {CONCURRENT: "concurrent_limit", PER_MINUTE: "requests_per_minute_limit"}
"""The fields of `concurrency` in `/status` that show the settings."""


@dataclass(frozen=True)
class Found:
    """A service that answers, and the `/status` that its admin sees."""

    state: State
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Local:
    """The local service of a script: the place of its files, and the settings of the script."""

    place: Place
    settings: LocalSettings

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Local:
        """That of a script with these variables. Raises ConfigError."""
        settings = local_settings(environ)
        return cls(place(environ, simulated=settings.simulated), settings)

    def find(self) -> Found | None:
        """The running service. None if none runs, or it does not answer.

        It is trusted if the lock is held before and after its answer, so the port is that of a process of this user."""
        known = state.read(self.place.state)
        if known is None or not self.is_at(known.url) or (figures := probing.figures(known)) is None:
            return None
        return Found(known, figures) if self.is_at(known.url) else None

    def is_at(self, url: str | None) -> bool:
        """Whether the service runs or starts at this address. It reads the lock and the file only."""
        known = state.read(self.place.state) if state.is_held(self.place.lock) else None
        return known is not None and known.url == url

    def find_or_start(self) -> Found:
        """The running service, or a new one. Blocks while it starts. Warns if its limits are not those of this script.
        Raises NoServer, and ConfigError if the directory cannot be used."""
        self.place.make()
        deadline = time.monotonic() + PATIENCE
        while (found := self.find()) is None:
            with state.lock(self.place.lock) as lock:
                if lock is not None:
                    start(
                        self.place,
                        self.settings,
                        installed.tree_or_raise(simulated=self.settings.simulated),
                        lock,
                    )
                    continue
            known = state.read(self.place.state)
            if known and known.host != state.this_host():
                raise NoServer(elsewhere(known))
            if time.monotonic() > deadline:
                raise NoServer(
                    f"The local service runs but does not answer. `rcg stop` ends it. Its log is {self.place.log}."
                )
            time.sleep(_PAUSE)
        for difference in differences(self.settings, found.figures):
            warnings.warn(difference, stacklevel=3)
        return found


def elsewhere(known: State) -> str:
    """The sentence for a directory that two machines share."""
    return f"The local service of this directory runs on {known.host}. Set XDG_STATE_HOME to a directory of its own."


def differences(settings: LocalSettings, figures: Mapping[str, Any]) -> list[str]:
    """A sentence for each limit of a running service that is not the one of these settings."""
    return [
        f"The local service has {setting}={present}, not {limit}: the script that started it, or `rcg configure`, has "
        f"set it. `rcg configure` changes it."
        for setting, limit in settings.limits.items()
        if (present := figures["concurrency"][_SHOWN[setting]]) != limit
    ]
