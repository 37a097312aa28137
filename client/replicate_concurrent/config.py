"""Where the service is, and with which key: from arguments, else from the environment, else from the file.

The environment has `RCG_URL`, `RCG_API_KEY`, `REPLICATE_API_TOKEN` and `GEMINI_API_KEY`. The file is `rcg/config.toml`
in the user's directory for configuration, or what `RCG_CONFIG` names; it has `url`, `api_key` and
`replicate_api_token`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkstemp
from urllib.parse import urlsplit

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from replicate_concurrent.errors import ConfigError

FIELDS = ("url", "api_key", "replicate_api_token")

_TOKEN_START = "r8_"  # noqa: S105 - how Replicate's tokens begin


@dataclass(frozen=True)
class Settings:
    """`url` is None for the service of this user on this machine. The `repr` shows no key."""

    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    replicate_api_token: str | None = field(default=None, repr=False)
    gemini_api_key: str | None = field(default=None, repr=False)
    """The user's own, which pays for calls to text models, and is sent with these alone."""

    @property
    def key(self) -> str | None:
        """The key to send: that of the service, else the user's own token."""
        return self.api_key or self.replicate_api_token


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Address:
    """A service, and the keys to send there. A service of this machine has an `admin_key` beside the user's token, and
    `is_current` is true while it runs; afterwards, another program may have its port."""

    url: str
    key: str | None = field(default=None, repr=False)
    admin_key: str | None = field(default=None, repr=False)
    gemini_key: str | None = field(default=None, repr=False)
    is_current: Callable[[], bool] = field(default=_always, repr=False, compare=False)


def load(
    url: str | None = None,
    api_key: str | None = None,
    replicate_api_token: str | None = None,
    gemini_api_key: str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of a client. The first place that has a key or a token decides for both. Those of a file that names
    an address are only for this address. A Gemini key that is passed is used always; that of the environment only
    without a key of the service, which pays otherwise. With RCG_SIMULATE=1 and no other address the file is not read,
    since work that must be free must not reach the service in it.

    Raises ConfigError if the address is none, a key cannot be sent, or the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    passed = Settings(url or None, api_key or None, replicate_api_token or None)
    named = Settings(
        environ.get("RCG_URL") or None,
        environ.get("RCG_API_KEY") or None,
        environ.get("REPLICATE_API_TOKEN") or None,
    )
    places = [passed, named]
    has_address = bool(passed.url or named.url)
    is_simulated = not has_address and is_true("RCG_SIMULATE", environ.get("RCG_SIMULATE", ""))
    if not is_simulated and not (has_address and (passed.key or named.key)):
        places.append(read(path_of(environ)))
    address = next((_checked_url(each.url) for each in places if each.url), None)
    kept = places[2:]
    if kept and kept[0].url and _checked_url(kept[0].url) != address:
        places.pop()
    keys = next((each for each in places if each.key), Settings())
    pays_itself = keys.api_key is None or keys.api_key.startswith(_TOKEN_START)
    return replace(
        keys,
        url=address,
        gemini_api_key=_visible(
            gemini_api_key or (environ.get("GEMINI_API_KEY") or None if pays_itself else None)
        ),
        api_key=_visible(keys.api_key),
        replicate_api_token=_visible(keys.replicate_api_token),
    )


def is_true(name: str, value: str) -> bool:
    """Raises ConfigError for a value other than yes or no, since a misspelt one must not be taken for either."""
    word = value.strip().lower()
    if word not in {"", "0", "1", "false", "true", "no", "yes", "off", "on"}:
        raise ConfigError(f"{name}: must be 1 or 0.")
    return word in {"1", "true", "yes", "on"}


def path_of(environ: Mapping[str, str] | None = None) -> Path:
    """The path of the configuration file, which need not exist."""
    environ = os.environ if environ is None else environ
    if named := environ.get("RCG_CONFIG"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "rcg" / "config.toml"


def read(path: Path) -> Settings:
    """The settings of a file; empty ones if there is none. Raises ConfigError."""
    try:
        kept = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return Settings()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    texts = {name: kept.get(name) or None for name in FIELDS}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{path}: {name} must be a text")
    return Settings(**texts)


def write(settings: Settings, path: Path) -> None:
    """Write the file, readable by this user alone. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f'{name} = "{value}"\n' for name in FIELDS if (value := getattr(settings, name))]
    descriptor, beside = mkstemp(dir=path.parent, prefix=".config-")  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(lines)
        Path(beside).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(beside).unlink()
        raise


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, or half an address of IPv6
        is_one = False
    if not is_one or set(url) & set('"\\ \n'):
        raise ConfigError(f"The address of the service must be like http://localhost:5000, got {url!r}.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("The address of the service must have no user name, query or fragment.")
    return url.rstrip("/")


def _visible(key: str | None) -> str | None:
    if key is not None and not all("!" <= each <= "~" and each not in '"\\' for each in key):
        raise ConfigError("A key has characters that no key has, such as a space or a line break.")
    return key
