"""The settings of a script for the local service, from its environment: limits, and whether Replicate is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replicate_concurrent.config import is_true
from replicate_concurrent.errors import ConfigError

CONCURRENT, PER_MINUTE = "REPLICATE_CONCURRENT_LIMIT", "REPLICATE_REQUESTS_PER_MINUTE"

_LIMITS = {
    CONCURRENT: (CONCURRENT, "REPLICATE_GLOBAL_MAX_CONCURRENT"),
    PER_MINUTE: (PER_MINUTE,),
}
"""The settings of the service, and the variables of a script that mean them. The smallest counts. The second name is
that of the package `replicate-batch-process`."""

_PROVIDERS = {"REPLICATE_BASE_URL", "GEMINI_BASE_URL"}

_PASSED = {
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "IDLE_EXIT_SECONDS",
    *_PROVIDERS, "REPLICATE_OTHER_REQUESTS_PER_MINUTE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
}  # fmt: skip
"""The variables that the service has from the script that starts it. No others: PORT, HOST or DATABASE_URL of a script
are seldom meant for this service. Further settings are in `.env` in its directory."""


@dataclass(frozen=True)
class LocalSettings:
    """`limits` are settings of the service with their values, as far as the script sets any. `environ` are the
    variables that the service inherits."""

    simulated: bool
    limits: Mapping[str, int]
    environ: Mapping[str, str]


def local_settings(environ: Mapping[str, str]) -> LocalSettings:
    """The settings of a script with these variables. Raises ConfigError."""
    limits = {
        setting: min(values)
        for setting, names in _LIMITS.items()
        if (values := [_number(name, environ[name]) for name in names if environ.get(name, "").strip()])
    }
    simulated = is_true("RCG_SIMULATE", environ.get("RCG_SIMULATE", ""))
    # At these addresses may be the providers themselves, which a simulated service would take for its simulator.
    names = _PASSED - _PROVIDERS if simulated else _PASSED
    return LocalSettings(simulated, limits, {name: environ[name] for name in names if environ.get(name)})


def _number(name: str, value: str) -> int:
    if not value.strip().isdecimal() or int(value) < 1:
        raise ConfigError(f"{name}: must be a whole number from 1.")
    return int(value)
