"""Puts a changed secret of the service in the place of the old one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from auth import Authenticator
from ledger.writer import Backend
from rotation.watch import SecretWatch
from settings import Settings
from webhooks.signing import SigningSecrets

ADMIN_KEYS: Final = frozenset({"ADMIN_API_KEY", "CONCURRENT_DOCKER_ADMIN_API_KEY"})

log = structlog.get_logger("secrets")


class ServerSecrets:
    """The secrets of the running service. `renew_database(url)` has the ledger use a URL for new connections, and
    returns whether it can. `grace` is the number of seconds for which replaced admin keys and webhook secrets hold."""

    def __init__(
        self,
        authenticator: Authenticator,
        signing: SigningSecrets,
        renew_database: Callable[[str], bool],
        *,
        grace: float,
    ) -> None:
        self._authenticator = authenticator
        self._signing = signing
        self._renew_database = renew_database
        self._grace = grace

    async def use(self, name: str, value: str) -> None:
        """Use the new value of this setting from now on."""
        if name in ADMIN_KEYS:
            self._authenticator.admin_key.replace(value, grace=self._grace)
        elif name == "WEBHOOK_SECRET":
            self._signing.common.replace(value, grace=self._grace)
        elif name != "DATABASE_URL" or not self._renew_database(value):
            log.warning("secret_needs_restart", setting=name)


def secret_watch(
    settings: Settings,
    authenticator: Authenticator,
    signing: SigningSecrets,
    database: Backend,
) -> SecretWatch:
    """The watch of all secrets that have a source. Call it on the loop."""
    secrets = ServerSecrets(
        authenticator, signing, partial(_renew, database), grace=settings.SECRET_GRACE_SECONDS
    )
    sources, reader = settings.secret_sources, ThreadPoolExecutor(1, thread_name_prefix="secrets-reader")
    values = {name: settings.secret(name) or "" for name in sources}
    return SecretWatch(sources, values, check=settings.check_secret, on_change=secrets.use, executor=reader)


def _renew(database: Backend, url: str) -> bool:
    """Let the ledger use the URL for new connections. Returns whether it can."""
    if database.process is None:
        return False
    from ledger.postgres import PostgresBackend

    return isinstance(database, PostgresBackend) and database.renew(url)
