"""The service of this user on this machine: found, started when a script needs it, and ended when none does.

One service has all scripts of the user, so that they share the limits of one account. It ends by itself after ten
minutes without use.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from replicate_concurrent.config import Address, Settings
from replicate_concurrent.errors import ConfigError, NoServer
from replicate_concurrent.local import installed
from replicate_concurrent.local.installed import WAYS

if TYPE_CHECKING:
    from replicate_concurrent.local.caring import Diagnosis, Stopped
    from replicate_concurrent.local.finding import Local


def find_or_start(settings: Settings) -> Address:
    """The address of the running service, or of a new one. Blocks while it starts, usually a second.

    Its `key` is the script's own token, which pays, and its `gemini_key` pays for texts. A simulated service needs
    neither, so there the `key` is the private one.

    Warns if the limits of the service are not those of this script. Raises ConfigError without a token or with a wrong
    variable, and NoServer if none runs and none can be started."""
    local, token = _local(), _token(settings)
    if token is None and settings.gemini_api_key is None and not local.settings.simulated:
        raise _no_token(settings)
    found = local.find_or_start().state
    key = found.key if local.settings.simulated else token
    gemini_key = None if local.settings.simulated else settings.gemini_api_key
    return Address(found.url, key, found.key, gemini_key, is_current=partial(local.is_at, found.url))


def stop() -> Stopped:
    """End the running service, or the simulated one with RCG_SIMULATE=1. Waits for running work, for two minutes."""
    from replicate_concurrent.local import caring

    return caring.stop(_local().place)


def doctor(settings: Settings) -> Diagnosis:
    """How the service is, and what a script with these settings would get."""
    from replicate_concurrent.local import caring

    return caring.doctor(_local(), has_token=_token(settings) is not None)


def _local() -> Local:
    """Raises NoServer on a system that has no such services, and ConfigError."""
    if sys.platform == "win32":  # it has no `fcntl`
        raise NoServer(f"On Windows no script can start a service.{WAYS}")
    from replicate_concurrent.local.finding import Local  # most clients need none of it

    return Local.of(os.environ)


def _token(settings: Settings) -> str | None:
    """The user's own token of Replicate."""
    named = (settings.replicate_api_token, settings.api_key)
    return next((each for each in named if each and each.startswith("r8_")), None)


def _no_token(settings: Settings) -> ConfigError:
    """The error of a script without a token. It has the ways to a service if none can run here either."""
    why = installed.missing(simulated=False)
    ways = f" {' '.join(why)}{WAYS}" if why else ""
    if settings.key:
        return ConfigError(
            "The key is no token of Replicate (r8_…). If it is that of a service, set RCG_URL to its address, too."
            f"{ways}"
        )
    sentence = (
        "There is no token of Replicate. `rcg init` asks for it and keeps it; REPLICATE_API_TOKEN has it for one "
        "script. Without one, RCG_SIMULATE=1 makes simulated pictures."
    )
    return NoServer(f"{sentence}{ways}") if why else ConfigError(sentence)
