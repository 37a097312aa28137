"""Settings: frozen, read once from a mapping. Only this package reads environment variables.

An unset or empty variable means the default. All errors are reported at once, in sentences an operator can act on.
Secrets never appear in a `repr`.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import PrivateAttr, SecretStr, ValidationError

from network.host_rules import HostRules, host_rules
from network.proxies import Proxies, read_proxies
from settings import capacity, environment, values
from settings.calls import CallFields
from settings.fields import Fields
from settings.safety import SafetyFields
from settings.sources import SUFFIX, SecretFile, SecretSource, SecretUnreadable

if TYPE_CHECKING:
    from settings.vault import AzureVault

SIMULATED_TOKEN = "r8_simulated"  # noqa: S105 - opens nothing but the simulator

SIMULATED_KEY = "AQ.simulated"

ADMIN_KEYS = frozenset({"ADMIN_API_KEY", "CONCURRENT_DOCKER_ADMIN_API_KEY"})
"""The two names of one setting."""

SHORTEST_ADMIN_KEY = 16
"""Characters. A start warns of a shorter admin key, since it can be guessed."""


class SettingsError(Exception):
    """Invalid settings, one sentence per line."""


class Settings(SafetyFields, CallFields, Fields):
    """The fields of all settings, and what follows from them."""

    _aws: dict[str, str] = PrivateAttr(default_factory=dict)
    _unknown: dict[str, str | None] = PrivateAttr(default_factory=dict)
    _sources: dict[str, SecretSource] = PrivateAttr(default_factory=dict)
    _read_at: float = PrivateAttr(0.0)

    @classmethod
    def secret_names(cls) -> list[str]:
        """The settings that are secrets. Each may come from a file."""
        return [
            name
            for name, field in cls.model_fields.items()
            if any(getattr(each, "__origin__", each) is SecretStr for each in get_args(field.annotation))
        ]

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings from `environ` (names to strings).

        Raises SettingsError naming every variable that is wrong; the values themselves are not repeated,
        since one of them may be a secret in the wrong place.
        """
        texts = {name: value for name in cls.model_fields if (value := environment.value(environ, name))}
        sources, wrong = cls._read_sources(environ, texts)
        wrong += [f"{name}: {values.UNQUOTED}." for name, value in texts.items() if values.is_quoted(value)]
        try:
            settings = cls.model_validate(texts)
            settings._aws = {name: environ[name] for name in environment.AWS if environ.get(name)}  # noqa: SLF001 - its own
            settings._sources = sources  # noqa: SLF001 - its own
            settings._read_at = time.monotonic() if sources else 0.0  # noqa: SLF001 - its own
        except ValidationError as invalid:
            wrong += [environment.sentence(error) for error in invalid.errors()]
        else:
            wrong += settings._contradictions()  # noqa: SLF001 - its own
        if wrong:
            raise SettingsError("\n".join(wrong))
        return (
            settings.model_copy(update={"REPLICATE_SIMULATE": True}) if settings.GEMINI_SIMULATE else settings
        )

    @classmethod
    def _read_sources(
        cls, environ: Mapping[str, str], texts: dict[str, str]
    ) -> tuple[dict[str, SecretSource], list[str]]:
        """Add to `texts` the secrets that come from elsewhere. Returns their sources, and a sentence for each that
        cannot be read, or that is set by its variable, too."""
        sources: dict[str, SecretSource] = {}
        vault, wrong = cls._vault(texts)
        for name in cls.secret_names():
            path = environment.value(environ, name + SUFFIX)
            if path and name in texts:
                wrong.append(f"{name}{SUFFIX}: {name} is set, too; set one of them.")
            source = SecretFile(Path(path)) if path else vault.source(name) if vault else None
            if name in texts or source is None:
                continue
            try:
                texts[name], sources[name] = source.read(), source
            except SecretUnreadable as reason:
                if path or not reason.is_missing:
                    wrong.append(f"{name + SUFFIX if path else 'AZURE_KEY_VAULT_URL'}: {reason}.")
        if vault:
            vault.close()
        return sources, list(dict.fromkeys(wrong))

    @staticmethod
    def _vault(texts: Mapping[str, str]) -> "tuple[AzureVault | None, list[str]]":
        """The key vault that the settings name, or a sentence if it cannot be used."""
        try:
            url = values.vault_url(texts.get("AZURE_KEY_VAULT_URL") or "")
        except ValueError:  # there is none, or another sentence names the mistake
            return None, []
        try:
            from settings.vault import AzureVault
        except ImportError:
            missing = "Azure's clients are not installed; run pip install -r requirements-azure.txt."
            return None, [f"AZURE_KEY_VAULT_URL: {missing}"]
        return AzureVault(url), []

    @property
    def secret_sources(self) -> Mapping[str, SecretSource]:
        """The sources of the secrets that may be replaced while the service runs, by the name of the setting."""
        return self._sources

    def secret(self, name: str) -> str | None:
        """The value of a setting that is a secret."""
        found: SecretStr | None = getattr(self, name)
        return found.get_secret_value() if found else None

    def renewed(self, *, after: float = 60.0, clock: Callable[[], float] = time.monotonic) -> "Settings":
        """The same with the secrets that their sources hold now, if they were read more than `after` seconds ago: when
        a worker has crashed, another one starts with the settings of the first. Without a good new secret, the one
        before stays. `clock` is monotonic."""
        if not self._sources or clock() < self._read_at + after:
            return self
        found = {}
        for name, source in self._sources.items():
            with suppress(SecretUnreadable, ValueError):
                found[name] = SecretStr(self.check_secret(name, source.read(fresh=True)))
        return self.model_copy(update=found)

    def check_secret(self, name: str, text: str) -> str:
        """The value of a setting for a text that its source holds now. Raises ValueError with the rule that it
        breaks, without the text."""
        try:
            value = Settings.model_validate({name: text}).secret(name)
        except ValidationError as invalid:
            raise ValueError(environment.reason(invalid.errors()[0])) from None
        if not value or values.is_quoted(text):
            raise ValueError(values.UNQUOTED)
        if self._is_placeholder(name, value):
            raise ValueError("is a placeholder")
        return value

    def _is_placeholder(self, name: str, secret: str) -> bool:
        """Whether a secret was never filled in. The simulator takes any, and URLs have rules of their own."""
        is_url = name in {"DATABASE_URL", "HTTPS_PROXY"}
        return not self.REPLICATE_SIMULATE and not is_url and values.is_placeholder(secret)

    def _contradictions(self) -> list[str]:
        """A sentence for each two settings of which only one can hold."""
        found = self.safety_contradictions()
        if ADMIN_KEYS & self._sources.keys() and self.ADMIN_API_KEY and self.CONCURRENT_DOCKER_ADMIN_API_KEY:
            found.append(
                "ADMIN_API_KEY: is another name of CONCURRENT_DOCKER_ADMIN_API_KEY; with a file or a vault, set only "
                "one of them."
            )
        elif None not in {self.ADMIN_API_KEY, self.CONCURRENT_DOCKER_ADMIN_API_KEY} and (
            self.ADMIN_API_KEY != self.CONCURRENT_DOCKER_ADMIN_API_KEY
        ):
            found.append(
                "ADMIN_API_KEY: is another name of CONCURRENT_DOCKER_ADMIN_API_KEY, and both differ."
            )
        if self.GEMINI_SIMULATE and self.REPLICATE_API_TOKEN and not self.REPLICATE_SIMULATE:
            found.append("GEMINI_SIMULATE: a service simulates both; set REPLICATE_SIMULATE=1 or no token.")
        if self.REPLICATE_SIMULATE and self.GEMINI_API_KEY and not self.GEMINI_SIMULATE:
            found.append(
                "REPLICATE_SIMULATE: a service simulates both; set GEMINI_SIMULATE=1 or no GEMINI_API_KEY."
            )
        return found

    @property
    def admin_key(self) -> str | None:
        """The admin key, or None if none is set."""
        return self.secret("CONCURRENT_DOCKER_ADMIN_API_KEY") or self.secret("ADMIN_API_KEY")

    @property
    def replicate_token(self) -> str | None:
        """The token that pays for the admin's calls; the simulator takes any."""
        return self.secret("REPLICATE_API_TOKEN") or (SIMULATED_TOKEN if self.REPLICATE_SIMULATE else None)

    @property
    def gemini_key(self) -> str | None:
        """The key that pays for calls of the service; the simulator takes any."""
        return self.secret("GEMINI_API_KEY") or (SIMULATED_KEY if self.REPLICATE_SIMULATE else None)

    @property
    def server_credentials(self) -> str | None:
        """What pays for the service's own work, as one text: the token, the key, or both. None without either."""
        paying = self.replicate_token, self.secret("GEMINI_API_KEY")
        return "\n".join(each for each in paying if each) or None

    def simulating_without_token(self) -> "Settings":
        """The same, but simulating if there is no token and nothing says whether to simulate."""
        has_key = self.REPLICATE_API_TOKEN or self.GEMINI_API_KEY
        if has_key or "REPLICATE_SIMULATE" in self.model_fields_set:
            return self
        return self.model_copy(update={"REPLICATE_SIMULATE": True})

    def check_for_start(self) -> None:
        """Raise SettingsError if the service may not start with these settings: a secret was never filled in (the
        simulator takes any), or other instances on the same ledger could not reach the outputs."""
        secrets = {
            "REPLICATE_API_TOKEN": self.replicate_token,
            "GEMINI_API_KEY": self.gemini_key,
            "CONCURRENT_DOCKER_ADMIN_API_KEY": self.admin_key,
            "WEBHOOK_SECRET": self.webhook_secret,
            "AZURE_CONTENT_SAFETY_KEY": self.secret("AZURE_CONTENT_SAFETY_KEY"),
        }
        wrong = [
            name
            for name, secret in secrets.items()
            if secret is not None and self._is_placeholder(name, secret)
        ]
        sentences = [f"{name}: is a placeholder; set a real one, or leave it empty." for name in wrong]
        if self.shares_ledger and self.FILES_TTL:
            sentences += self._unshared()
        if sentences:
            raise SettingsError("\n".join(sentences))

    def _unshared(self) -> list[str]:
        """A sentence if other instances could not reach the outputs."""
        missing = [] if self.PUBLIC_URL else ["PUBLIC_URL"]
        if not self.FILES_URL and not self.FILES_SHARED:
            missing.insert(
                0, "FILES_URL (or FILES_SHARED=1, if FILES_DIR is one directory for all instances)"
            )
        needed = " and ".join(missing)
        return [f"DATABASE_URL: with PostgreSQL, set {needed} too, or FILES_TTL=0."] if missing else []

    @property
    def unknown(self) -> Mapping[str, str | None]:
        """Variables that look like settings but are not, each with the setting of the nearest name or None."""
        return self._unknown

    @property
    def admin_key_is_weak(self) -> bool:
        """Whether the admin key is short enough to be guessed. False with the simulator, where it protects nothing."""
        key = self.admin_key
        return key is not None and len(key) < SHORTEST_ADMIN_KEY and not self.REPLICATE_SIMULATE

    @property
    def aws(self) -> Mapping[str, str]:
        """The AWS_* variables for FILES_URL, from the environment and `.env`."""
        return self._aws

    @property
    def proxies(self) -> Proxies:
        """The proxy to Replicate, and the hosts that are reached without it."""
        return read_proxies(self.secret("HTTPS_PROXY") or "", self.NO_PROXY or "")

    @property
    def threads(self) -> int:
        """The number of request threads: one for each request that may hold one, and spare ones."""
        return self.MAX_WAITING_CALLERS + capacity.OTHER_THREADS

    @property
    def large_bodies_bytes(self) -> int:
        """Maximum bytes of large bodies in memory at once."""
        return max(capacity.LARGE_BODIES_BYTES, 2 * self.MAX_BODY_BYTES)

    @property
    def database_url(self) -> str:
        """The URL of the ledger. It may contain a password."""
        return self.secret("DATABASE_URL") or f"sqlite:///{self.DATA_DIR / 'ledger.db'}"

    @property
    def shares_ledger(self) -> bool:
        """Whether other instances may use the same ledger."""
        return not self.database_url.startswith("sqlite:")

    @property
    def webhook_secret(self) -> str | None:
        """The secret that signs webhook deliveries."""
        return self.secret("WEBHOOK_SECRET")

    @property
    def webhook_hosts(self) -> HostRules:
        """The operator's own hosts that the webhooks of callers may go to."""
        return host_rules(self.WEBHOOK_HOSTS or "")

    @property
    def webhooks_come(self) -> bool:
        """Whether Replicate can call PUBLIC_URL, which must be https. A simulator can also call localhost by http."""
        address = urlsplit(self.PUBLIC_URL or "")
        is_here = self.REPLICATE_SIMULATE and address.hostname in {"127.0.0.1", "::1", "localhost"}
        return address.scheme == "https" or (address.scheme == "http" and is_here)

    @property
    def files_dir(self) -> Path:
        """The directory of outputs; with FILES_URL, that of temporary files."""
        return self.FILES_DIR or self.DATA_DIR / "files"

    @property
    def address(self) -> str:
        """HOST and PORT as one, an IPv6 host in brackets."""
        host = f"[{self.HOST}]" if ":" in self.HOST and not self.HOST.startswith("[") else self.HOST
        return f"{host}:{self.PORT}"

    @property
    def needs_simulator(self) -> bool:
        """Whether a simulator must be started, since a simulated service must never call Replicate."""
        host = urlsplit(self.REPLICATE_BASE_URL).hostname or ""
        return self.REPLICATE_SIMULATE and f".{host}".endswith(".replicate.com")

    @property
    def gemini_url(self) -> str:
        """The URL of Gemini's API. A simulated service never calls Google: the simulator of Replicate is one of Gemini,
        too."""
        host = urlsplit(self.GEMINI_BASE_URL).hostname or ""
        is_google = f".{host}".endswith(".googleapis.com")
        return self.REPLICATE_BASE_URL if self.REPLICATE_SIMULATE and is_google else self.GEMINI_BASE_URL


def load(**given: str) -> Settings:
    """The settings of this process: a `.env` in the working directory, then the environment, then those `given`.

    Raises SettingsError.
    """
    from_file = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    environ = {name: value for name, value in os.environ.items() if value}
    try:
        values.use_certificates(from_file | environ)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    settings = Settings.from_env(from_file | environ | given)
    known = [*Settings.model_fields, *(name + SUFFIX for name in Settings.secret_names())]
    settings._unknown = dict(environment.unknown(from_file, environ, known))  # noqa: SLF001 - its own
    return settings
