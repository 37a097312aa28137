"""What the settings name beside numbers: the models with their fallbacks, and where outputs and uploads lie."""

from pathlib import Path
from tempfile import TemporaryFile

import structlog

from catalog.fallback import read_rules
from catalog.registry import Registry
from files.directory import Directory
from files.storage import Storage
from models import declared
from settings import Settings, SettingsError

log = structlog.get_logger("service")


def check(settings: Settings) -> None:
    """What can be known to be wrong before anything is started. Raises SettingsError."""
    registry(settings)
    storage(settings)


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
