"""Makes parts of the service from its settings. `service.build` puts them together.

Only this file and `service.py` choose implementations.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

import structlog

from admission.metered.limits import MeteredLimits
from auth import Authenticator
from catalog.fallback import read_rules
from catalog.registry import Registry
from catalog.tariff import Tariff, read_prices
from catalog.texts.registry import text_registry
from catalog.trigger_words import read_trigger_words
from cluster import AnyCallGate, AnyGate
from concurrency import Gate
from contract.providers import CALLS
from datasets.weights import check_weights
from files import Files
from files.directory import Directory
from files.hosts import OutputHosts
from files.storage import FileStorage
from files.uploads import UploadDirectory, UploadStorage
from files.volume import disk_usage
from files.weights import WeightsStore
from files.weights_directory import WeightsDirectory
from ledger import Profile
from ledger.databases import backend
from ledger.elsewhere import SqlOtherAttempts
from ledger.writer import Backend, SqlLedger
from loop_thread import Pool
from metering.gate import MeteredGate
from models import declared
from parsing.context import ParseContext
from providers.gemini.client import GeminiClient
from providers.gemini.days import zone
from providers.gemini.estimates import inputs_bound
from providers.replicate.access import Access
from providers.replicate.provider import Replicate
from providers.replicate.trainings import ReplicateTrainings
from providers.server_tokens import ServerTokens
from safety.azure import AzureContentSafety
from safety.http import JsonClient, OwnService
from safety.judging import Judge
from safety.rules import Rules
from settings import Settings, SettingsError
from settings.rotating import RotatingSecret

if TYPE_CHECKING:
    from cluster.group import Group
    from files.bucket import Bucket

_OTHERS_AT_ONCE: Final = 200
"""Requests to Replicate in flight that create nothing. More would only wait at Replicate."""

_COUNTS_PER_MINUTE: Final = 3000
"""Counts of tokens and lists of models in any 60 seconds, the documented limit of counts."""

_WEIGHTS_STALL: Final = 30.0
"""Seconds for connecting to the host of weights, and for each read."""

log = structlog.get_logger("service")


def authenticator(settings: Settings) -> Authenticator:
    made = Authenticator(
        admin_key=settings.admin_key,
        server_token=settings.replicate_token,
        server_key=settings.gemini_key,
        user_tokens=settings.ALLOW_USER_TOKENS,
    )
    made.hash_key = None  # read from the ledger when it opens
    return made


def database(settings: Settings, version: str) -> Backend:
    """The database of the ledger. Raises SettingsError."""
    profile = Profile(
        version=version,
        upstream=settings.REPLICATE_BASE_URL,
        simulated=settings.REPLICATE_SIMULATE,
        token=settings.server_credentials,
    )
    return backend(settings.database_url, ttl=settings.PROCESS_TTL, profile=profile)


def pool(name: str, threads: int) -> Pool:
    """Threads that mostly compute."""
    return Pool(ThreadPoolExecutor(threads, thread_name_prefix=name), computes=True)


def _limits(settings: Settings) -> dict[str, Any]:
    """The arguments of the gate of creations."""
    return {
        "concurrent_limit": settings.REPLICATE_CONCURRENT_LIMIT,
        "requests_per_minute": settings.REPLICATE_REQUESTS_PER_MINUTE,
        "interactive_reserve": settings.INTERACTIVE_RESERVE,
    }


def gates(settings: Settings, database: Backend, ledger: SqlLedger) -> "tuple[AnyGate, Gate, Group | None]":
    """The gate of creations, that of all other requests to Replicate, and what this process runs with others if the
    database can be shared. Call it on the loop."""
    limit = settings.REPLICATE_OTHER_REQUESTS_PER_MINUTE
    others = Gate(
        concurrent_limit=_OTHERS_AT_ONCE,
        requests_per_minute=limit,
        bounds_unproven=False,  # one account's polls would delay those of all others
    )
    if database.process is None:
        others.start_half_spent()
        return Gate(**_limits(settings)), others, None
    from cluster.group import Group
    from ledger.courier import Courier
    from ledger.postgres import PostgresBackend

    assert isinstance(database, PostgresBackend)  # noqa: S101 - no other database can be shared
    others.allot(0)  # until this process has a share
    calls = _limits_of_calls(settings)
    group = Group(Courier(database), ledger, _limits(settings), others, limit, calls)
    return group.gate, others, group


def replicate(
    settings: Settings, creations: AnyGate, others: Gate, ledger: SqlLedger, threads: Pool
) -> Replicate:
    access = Access(
        base_url=settings.REPLICATE_BASE_URL,
        others=others,
        on_answer=creations.upstream_answered,
        may_send=ledger.may_send,
        proxy=settings.proxies.for_url(settings.REPLICATE_BASE_URL),
        tokens=ServerTokens(settings.replicate_token),
    )
    elsewhere = SqlOtherAttempts(ledger.engine, ledger.process, threads) if ledger.process else None
    return Replicate(access, durations=creations.durations, elsewhere=elsewhere)


def trainings(provider: object) -> ReplicateTrainings | None:
    """The trainings of the same accounts, None if the provider has none. Close them before it."""
    return ReplicateTrainings(provider.access) if isinstance(provider, Replicate) else None


def metered_gate(settings: Settings, gate: AnyGate, group: "Group | None") -> AnyCallGate:
    """The gate of calls to text models. Call it on the loop."""
    if group is not None:
        return group.calls
    assert isinstance(gate, Gate)  # noqa: S101 - there is no other process
    made = MeteredGate(**_limits_of_calls(settings), semaphores=gate.shared_semaphores)
    made.share_semaphores_with(gate)
    return made


def _limits_of_calls(settings: Settings) -> dict[str, Any]:
    """The arguments of the gate of calls."""
    return {
        "concurrent_limit": settings.GEMINI_CONCURRENCY_LIMIT,
        "limits": call_limits(settings),
        "zone": zone(),
    }


def call_limits(settings: Settings) -> MeteredLimits:
    """The limits of calls to text models. Raises SettingsError."""
    try:
        return MeteredLimits.parse(settings.gemini_limits)
    except ValueError as error:
        raise SettingsError(f"GEMINI_LIMITS: {error}.") from None


def gemini(
    settings: Settings, calls: AnyCallGate, ledger: SqlLedger, authenticator: Authenticator
) -> GeminiClient:
    """The provider of the calls that this gate admits. Call it on the loop."""
    others = Gate(
        concurrent_limit=_OTHERS_AT_ONCE, requests_per_minute=_COUNTS_PER_MINUTE, bounds_unproven=False
    )
    return GeminiClient(
        base_url=settings.gemini_url,
        others=others,
        on_answer=calls.upstream_answered,
        may_send=ledger.may_send,
        proxy=settings.proxies.for_url(settings.gemini_url),
        server_key=partial(authenticator.server_token, CALLS),
        read_again=partial(_read_again, authenticator),
    )


async def _read_again(authenticator: Authenticator) -> None:
    """Read the source of the Gemini key, which was refused."""
    await authenticator.read_again(CALLS)


def open_files(settings: Settings) -> Files | None:
    if not settings.FILES_TTL:
        return None
    return Files(
        storage=storage(settings),
        spool=settings.files_dir,
        source=OutputHosts(settings.REPLICATE_BASE_URL, proxies=settings.proxies),
        ttl=settings.FILES_TTL,
        max_bytes=settings.FILES_MAX_BYTES,
        disk_usage=None if settings.FILES_URL else partial(disk_usage, settings.files_dir),
        shared=settings.shares_ledger,
    )


def open_weights(settings: Settings) -> WeightsStore:
    """The store of trained weights: where all instances on the ledger reach it, if there is such a place, and else
    DATA_DIR. Call it on the loop. Raises SettingsError."""
    bucket = _bucket(settings, settings.FILES_URL) if settings.FILES_URL else None
    is_shared = bucket is None and settings.shares_ledger and settings.FILES_SHARED
    path = (settings.files_dir if is_shared else settings.DATA_DIR) / "weights"
    source = OutputHosts(
        settings.REPLICATE_BASE_URL,
        stall=_WEIGHTS_STALL,
        any_public=not settings.REPLICATE_SIMULATE,
        proxies=settings.proxies,
    )
    return WeightsStore(
        storage=bucket.weights() if bucket else WeightsDirectory(path),
        spool=path,
        source=source,
        check=check_weights,
        ttl=settings.WEIGHTS_TTL,
        disk_usage=partial(disk_usage, path),
    )


def context(settings: Settings) -> ParseContext:
    """Raises SettingsError."""
    path, models = settings.TRIGGER_WORDS_FILE, registry(settings)
    texts = text_registry(inputs_bound)
    return ParseContext(
        models,
        loopback=settings.REPLICATE_SIMULATE,
        webhook_hosts=settings.webhook_hosts,
        timeout=settings.GENERATION_TIMEOUT,
        start_timeout=settings.GENERATION_START_TIMEOUT,
        trigger_words=read_trigger_words(path, models) if path else {},
        texts=texts,
        others=texts,
        rules=rules(settings),
    )


def rules(settings: Settings) -> Rules | None:
    """The rules that requests are compared with. Raises SettingsError."""
    return Rules.read(settings.SAFETY_FILE) if settings.SAFETY_FILE else None


def judge(settings: Settings) -> Judge | None:
    """The service that judges prompts. Call it on the loop."""
    if (url := settings.safety_url) is None:
        return None
    client = JsonClient(settings.proxies.for_url(url))
    key = RotatingSecret(settings.secret("AZURE_CONTENT_SAFETY_KEY"))
    return Judge(
        AzureContentSafety(url, key, client, threshold=settings.SAFETY_THRESHOLD)
        if settings.SAFETY_SERVICE
        else OwnService(url, client),
        key=key,
        timeout=settings.SAFETY_TIMEOUT,
        allows_failed=settings.SAFETY_ON_ERROR == "allow",
    )


def registry(settings: Settings) -> Registry:
    """The declared models, with fallbacks from FALLBACKS_FILE and prices from PRICES_FILE. Raises SettingsError."""
    path = settings.FALLBACKS_FILE
    rules = read_rules(path, declared()) if path else None
    return declared(rules, tariff(settings))


def tariff(settings: Settings) -> Tariff:
    """The prices of PRICES_FILE, and what a model without a price counts as. Raises SettingsError."""
    path = settings.PRICES_FILE
    prices = read_prices(path, declared()) if path else {}
    return Tariff(prices, settings.UNPRICED_USD_PER_SECOND)


def storage(settings: Settings) -> FileStorage:
    """The storage of outputs. Raises SettingsError."""
    return _bucket(settings, settings.FILES_URL) if settings.FILES_URL else Directory(settings.files_dir)


def uploads(settings: Settings, spool: Path | None) -> UploadStorage | None:
    """The storage of uploaded images: where all instances on the ledger reach it, if there is such a place, and else
    `spool`. Raises SettingsError."""
    if settings.shares_ledger and settings.FILES_URL:
        return _bucket(settings, settings.FILES_URL).uploads(spool)
    if settings.shares_ledger and settings.FILES_SHARED:
        return UploadDirectory(settings.files_dir / "uploads")
    return None if spool is None else UploadDirectory(spool)


def uploads_dir(settings: Settings) -> Path | None:
    """The directory for images while they arrive; None if DATA_DIR is not writable, which means temporary files."""
    path = settings.DATA_DIR / "uploads"
    try:
        settings.DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        TemporaryFile(dir=path).close()
    except OSError as error:
        log.warning("uploads_dir_not_writable", path=str(path), reason=str(error))
        return None
    return path


def make_data_dir(settings: Settings) -> None:
    """Raises SettingsError if DATA_DIR is not a directory and cannot become one."""
    path = settings.DATA_DIR
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {path.resolve()} cannot be a directory: {error.strerror}.") from None


def _bucket(settings: Settings, url: str) -> "Bucket":
    """Raises SettingsError."""
    try:
        from files.bucket import Bucket
    except ImportError:
        raise SettingsError(
            "FILES_URL: the S3 client is not installed; run pip install -r requirements-s3.txt."
        ) from None
    try:
        return Bucket.from_variables(url, settings.aws)
    except ValueError as error:
        raise SettingsError(f"FILES_URL: {error}.") from None
