"""Structured logs: one event a line, JSON unless a person is watching. Secrets are never passed in.

`configuration(settings)` is a `logging.config` dictionary, so that the server's own lines look the same.
"""

import logging
import logging.config
import sys
from typing import Any

import structlog

from settings import Settings

_SHARED: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configuration(settings: Settings) -> dict[str, Any]:
    """What the logging of this process should be: everything to stderr, in the chosen form."""
    as_json = settings.LOG_FORMAT == "json" or (settings.LOG_FORMAT == "auto" and not sys.stderr.isatty())
    rendered: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        # Where `rich` is installed, its traces would print the locals, and with them tokens.
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "events": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [remove, *rendered],
                "foreign_pre_chain": _SHARED,
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "events"}},
        "root": {"handlers": ["stderr"], "level": settings.LOG_LEVEL.upper()},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True, "level": settings.LOG_LEVEL.upper()},
            "gunicorn.access": {"handlers": [], "propagate": False},
            # One line for every request that leaves would drown the rest.
            "httpx": {"level": "WARNING"},
        },
    }


def configure(settings: Settings) -> None:
    """Set up the logging of this process."""
    logging.config.dictConfig(configuration(settings))
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
