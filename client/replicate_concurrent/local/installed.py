"""Finds the parts that run a service: its tree, and the packages of the extra `serve`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from replicate_concurrent.errors import NoServer

PACKAGE = Path(__file__).parent.parent

_NEEDED = ("aiohttp", "dotenv", "flask", "gunicorn", "pydantic", "replicate", "sqlalchemy", "structlog")
_NEEDED_BY_THE_SIMULATOR = ("jsonschema", "PIL")
"""Names of imports."""

WAYS = """
Three ways lead to a service:
  - RCG_URL=…, with its RCG_API_KEY, names one that runs, and so does Client(url=…)
  - pip install 'replicate-concurrent[serve]' lets scripts start one here (Linux and macOS, Python 3.11 to 3.13)
  - run one in Docker, as README.md of the service shows, and name it with `rcg init`"""

OLDEST, TOO_NEW = (3, 11), (3, 14)
"""The versions of Python that the service runs on: from the first to before the second."""


def tree() -> Path | None:
    """The directory of the service: in the wheel, or the checkout that this package is in. None if there is none."""
    places = (PACKAGE / "_service", PACKAGE.parent.parent)
    return next((each for each in places if (each / "gunicorn.conf.py").is_file()), None)


def missing(*, simulated: bool) -> list[str]:
    """Why no service can run here, in sentences; empty if one can."""
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        running = ".".join(map(str, sys.version_info[:2]))
        return [f"The service needs Python 3.11, 3.12 or 3.13; this is {running}."]
    found = []
    if not sys.executable:
        found.append("The path of this Python is unknown.")
    if tree() is None:
        found.append("This package was built without the service.")
    needed = _NEEDED + (_NEEDED_BY_THE_SIMULATOR if simulated else ())
    if absent := [name for name in needed if find_spec(name) is None]:
        found.append(f"The extra `serve` is not installed: {', '.join(absent)} cannot be imported.")
    return found


def tree_or_raise(*, simulated: bool) -> Path:
    """The directory of the service. Raises NoServer with the ways to a service if none can run here."""
    found, why = tree(), missing(simulated=simulated)
    if found is None or why:
        raise NoServer(f"{' '.join(why)}{WAYS}")
    return found
