"""The command `rcg`. A module of commands imports what a command needs when it runs, so that `rcg` starts quickly."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from replicate_concurrent.cli.exits import FAILED, OUTPUT_CLOSED, USAGE
from replicate_concurrent.version import VERSION

if TYPE_CHECKING:
    from replicate_concurrent.errors import ApiError

_OLDER = f" The service may be older than this rcg ({VERSION})."


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with its status."""
    from replicate_concurrent.errors import ApiError, ConfigError, ReplicateConcurrentError

    try:
        from replicate_concurrent.cli.app import app
        from replicate_concurrent.cli.session import OutputClosed, Session
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("replicate_concurrent"):
            raise
        _fail(f"{missing.name} is missing: pip install 'replicate-concurrent[cli]'", USAGE)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a pipe of Windows has few letters; JSON reads these escapes
            stream.reconfigure(errors="backslashreplace")
    session = Session()
    try:
        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="rcg", obj=session)
    except OutputClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
        sys.exit(OUTPUT_CLOSED)
    except ApiError as error:
        session.refused(error)
        _fail(f"{error}{_OLDER}" if _seems_older(error) else str(error), FAILED)
    except (ConfigError, ValueError) as error:  # the ValueError of a table, a name or a date is a sentence
        _fail(str(error), USAGE)
    except (ReplicateConcurrentError, OSError) as error:
        _fail(str(error), FAILED)
    sys.exit(0)


def _seems_older(error: ApiError) -> bool:
    """Whether the service lacks the whole route, or takes no key as `Authorization: Bearer`, as one of an earlier
    version does."""
    if error.status == 401:
        return error.detail.startswith("Send X-Admin-API-Key")
    return error.status == 404 and error.detail.startswith("No route")


def _fail(sentence: str, status: int) -> NoReturn:
    from replicate_concurrent.cli.session import report

    report(f"rcg: {sentence}")
    sys.exit(status)
