"""What the settings name beside numbers: the models with their fallbacks, and where outputs and uploads lie."""

from pathlib import Path
from tempfile import TemporaryFile

import structlog

from catalog.fallback import read_rules
from catalog.registry import Registry
from files.directory import Directory
from files.storage import Storage
from models import declared
from settings import SHORTEST_ADMIN_KEY, Settings, SettingsError

log = structlog.get_logger("service")

_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into a container."""


def check(settings: Settings) -> None:
    """What can be known to be wrong before anything is started. Raises SettingsError."""
    settings.refuse_placeholders()
    registry(settings)
    storage(settings)
    _make_data_dir(settings)


def registry(settings: Settings) -> Registry:
    """The declared models, with the operator's rules in place of their fallbacks. Raises SettingsError."""
    path = settings.FALLBACKS_FILE
    return declared(rules=read_rules(path, declared()) if path else None)


def storage(settings: Settings) -> Storage:
    """Where outputs are kept. Raises SettingsError."""
    if settings.FILES_URL is None:
        return Directory(settings.files_dir)
    try:
        from files.bucket import Bucket
    except ImportError:
        raise SettingsError(
            "FILES_URL: what talks to S3 is not installed; requirements-s3.txt names it."
        ) from None
    try:
        return Bucket.from_variables(settings.FILES_URL, settings.aws)
    except ValueError as error:
        raise SettingsError(f"FILES_URL: {error}.") from None


def uploads_dir(settings: Settings) -> Path | None:
    """Where uploaded images lie while they are needed; the system's own place if DATA_DIR cannot be written."""
    path = settings.DATA_DIR / "uploads"
    try:
        settings.DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        TemporaryFile(dir=path).close()
    except OSError as error:
        log.warning("uploads_elsewhere", path=str(path), reason=str(error))
        return None
    return path


def warn(settings: Settings) -> None:
    """Log the proxy in use, and the warnings of a start: entries of NO_PROXY, weak keys, unknown settings, a data
    directory on no volume."""
    proxies = settings.proxies
    if proxy := proxies.for_url(settings.REPLICATE_BASE_URL):
        log.info("proxy_in_use", proxy=str(proxy.url))
    if proxies.proxy and proxies.unread:
        log.warning("no_proxy_ignored", entries=list(proxies.unread))
    if settings.admin_key_is_weak:
        log.warning("admin_key_weak", setting="CONCURRENT_DOCKER_ADMIN_API_KEY", shortest=SHORTEST_ADMIN_KEY)
    for name, nearest in settings.unknown.items():
        log.warning("setting_unknown", name=name, nearest=nearest)
    if any(Path(mark).exists() for mark in _CONTAINER_MARKS) and not _is_on_a_volume(settings.DATA_DIR):
        log.warning("data_dir_not_a_volume", path=str(settings.DATA_DIR.resolve()))


def _make_data_dir(settings: Settings) -> None:
    """Raises SettingsError if DATA_DIR is not a directory and cannot become one."""
    path = settings.DATA_DIR
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR: {path.resolve()} cannot be a directory: {error.strerror}.") from None


def _is_on_a_volume(path: Path) -> bool:
    """Whether the path or a directory above it, but the root, is mounted."""
    return any(each.is_mount() for each in (path.resolve(), *path.resolve().parents[:-1]))
