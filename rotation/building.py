"""Makes the watch of the service's secrets."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from auth import Authenticator
from contract.providers import CALLS, CREATIONS
from ledger import Ledger
from ledger.writer import Backend
from providers import AccountSource
from providers.payers import Payers
from rotation.accounts import Accounts, CommonAccount
from rotation.kept_account import KeptAccount, ReadLedger
from rotation.server_secrets import ServerSecrets
from rotation.watch import SecretWatch
from safety.judging import Judge
from settings import Settings
from webhooks.signing import SigningSecrets


def secret_watch(
    settings: Settings,
    authenticator: Authenticator,
    signing: SigningSecrets,
    provider: AccountSource,
    database: Backend,
    judge: Judge | None,
) -> SecretWatch:
    """The watch of all secrets that have a source. Call it on the loop."""
    secrets = ServerSecrets(
        authenticator, signing, provider, database.renew, grace=settings.SECRET_GRACE_SECONDS,
        safety_key=judge.key if judge else None,
    )  # fmt: skip
    sources = settings.secret_sources
    watch = SecretWatch(
        sources,
        {name: settings.secret(name) or "" for name in sources},
        check=settings.check_secret,
        on_change=secrets.use,
        executor=ThreadPoolExecutor(1, thread_name_prefix="secrets-reader"),
        before=Accounts(provider).learn if "REPLICATE_API_TOKEN" in sources else None,
    )
    authenticator.read_again = partial(_read_again, watch)
    provider.tokens.refresh = partial(_read_again, watch, CREATIONS)
    return watch


def common_account(
    settings: Settings,
    provider: AccountSource,
    authenticator: Authenticator,
    payers: Payers,
    ledger: Ledger,
    read: ReadLedger,
) -> CommonAccount:
    """The account of the service's token, compared with that of the ledger and of other processes."""
    kept = KeptAccount(
        provider, payers, ledger, read, simulated=settings.REPLICATE_SIMULATE,
        requests_account="REPLICATE_API_TOKEN" not in settings.secret_sources,
    )  # fmt: skip
    return CommonAccount(provider, authenticator, kept, ledger.process)


async def _read_again(watch: SecretWatch, provider: str) -> None:
    """Read the source of the service's credential at this provider, which was refused."""
    await watch.look({CREATIONS: "REPLICATE_API_TOKEN", CALLS: "GEMINI_API_KEY"}[provider])
