"""Log lines of a start: the proxy in use, and warnings about settings."""

from pathlib import Path

import structlog

from settings import SHORTEST_ADMIN_KEY, Settings

log = structlog.get_logger("service")

_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
"""Files that Docker and Podman put into a container."""


def warn(settings: Settings) -> None:
    """Log the proxy in use, and the warnings of a start: entries of NO_PROXY, weak keys, unknown settings, a data
    directory on no volume."""
    proxies = settings.proxies
    if proxy := proxies.for_url(settings.REPLICATE_BASE_URL):
        log.info("proxy_in_use", proxy=str(proxy.url))
    if proxies.proxy and proxies.unread:
        log.warning("no_proxy_entries_ignored", entries=list(proxies.unread))
    if settings.admin_key_is_weak:
        log.warning("admin_key_weak", setting="CONCURRENT_DOCKER_ADMIN_API_KEY", shortest=SHORTEST_ADMIN_KEY)
    for name, nearest in settings.unknown.items():
        log.warning("setting_unknown", name=name, nearest=nearest)
    if any(Path(mark).exists() for mark in _CONTAINER_MARKS) and not _is_on_a_volume(settings.DATA_DIR):
        log.warning("data_dir_not_a_volume", path=str(settings.DATA_DIR.resolve()))


def _is_on_a_volume(path: Path) -> bool:
    """Whether the path or a directory above it is mounted, not counting the root."""
    return any(each.is_mount() for each in (path.resolve(), *path.resolve().parents[:-1]))
