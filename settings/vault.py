"""Secrets in an Azure Key Vault, each under the name of its setting in lower case with dashes.

It uses Azure's clients (an extra, `requirements-azure.txt`). They find an identity in the environment: a service
principal (`AZURE_CLIENT_ID`, …), the workload identity of a pod, or the managed identity of a machine.

The vault limits its requests and may be unreachable. So a secret is kept for an hour. It is requested earlier only if
it was refused, and not more often than each 30 seconds.
"""

import math
import os
import time
from collections.abc import Callable
from typing import Any, Final

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from settings.sources import SecretUnreadable

KEPT_FOR: Final = 3600.0
"""Seconds after which a secret is requested again."""

LEAST_PAUSE: Final = 30.0
"""Seconds between any two requests for a secret, and after a failure between requests for any secrets."""

_PATIENCE: Final[dict[str, Any]] = {
    "connection_timeout": 3, "read_timeout": 5, "retry_total": 1, "retry_backoff_factor": 0.2,
}  # fmt: skip
"""Azure's clients would retry for minutes."""

_FOR_PEOPLE: Final = (
    "shared_token_cache", "visual_studio_code", "cli", "powershell", "developer_cli", "broker", "interactive_browser",
)  # fmt: skip
"""Ways in which a person signs in. Some of them start programs."""


class AzureVault:
    """The key vault at `url`. `clock` is monotonic, in seconds. Use it in one thread at a time."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._open: tuple[SecretClient, DefaultAzureCredential] | None = None
        self._failed_at, self._reason = -math.inf, ""

    def source(self, setting: str) -> "VaultSecret":
        """The source of a setting."""
        return VaultSecret(self, setting.lower().replace("_", "-"), clock=self._clock)

    def get(self, name: str) -> str:
        """The latest version of a secret. Raises SecretUnreadable. After a failure to reach the vault, it
        raises at once for LEAST_PAUSE, since each request could take ten seconds."""
        if self._clock() < self._failed_at + LEAST_PAUSE:
            raise SecretUnreadable(self._reason)
        try:
            value = self._client.get_secret(name).value
        except ResourceNotFoundError:
            raise SecretUnreadable(f"the key vault has no secret {name}", is_missing=True) from None
        except AzureError as error:
            reason = _reason(error, name)
            if not isinstance(error, HttpResponseError) or isinstance(error, ClientAuthenticationError):
                self._failed_at, self._reason = self._clock(), reason
            raise SecretUnreadable(reason) from None
        if not value or not value.strip():
            raise SecretUnreadable(f"the secret {name} in the key vault is empty")
        return value

    def close(self) -> None:
        """Close all connections. The next request opens new ones, so it may be in another process after a fork."""
        if self._open is not None:
            client, credential = self._open
            self._open = None
            client.close()
            credential.close()

    @property
    def _client(self) -> SecretClient:
        if self._open is None:
            # The libraries read no SSL_CERT_FILE.
            verify: Any = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR") or True
            options = {**_PATIENCE, "connection_verify": verify}
            excluded = {f"exclude_{each}_credential": True for each in _FOR_PEOPLE}
            credential = DefaultAzureCredential(**options, **excluded)
            self._open = SecretClient(self._url, credential, **options), credential
        return self._open[0]


class VaultSecret:
    """`sources.SecretSource` of one secret."""

    def __init__(self, vault: AzureVault, name: str, *, clock: Callable[[], float]) -> None:
        self._vault = vault
        self._name = name
        self._clock = clock
        self._value: str | None = None
        self._trouble: SecretUnreadable | None = None
        self._read_at = self._requested_at = -math.inf

    def read(self, *, fresh: bool = False) -> str:
        """The secret, which may be an hour old, or half a minute if it must be `fresh`."""
        now = self._clock()
        is_due = fresh or self._trouble is not None or now >= self._read_at + KEPT_FOR
        if is_due and now >= self._requested_at + LEAST_PAUSE:
            self._request(now)
        if self._trouble is not None:
            raise self._trouble
        assert self._value is not None  # noqa: S101 - the first call requests it
        return self._value

    def _request(self, now: float) -> None:
        # The first request is that of the start. A refusal may come soon after it.
        self._requested_at = -math.inf if self._read_at == -math.inf else now
        try:
            self._value, self._read_at, self._trouble = self._vault.get(self._name), now, None
        except SecretUnreadable as trouble:
            self._trouble, self._requested_at = trouble, now


def _reason(error: AzureError, name: str) -> str:
    """The reason of a failure, without the words of Azure, which may name the identity."""
    if isinstance(error, ClientAuthenticationError):
        return "Azure accepts no identity of this process for the key vault"
    if isinstance(error, HttpResponseError):
        return f"the key vault answers {error.status_code} for the secret {name}"
    return "the key vault cannot be reached"
