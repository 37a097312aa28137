"""Structured logs: one event per line, as JSON unless stderr is a terminal. Callers never pass secrets in.

The service's own events are rendered and written by structlog at once. Those of libraries come through the standard
library's `logging`, which costs three times as much for a line; `configuration(settings)` gives them the same form.
"""

import logging
import logging.config
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

import structlog

from settings import Settings

OLD_NAMES = {
    "accept_failed": "connections_not_accepted",
    "cleanup_failed": "not_tidied_up",
    "connections_timed_out": "connections_given_up",
    "download_interrupted": "download_lost",
    "drain_timeout": "drain_left",
    "file_descriptor_limit_low": "file_descriptors_few",
    "files_delete_failed": "files_not_deleted",
    "files_list_failed": "files_not_listed",
    "generation_end_not_persisted": "end_not_on_record",
    "generation_not_recoverable": "row_not_understood",
    "late_prediction_found": "creation_turned_up",
    "late_prediction_search_failed": "straggler_crashed",
    "ledger_recovered": "ledger_up",
    "ledger_wal_not_saved": "ledger_log_not_saved",
    "no_proxy_entries_ignored": "no_proxy_ignored",
    "output_fetch_failed": "output_not_kept",
    "output_store_failed": "output_not_stored",
    "prediction_id_unusable": "prediction_unusable",
    "prediction_list_failed": "page_crashed",
    "progress_listener_failed": "follower_failed",
    "record_not_built": "record_not_made",
    "record_refused": "record_not_written",
    "recovery_completed": "taken_over",
    "recovery_failed": "ledger_not_taken_up",
    "replicate_webhooks_missing": "webhooks_silent",
    "retention_completed": "work_forgotten",
    "retention_failed": "work_not_forgotten",
    "unexpected_http_error": "unforeseen_http_error",
    "uploads_dir_not_writable": "uploads_elsewhere",
    "upstream_recovered": "upstream_back",
    "webhook_attempt_crashed": "webhook_not_tried",
    "webhook_outcome_not_persisted": "webhook_not_recorded",
}
"""Events that had another name up to 0.7.0. For one release, each is also logged under its old name."""

_LEVELS = ("debug", "info", "warning", "error")

Event = MutableMapping[str, Any]

_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configuration(settings: Settings) -> dict[str, Any]:
    """The logging configuration of this process: all events to stderr, in the format of LOG_FORMAT."""
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "events": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [remove, *_rendering(settings)],
                "foreign_pre_chain": _SHARED,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "events"}},
        "root": {"handlers": ["stderr"], "level": settings.LOG_LEVEL.upper()},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True, "level": settings.LOG_LEVEL.upper()},
            "gunicorn.access": {"handlers": [], "propagate": False},
            # The reason of a failure is in `secret_unreadable`. These would log each request to a vault.
            **{name: {"level": "ERROR"} for name in ("azure", "msal", "urllib3")},
        },
    }


def configure(settings: Settings) -> None:
    """Set up the logging of this process."""
    logging.config.dictConfig(configuration(settings))
    structlog.configure(
        processors=[_from(settings.LOG_LEVEL), *_SHARED, *_rendering(settings)],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )


class _Lines(structlog.WriteLogger):
    """Writes the lines of the logger `name` to stderr. A line that cannot be written is lost, as with `logging`: the
    work that logs it continues, even if the disk is full or the reader of the log has ended."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: stderr is closed
            super().msg(message)

    debug = info = warning = error = exception = critical = msg


def _from(level: str) -> Callable[..., Event]:
    """A processor that drops the events below this level."""
    lower = _LEVELS[: _LEVELS.index(level)]

    def drop_below(_logger: Any, method: str, event: Event) -> Event:
        if method in lower:
            raise structlog.DropEvent
        return event

    return drop_below


def _rendering(settings: Settings) -> list[Any]:
    """The processors that turn an event into text, in the format of LOG_FORMAT."""
    if settings.LOG_FORMAT == "json" or (settings.LOG_FORMAT == "auto" and not sys.stderr.isatty()):
        return [structlog.processors.format_exc_info, _with_old_name(structlog.processors.JSONRenderer())]
    # If `rich` is installed, its tracebacks would print locals, including tokens.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return [_with_old_name(console)]


def _with_old_name(render: Callable[..., str | bytes]) -> Callable[..., str]:
    """A renderer that adds a line under the old name of an event, if it has one."""

    def rendered(logger: Any, method: str, event: Event) -> str:
        old = OLD_NAMES.get(event["event"])
        again = {**event, "event": old}  # made before a renderer that empties `event`
        line = str(render(logger, method, event))
        return f"{line}\n{render(logger, method, again)!s}" if old else line

    return rendered
