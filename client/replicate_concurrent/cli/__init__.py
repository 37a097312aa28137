"""The command `rcg`. A module of commands imports what a command needs when it runs, so that `rcg` starts quickly."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from replicate_concurrent.cli.exits import FAILED, USAGE


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and exit with its status."""
    from replicate_concurrent.errors import ApiError, ConfigError, ReplicateConcurrentError

    try:
        from replicate_concurrent.cli.app import app
        from replicate_concurrent.cli.session import Session
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("replicate_concurrent"):
            raise
        _fail(f"{missing.name} is missing: pip install 'replicate-concurrent[cli]'", USAGE)
    session = Session()
    try:
        app(list(sys.argv[1:] if arguments is None else arguments), prog_name="rcg", obj=session)
    except ApiError as error:
        session.refused(error)
        _fail(str(error), FAILED)
    except ConfigError as error:
        _fail(str(error), USAGE)
    except ReplicateConcurrentError as error:
        _fail(str(error), FAILED)
    except ValueError as error:  # of a table, a name, a date: each has a sentence
        _fail(str(error), USAGE)
    except BrokenPipeError:  # `rcg list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    sys.exit(0)


def init() -> NoReturn:
    """The command `replicate-init`."""
    main(["init", *sys.argv[1:]])


def _fail(sentence: str, status: int) -> NoReturn:
    from replicate_concurrent.cli.session import say

    say(f"rcg: {sentence}")
    sys.exit(status)
