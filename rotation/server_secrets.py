"""Puts a changed secret of the service in the place of the old one.

A Replicate token is used only once Replicate has accepted it and named its account. So the old one stays if the new one
is mistyped, or comes while Replicate cannot be reached. And it is known whether unfinished work may go on with the new
one.
"""

from collections.abc import Callable

import structlog

from auth import Authenticator
from contract.providers import CALLS, CREATIONS
from providers import AccountSource
from rotation.accounts import Accounts
from settings import ADMIN_KEYS
from settings.rotating import RotatingSecret
from webhooks.signing import SigningSecrets

log = structlog.get_logger("secrets")


class ServerSecrets:
    """The secrets of the running service. `renew_database(url)` has the ledger use a URL for new connections, and
    returns whether it can. `grace` is the number of seconds for which replaced admin keys and webhook secrets hold.
    `safety_key` is that of the service that judges prompts."""

    def __init__(
        self,
        authenticator: Authenticator,
        signing: SigningSecrets,
        provider: AccountSource,
        renew_database: Callable[[str], bool],
        *,
        grace: float,
        safety_key: RotatingSecret | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._signing = signing
        self._provider = provider
        self._accounts = Accounts(provider)
        self._renew_database = renew_database
        self._grace = grace
        self._safety_key = safety_key

    async def use(self, name: str, value: str) -> None:
        """Use the new value of this setting from now on. Raises ValueError if it cannot be used now."""
        if name in ADMIN_KEYS:
            self._authenticator.admin_key.replace(value, grace=self._grace)
        elif name == "WEBHOOK_SECRET":
            self._signing.common.replace(value, grace=self._grace)
        elif name == "GEMINI_API_KEY":
            self._authenticator.renew(CALLS, value)
        elif name == "AZURE_CONTENT_SAFETY_KEY" and self._safety_key is not None:
            self._safety_key.replace(value, grace=0)
        elif name == "REPLICATE_API_TOKEN":
            await self._use_token(value)
        elif name != "DATABASE_URL" or not self._renew_database(value):
            log.warning("secret_needs_restart", setting=name)

    async def _use_token(self, token: str) -> None:
        account = await self._accounts.of(token)
        await self._accounts.learn()
        if self._provider.tokens.replace(token, account):
            log.warning("server_account_changed")
        self._authenticator.renew(CREATIONS, token)
